"""Tests that sentences rank nothing that is equal, and compare nothing that is alone or missing."""

from __future__ import annotations

import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports import dataset_charts, score_charts
from compact_hf.reports.dataset_charts import RejectCount, Series, plot_bars
from compact_hf.reports.pair_charts import PAIRS, plot_accuracy_by_pair
from compact_hf.reports.ranking import find_extremes, join_names
from compact_hf.reports.score_charts import Interval, ModelDifference, ScoreRow

EVERY_ONE = {(name,): 3 for name in CAPABILITIES}
EVERY_PAIR = dict.fromkeys(PAIRS, 3)
OFTEN = {("color", "shape"): 9, ("color", "counting"): 9}


def test_extremes_name_all_that_are_tied() -> None:
    extremes = find_extremes({"a": 2, "b": 3, "c": 3, "d": 2})
    assert extremes is not None
    assert (extremes.highest, extremes.lowest) == (("b", "c"), ("a", "d"))


@pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "b": 1}])
def test_without_a_difference_there_are_no_extremes(values: dict[str, float]) -> None:
    assert find_extremes(values) is None


@pytest.mark.parametrize(
    ("names", "text"), [("a", "a"), ("ab", "a and b"), ("abcd", "a, b, c and d"), ("abcde", "a, b, c and 2 others")]
)
def test_long_lists_of_names_are_cut(names: str, text: str) -> None:
    assert join_names(names) == text


def bars(*values: float) -> str:
    names = [f"type {number}" for number in range(len(values))]
    series = [Series("it", dict(zip(names, values, strict=True)))]
    return plot_bars(series, names, name="it", title="It", row_header="type").alt


def pair_accuracy(*values: float, n: int = 90) -> str:
    scores = {pair: (n, Interval(value, 0.0, 1.0)) for pair, value in zip(PAIRS, values, strict=False)}
    return plot_accuracy_by_pair(scores, model="it", name="it").alt


def rejects(*counts: int) -> str:
    return dataset_charts.plot_rejects(
        [RejectCount(f"reason {index}", count) for index, count in enumerate(counts)]
    ).alt


@pytest.mark.parametrize(
    ("alt", "end"),
    [
        (lambda: bars(0.5, 0.5, 0.5), "A bar chart of 3 values. it: 50.0% for each."),
        (lambda: bars(0.5), "A bar chart of 1 value. it: 50.0%."),
        (lambda: bars(0.5, 0.2, 0.5), "it: highest 50.0% for type 0 and type 2, lowest 20.0% for type 1."),
        (lambda: pair_accuracy(0.5, 0.5), "Accuracy is 50% for each of the latter."),
        (lambda: pair_accuracy(0.5), "have questions, 1 have 10 or more. Accuracy is 50% for the latter."),
        (lambda: pair_accuracy(0.5, 0.5, n=1), "have questions, 0 have 10 or more."),
        (lambda: dataset_charts.plot_coverage(EVERY_ONE).alt, "Each is needed by the same number of questions, 3."),
        (lambda: dataset_charts.plot_coverage({}).alt, "Each is needed by the same number of questions, 0."),
        (lambda: dataset_charts.plot_cooccurrence(EVERY_PAIR).alt, "45 occur, each in 3 questions."),
        (lambda: dataset_charts.plot_cooccurrence({}).alt, "0 occur."),
        (
            lambda: dataset_charts.plot_cooccurrence(OFTEN).alt,
            "2 occur, most often color with shape and color with counting (9 questions).",
        ),
        (lambda: rejects(4, 4), "8 rejects for 2 reasons."),
        (lambda: rejects(4), "4 rejects for 1 reason."),
        (lambda: rejects(4, 2, 4), "10 rejects for 3 reasons, most often: reason 0 and reason 2."),
        (lambda: score_charts.plot_loss([(1, 1.0), (9, 2.0)]).alt, "The loss is 1.00 at step 1 and 2.00 at step 9."),
        (lambda: score_charts.plot_loss([(1, 1.0)]).alt, "A line chart of 1 logged step. The loss is 1.00 at step 1."),
    ],
)
def test_the_text_of_a_chart_ranks_only_what_differs(alt: object, end: str) -> None:
    assert callable(alt)
    assert alt().endswith(end)


@pytest.mark.usefixtures("every_plot_drawn")
def test_a_value_outside_its_interval_is_drawn() -> None:
    """Rounding, or resampling few images, can give such an interval; matplotlib refuses negative lengths."""
    for share in (Interval(0.5, 0.6, 0.7), Interval(0.5, 0.3, 0.4), Interval(0.1 + 0.2, 0.3 + 1e-16, 0.3)):
        assert score_charts.plot_differences([ModelDifference("one", "other", 9, share, 0.5)]).svg()
        assert score_charts.plot_accuracy([ScoreRow("all", 9, 0.2, (share,))], ["one"], name="a", title="A").svg()
