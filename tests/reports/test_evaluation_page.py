"""Tests the evaluation page: self-contained, with the right numbers, for one model and for many."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from compact_hf.reports.evaluation_page import EvaluationReport, render_evaluation
from compact_hf.reports.pair_charts import MIN_N, plot_accuracy_by_pair
from compact_hf.reports.score_charts import Interval, ModelDifference, describe_differences, plot_accuracy
from compact_hf.reports.theme import MAX_MODELS, model_style

from .pages import ParsedPage
from .samples import make_evaluation, make_score


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return make_evaluation(2)


@pytest.fixture(scope="module")
def text(report: EvaluationReport) -> str:
    return render_evaluation(report)


def test_it_needs_no_network_and_no_script(text: str) -> None:
    page = ParsedPage(text)
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(link.startswith("#") for link in (*page.values("href"), *page.values("xlink:href")))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", text)


def test_tags_are_closed_links_lead_somewhere_and_headings_step_down(text: str) -> None:
    page = ParsedPage(text)
    assert page.open_tags == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.values("href") + page.values("xlink:href")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_that_a_model_or_a_data_set_says_becomes_markup(text: str) -> None:
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 12


def test_the_same_report_gives_the_same_page(report: EvaluationReport, text: str) -> None:
    assert render_evaluation(report) == text


@pytest.mark.parametrize(("models", "plots"), [(1, 2), (2, 2 + 1), (MAX_MODELS + 1, 2 * 2 + 1)])
def test_any_number_of_models_has_its_plots(models: int, plots: int) -> None:
    page = ParsedPage(render_evaluation(make_evaluation(models)))
    assert [tag for tag, _ in page.tags].count("figure") == plots
    assert all(attrs["aria-label"] for tag, attrs in page.tags if tag == "figure")


@pytest.mark.parametrize(
    ("models", "headings"), [(1, ["Wrong", "Right"]), (3, ["Some right, some wrong", "All wrong", "All right"])]
)
def test_examples_stand_under_what_became_of_them(models: int, headings: list[str]) -> None:
    assert re.findall(r'<h3 class="outcome">(.*?)</h3>', render_evaluation(make_evaluation(models))) == headings


@pytest.mark.parametrize(
    ("missing", "anchor"),
    [({"comparisons": ()}, "compared"), ({"sections": ()}, "by-k"), ({"published": None}, "published")],
)
def test_a_part_without_figures_is_left_out_with_its_link(
    report: EvaluationReport, text: str, missing: dict[str, Any], anchor: str
) -> None:
    without = ParsedPage(render_evaluation(replace(report, examples=(), **missing)))
    assert f'id="{anchor}"' in text
    assert not {anchor, "examples"} & set(without.values("id"))
    assert not {f"#{anchor}", "#examples"} & set(without.values("href"))


def test_a_question_that_was_asked_without_an_image_is_shown_without_one(report: EvaluationReport) -> None:
    text = render_evaluation(replace(report, examples=[replace(item, image=None) for item in report.examples]))
    assert "<img" not in text
    assert text.count("<article") == len(report.examples)


@pytest.mark.parametrize(
    ("share", "p", "said"),
    [
        (Interval(0.041, 0.012, 0.07), 0.004, "B is better than A on these questions: +4.1 points (+1.2 to +7.0)."),
        (Interval(-0.041, -0.07, -0.012), 0.004, "A is better than B on these questions: +4.1 points (+1.2 to +7.0)."),
        (Interval(0.005, -0.02, 0.031), 0.7, "No clear difference between B and A: +0.5 points (−2.0 to +3.1)."),
        (Interval(0.02, 0.001, 0.04), 0.06, "No clear difference between B and A: +2.0 points (+0.1 to +4.0)."),
        (Interval(-0.02, -0.04, 0.001), 0.01, "No clear difference between B and A: −2.0 points (−4.0 to +0.1)."),
    ],
)
def test_better_is_said_only_where_the_interval_and_the_test_say_so(share: Interval, p: float, said: str) -> None:
    assert describe_differences([ModelDifference("A", "B", 1200, share, p)]) == (said,)


@pytest.mark.usefixtures("every_plot_drawn")
def test_a_pair_with_few_questions_is_written_and_not_colored() -> None:
    share = Interval(0.5, 0.2, 0.8)

    def count_colored(n: int) -> int:
        svg = plot_accuracy_by_pair({("color", "shape"): (n, share)}, model="M", name="pairs").svg()
        assert f">{n}</text>" in svg
        return svg.count("opacity: 0.325")

    # The legend has a cell of 50%, too.
    assert (count_colored(MIN_N - 1), count_colored(MIN_N)) == (1, 2)


def test_models_of_one_plot_are_told_apart_without_color() -> None:
    styles = [model_style(index) for index in range(MAX_MODELS)]
    assert len({style["marker"] for style in styles}) == MAX_MODELS
    assert all((current["color"] != following["color"]) for current, following in pairwise(styles))


@pytest.mark.parametrize("models", [1, 2, 3, MAX_MODELS])
def test_names_and_legend_stay_inside_the_figure(models: int) -> None:
    names = [f"an-organization/a-model-with-quite-a-long-name-{index}" for index in range(models)]
    figure = plot_accuracy([make_score("scene_understanding", 123456, models)], names, name="a", title="A").figure
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 < box.x1 <= width + 0.01
    assert -0.01 <= box.y0 < box.y1 <= height + 0.01
