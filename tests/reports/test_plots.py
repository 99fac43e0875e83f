"""Tests plots: the same data gives the same file, tables have all numbers, and gaps and markup are shown."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.reports import dataset_charts, score_charts
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.demo_page import DemoReport, make_plots
from compact_hf.reports.figure import Plot
from compact_hf.reports.score_charts import Interval, ScoreRow
from compact_hf.reports.theme import TONES

pytestmark = pytest.mark.usefixtures("every_plot_drawn")

_COMBINATIONS = st.dictionaries(
    st.sets(st.sampled_from(sorted(CAPABILITIES)), min_size=1, max_size=4).map(canonicalize),
    st.integers(1, 50),
    max_size=12,
)


def rows_by_label(plot: Plot) -> dict[str, tuple[str, ...]]:
    """Return the rows of the table by their first cell."""
    return {row[0]: row[1:] for row in plot.table.rows}


def svg_texts(svg: str) -> list[str]:
    """Return all texts in an SVG."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def every(report: DemoReport) -> tuple[Plot, ...]:
    return make_plots(report)


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes(every: tuple[Plot, ...], report: DemoReport) -> None:
    again = make_plots(report)
    assert [plot.svg() for plot in every] == [plot.svg() for plot in again]
    assert [plot.png(dpi=20) for plot in every] == [plot.png(dpi=20) for plot in again]


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "from compact_hf.reports.dataset_charts import plot_coverage\n"
        "print(plot_coverage({('color', 'shape'): 3, ('color',): 2}).svg(), end='')"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert output == dataset_charts.plot_coverage({("color", "shape"): 3, ("color",): 2}).svg()


def test_every_plot_has_words_and_a_regular_table(every: tuple[Plot, ...]) -> None:
    assert len({plot.name for plot in every}) == len(every) == 7
    for plot in every:
        assert plot.title
        assert re.search(r"\d", plot.alt)
        assert plot.table.rows
        assert {len(row) for row in plot.table.rows} == {len(plot.table.head)}


def test_png_and_svg_are_what_they_say(every: tuple[Plot, ...]) -> None:
    for plot, dpi in zip(every, (200, *[20] * (len(every) - 1)), strict=True):
        with Image.open(io.BytesIO(plot.png(dpi=dpi))) as image:
            assert (image.format, image.width) == ("PNG", 4.5 * dpi)
        assert svg_texts(plot.svg())


def test_inline_plots_leave_color_and_ids_to_the_page(every: tuple[Plot, ...]) -> None:
    pages = "".join(plot.inline() for plot in every)
    ids = re.findall(r' id="([^"]*)"', pages)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", pages)) <= set(ids)
    assert not [light for light, _ in TONES.values() if light in pages]
    assert "<style" not in pages
    assert "<?xml" not in pages


@settings(max_examples=8)
@given(_COMBINATIONS)
def test_tables_count_what_a_plain_count_counts(accepted: dict[tuple[str, ...], int]) -> None:
    repeated = [combination for combination, count in accepted.items() for _ in range(count)]
    by_k = rows_by_label(dataset_charts.plot_k_distribution(accepted))
    assert by_k["all"][0] == f"{len(repeated):,}"
    for k, number in Counter(map(len, repeated)).items():
        assert by_k[str(k)][0] == str(number)
    by_name = rows_by_label(dataset_charts.plot_coverage(accepted))
    by_pair = rows_by_label(dataset_charts.plot_cooccurrence(accepted))
    for name in CAPABILITIES:
        assert by_name[name.replace("_", " ")][-1] == str(sum(name in combination for combination in repeated))
    for first, second in combinations(CAPABILITIES, 2):
        pair_count = sum(first in combination and second in combination for combination in repeated)
        assert by_pair[f"{first} + {second}".replace("_", " ")] == (str(pair_count),)


def test_a_capability_that_nothing_needs_is_shown_with_nought() -> None:
    plot = dataset_charts.plot_coverage({("color",): 4})
    assert "object interaction" in svg_texts(plot.svg())
    assert rows_by_label(plot)["object interaction"] == ("0", "0")


def test_means_of_other_data_are_named_beside_our_own() -> None:
    texts = svg_texts(
        dataset_charts.plot_k_distribution(
            {("color",): 1, ("color", "shape"): 1}, means=dataset_charts.PAPER_MEAN_K
        ).svg()
    )
    assert {"mean k 1.50, here", "mean k 1.95, LLaVA-665K (paper)", "mean k 2.89, COMPACT (paper)"} <= set(texts)


def test_planted_faults_are_told_apart_from_rejects() -> None:
    plot = dataset_charts.plot_rejects(
        [RejectCount("repeats another", 9), RejectCount("low confidence", 12, injected_faults=13, caught_faults=11)]
    )
    assert rows_by_label(plot)["low confidence"] == ("12", "13", "11")
    assert rows_by_label(plot)["repeats another"] == ("9", "–", "–")
    assert "Of 13 planted faults, 11 were rejected." in plot.alt
    assert {"rejected", "planted"} <= set(svg_texts(plot.svg()))


def test_without_planted_faults_nothing_is_said_of_them() -> None:
    plot = dataset_charts.plot_rejects([RejectCount("repeats another", 9)])
    assert plot.table.head == ("reason", "rejected")
    assert "planted" not in plot.alt + plot.title + plot.svg()


def test_a_reason_with_markup_or_a_dollar_stays_words() -> None:
    text = " ".join(svg_texts(dataset_charts.plot_rejects([RejectCount("<b>a</b> & $x^2$", 1)]).svg()))
    assert "<b>a</b> & $x^2$" in text


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(0.6, 0.5, 0.7), "after 60%, above it"),
        (Interval(0.2, 0.1, 0.3), "after 20%, below it"),
        (Interval(0.45, 0.35, 0.55), "after 45%, not clearly different from it"),
    ],
)
def test_only_a_whole_interval_above_the_majority_is_called_above(interval: Interval, said: str) -> None:
    (sentence,) = score_charts.describe_scores(
        [ScoreRow("k = 2", 90, 0.4, (Interval(0, 0, 0.1), interval))], ("before", "after")
    )
    assert said in sentence
    assert "n = 90; the majority answer gets 40% right" in sentence
    assert "before 0%, below it" in sentence


@pytest.mark.parametrize(("highest", "limit"), [(0.05, 20), (0.3, 40), (0.58, 70), (0.97, 100), (1.0, 100)])
def test_the_axis_of_accuracy_ends_beyond_the_highest_interval(highest: float, limit: int) -> None:
    score = ScoreRow("k = 1", 90, 0.02, (Interval(0.03, 0.01, highest),))
    (axes,) = score_charts.plot_accuracy([score], ["student"], name="accuracy", title="Accuracy").figure.axes
    assert axes.get_xlim() == (0, limit)


def test_the_loss_table_keeps_the_first_and_the_last_point_of_a_long_run() -> None:
    rows = score_charts.plot_loss([(step, 2.0) for step in range(10, 5010, 10)]).table.rows
    assert (rows[0][0], rows[-1][0], len(rows)) == ("10", "5,000", 8)


def test_coverage_puts_the_many_ks_of_judged_data_together_and_leaves_out_those_that_need_nothing() -> None:
    names = tuple(CAPABILITIES)
    plot = dataset_charts.plot_coverage({names[:k]: 10 + k for k in range(8)})
    assert plot.table.head == ("capability", "k = 1", "k = 2", "k = 3", "k = 4", "k ≥ 5", "all")
    assert plot.table.rows[0] == ("color", "11", "12", "13", "14", "48", "98")
    assert dataset_charts.plot_coverage({names[:5]: 1}).table.head == ("capability", "k = 5", "all")
