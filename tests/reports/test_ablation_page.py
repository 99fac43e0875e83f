"""Tests the page of an ablation: tables have all numbers, and better or worse is only said if the interval shows it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from compact_hf.reports.ablation_page import (
    AblationReport,
    GroupScores,
    Spread,
    VariantData,
    plot_accuracy_by_variant,
    plot_variant_differences,
    render_ablation,
)

from .samples import HOSTILE


def make_spread(mean: float) -> Spread:
    return Spread(mean, mean - 0.05, mean + 0.05, (mean - 0.02, mean + 0.02))


def make_group(label: str) -> GroupScores:
    accuracy = {"k1": make_spread(0.2), "k12": make_spread(0.22), "k123": make_spread(0.4), "noise": make_spread(0.1)}
    difference = {name: make_spread(score.mean - 0.2) for name, score in accuracy.items() if name != "k1"}
    return GroupScores(label, 300, 0.25, accuracy, difference)


REPORT = AblationReport(
    dataset="reserved scenes",
    images=300,
    base="aligned",
    matching_version="2",
    recipe="tiny-cpu",
    seeds=(0, 1),
    baseline="k1",
    variants=tuple(
        VariantData(name, "500 (500 of k = 1)", "190", "190", "48", "1.9") for name in ("k1", "k12", "k123", "noise")
    ),
    groups=(make_group("all"), make_group("k = 1")),
)


def test_every_number_that_is_drawn_stands_in_the_table() -> None:
    accuracy, differences = plot_accuracy_by_variant(REPORT), plot_variant_differences(REPORT)
    assert accuracy.table.head == ("questions", "n", "most frequent answer", "k1", "k12", "k123", "noise")
    assert accuracy.table.rows[0][:5] == ("all", "300", "25.0%", "20.0% (15.0%–25.0%)", "22.0% (17.0%–27.0%)")
    assert differences.table.rows[1] == (
        "k = 1",
        "+2.0 (−3.0 to +7.0)",
        "+20.0 (+15.0 to +25.0)",
        "−10.0 (−15.0 to −5.0)",
    )


def test_better_and_worse_are_said_only_where_the_whole_interval_is() -> None:
    page = render_ablation(REPORT)
    for sentence in (
        "On all questions (n = 300): no clear difference between k12 and k1",
        "At k = 1 (n = 300): k123 is better than k1",
        "At k = 1 (n = 300): noise is worse than k1",
    ):
        assert sentence in page


@pytest.mark.parametrize(("seeds", "told"), [((0,), "There is only one seed"), ((0, 1), "With only 2 seeds")])
def test_the_page_says_what_its_seeds_are_worth(seeds: tuple[int, ...], told: str) -> None:
    assert told in render_ablation(replace(REPORT, seeds=seeds))


def test_names_are_text_and_no_markup() -> None:
    variants = tuple(replace(variant, variant=HOSTILE) for variant in REPORT.variants)
    page = render_ablation(replace(REPORT, variants=variants, dataset=HOSTILE, base=HOSTILE))
    assert "<script" not in page


def test_the_same_report_gives_the_same_bytes_and_any_number_of_variants_fits() -> None:
    assert render_ablation(REPORT) == render_ablation(REPORT)
    spreads = {f"no-capability-{number:02}": make_spread(0.2) for number in range(11)}
    groups = tuple(replace(group, accuracy=spreads, difference=spreads) for group in REPORT.groups)
    small, large = (
        Image.open(io.BytesIO(plot_accuracy_by_variant(report).png()))
        for report in (REPORT, replace(REPORT, groups=groups))
    )
    assert small.width == large.width
    assert large.height > small.height
