"""Tests the analysis page and its plots: complete, valid and safe HTML; two datasets differ in more than color."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.analysis_page import AnalysisPage, Findings, PlotBlock, Section, TableBlock, render_analysis
from compact_hf.reports.dataset_charts import Series, plot_bars, plot_lengths
from compact_hf.reports.figure import Table
from compact_hf.reports.page_parts import Example, Fact
from tests.reports.pages import ParsedPage
from tests.reports.samples import HOSTILE

FIRST = Series("one", {"color": 0.5, "counting": 0.25})
SECOND = Series(HOSTILE, {"color": 0.125})


def make_page(*series: Series) -> AnalysisPage:
    bar_plot = plot_bars(
        series, list(CAPABILITIES), name="shares", title=f"Shares of {HOSTILE}", row_header="capability"
    )
    length_plot = plot_lengths([(dataset.label, {1: 5, 9: 1}) for dataset in series], name="words", title="Words")
    return AnalysisPage(
        title=" beside ".join(dataset.label for dataset in series),
        lead="Made up.",
        facts=(Fact("questions", "5"),) if len(series) == 1 else (),
        summary_table=Table(("figure", "a", "b"), (("questions", "5", "6"),)) if len(series) > 1 else None,
        findings=tuple(Findings(dataset.label, (f"It is {HOSTILE}.",)) for dataset in series),
        sections=(
            Section(
                "shares",
                "Shares",
                ("How to read it.",),
                (PlotBlock(bar_plot), TableBlock("More", Table(("a",), (("b",),)))),
            ),
            Section("words", "Words", (), (PlotBlock(length_plot, is_folded=True),)),
        ),
        command=Example("Again:", "compact analyze DATASET"),
    )


@pytest.mark.parametrize("series", [(FIRST,), (FIRST, SECOND)])
def test_the_page_needs_nothing_is_closed_and_its_links_lead_somewhere(series: tuple[Series, ...]) -> None:
    text = render_analysis(make_page(*series))
    parsed = ParsedPage(text)
    assert parsed.open_tags == []
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in parsed.tags}
    assert not re.search(r"url\((?!#)|@import", text)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in parsed.values("href") + parsed.values("xlink:href")} <= set(ids)
    assert {"glance", "shares", "words", "again"} <= set(ids)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tables = [tag for tag, _ in parsed.tags].count("table")
    assert tables == (3 if len(series) == 1 else 4), "a table beside each plot, and those that stand alone"
    assert "<script" not in text


@pytest.mark.usefixtures("every_plot_drawn")
def test_bars_show_every_number_with_what_is_missing_as_nothing() -> None:
    plot = plot_bars([FIRST, SECOND], ["color", "counting"], name="shares", title="Shares", row_header="capability")
    assert plot.table.head == ("capability", "one", HOSTILE)
    assert plot.table.rows == (("color", "50.0%", "12.5%"), ("counting", "25.0%", "0.0%"))
    assert "one: highest 50.0% for color, lowest 25.0% for counting." in plot.alt
    labels = re.findall(r">([\d.]+%)<", plot.svg())
    assert sorted(labels) == ["0.0%", "12.5%", "25.0%", "50.0%"]


@pytest.mark.usefixtures("every_plot_drawn")
def test_two_data_sets_differ_in_more_than_color() -> None:
    single, paired = (
        plot_bars(series, ["color"], name="x", title="x", row_header="x") for series in ([FIRST], [FIRST, SECOND])
    )
    assert "<pattern" not in single.svg()
    assert "<pattern" in paired.svg(), "the second one is hatched"
    svg = plot_lengths([("one", {3: 1}), ("other", {4: 1})], name="words", title="Words").svg()
    assert "stroke-dasharray" in svg


def test_notes_and_a_unit_head_the_columns_of_one_data_set() -> None:
    plot = plot_bars(
        [FIRST], ["color"], name="x", title="x", row_header="word", value_header="bits", notes={"questions": ["7"]}
    )
    assert (plot.table.head, plot.table.rows) == (("word", "bits", "questions"), (("color", "50.0%", "7"),))


def test_lengths_add_up_and_keep_what_lies_beyond_the_axis() -> None:
    counts = dict.fromkeys(range(1, 100), 10) | {5000: 1}
    plot = plot_lengths([("one", counts)], name="words", title="Words")
    shares = [float(share.rstrip("%")) for _, share in plot.table.rows]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert plot.table.rows[-1][0].endswith("or more")
    assert "half of them have at most 50" in plot.alt
    assert len(plot.table.rows) <= 26
    short = plot_lengths([("one", {1: 3, 2: 1})], name="words", title="Words")
    assert short.table.rows == (("1", "75.0%"), ("2", "25.0%"))
