"""Tests that the page of an evaluation agrees with the predictions, and selects examples by a fixed rule."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compact_hf.evaluation.report import MAX_EXAMPLES, build_report, select_examples, write_report
from compact_hf.evaluation.results_directory import Evaluation
from compact_hf.evaluation.significance import compare
from compact_hf.evaluation.tasks.compact.records import CompactPrediction as Prediction
from compact_hf.reports.answered_questions import get_outcome
from tests.evaluation.samples import COMPACT, score

CAPABILITIES = ("color", "shape", "counting")


def make_prediction(number: int, right: bool) -> Prediction:
    """Return a prediction for question `number`. There are two questions per image, with k = 1, 2 and 3 in turn."""
    k = 1 + number % 3
    return Prediction(
        id=f"q{number}",
        picture=f"p{number // 2}",
        k=k,
        capabilities=CAPABILITIES[:k],
        question=f"What is number {number}?",
        answers=("red", "crimson"),
        prediction="crimson" if right else "blue",
        right=right,
    )


BASE = [make_prediction(number, number % 4 == 0) for number in range(120)]
TUNED = [make_prediction(number, number % 4 < 3) for number in range(120)]


def make_image(id: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (int(id[1:]), 0, 0)).save(file, format="PNG")
    return file.getvalue()


def make_evaluation(*models: tuple[str, list[Prediction]]) -> Evaluation:
    answers = [predictions for _, predictions in models]
    return Evaluation(
        task="compact",
        task_version="1",
        dataset="made-up questions",
        matching="exact",
        matching_version="2",
        results=tuple(score(predictions, model=name, dataset="made-up questions") for name, predictions in models),
        slugs=tuple(name for name, _ in models),
        comparisons=tuple(compare(predictions, answers[0]) for predictions in answers[1:]),
        notes=("3 rows were left out.",),
        read_image=make_image,
    )


def index_by_id(*answers: list[Prediction]) -> list[dict[str, Prediction]]:
    return [{prediction.id: prediction for prediction in predictions} for predictions in answers]


def test_the_page_holds_the_figures_and_both_models_answers(tmp_path: Path) -> None:
    for name, predictions in (("base", BASE), ("tuned", TUNED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text(
            "".join(f"{prediction.to_line()}\n" for prediction in predictions)
        )
    evaluation = make_evaluation(("base", BASE), ("tuned", TUNED))
    path = write_report(
        evaluation, tmp_path, task=COMPACT, command="compact evaluate base tuned", settings={"cut after": 16}
    )
    text = path.read_text(encoding="utf-8")
    low, high = evaluation.results[1].overall.low, evaluation.results[1].overall.high
    assert path == tmp_path / "report.html"
    assert f"95% interval {low:.1%} to {high:.1%}; below the majority answer" in text
    assert "of each k, chosen in hindsight" in text
    for expected in ("25.0%", "75.0%", "3 rows were left out.", "compact evaluate base tuned", "cut after"):
        assert expected in text
    assert "tuned is better than base on these questions: +50.0 points (+" in text
    assert text.count("<article") == MAX_EXAMPLES
    assert text.count('<span class="model">tuned</span>') == MAX_EXAMPLES
    assert "right answer: <b>red</b>" in text, "the first of several right answers is shown"


def test_a_comparison_tells_how_the_further_model_does_against_the_first() -> None:
    report = build_report(
        make_evaluation(("tuned", TUNED), ("base", BASE)),
        index_by_id(TUNED, BASE),
        task=COMPACT,
        command="",
        settings={},
    )
    (comparison,) = report.comparisons
    assert (comparison.baseline, comparison.model, comparison.n) == ("tuned", "base", 120)
    assert comparison.share.low <= comparison.share.value == -0.5 <= comparison.share.high < 0


def test_every_score_has_each_models_share_in_order() -> None:
    evaluation = make_evaluation(("base", BASE), ("tuned", TUNED))
    report = build_report(evaluation, index_by_id(BASE, TUNED), task=COMPACT, command="", settings={})
    assert [(fact.label, fact.value) for fact in report.headline[:2]] == [("base", "25.0%"), ("tuned", "75.0%")]
    by_k, by_capability, by_pair = report.sections
    assert [row[:2] for row in by_k.plots[0].table.rows] == [
        ("all", "120"),
        ("k = 1", "40"),
        ("k = 2", "40"),
        ("k = 3", "40"),
    ]
    assert by_k.plots[0].table.rows[0][3:] == ("25.0% (18–33)", "75.0% (67–82)")
    assert [row[0] for row in by_capability.plots[0].table.rows] == list(CAPABILITIES)
    assert [plot.title.rpartition(" ")[2] for plot in by_pair.plots] == ["base", "tuned"]
    assert {row[0]: row[1] for row in by_pair.plots[0].table.rows} == {
        "color + shape": "80",
        "color + counting": "40",
        "shape + counting": "40",
    }
    assert [fact.value for fact in report.facts] == ["120", "60", "1"]


def test_examples_are_spread_over_k_and_over_what_became_of_them() -> None:
    answers = index_by_id(BASE, TUNED)
    ids = select_examples(answers, MAX_EXAMPLES, get_stratum=COMPACT.get_stratum)
    assert len(set(ids)) == MAX_EXAMPLES
    assert Counter(answers[0][id].k for id in ids) == {1: 4, 2: 4, 3: 4}
    assert Counter(get_outcome([predictions[id].right for predictions in answers]) for id in ids) == {
        "differ": 4,
        "wrong": 4,
        "right": 4,
    }
    assert len({answers[0][id].picture for id in ids}) == MAX_EXAMPLES, "no image is shown twice while others are left"


@given(st.permutations(range(40)), st.integers(0, 60))
def test_the_choice_depends_on_no_order_and_never_exceeds_what_there_is(order: list[int], count: int) -> None:
    base, tuned = index_by_id([BASE[number] for number in order], [TUNED[number] for number in order])
    ids = select_examples([base, tuned], count, get_stratum=COMPACT.get_stratum)
    assert ids == select_examples(index_by_id(BASE[:40], TUNED[:40]), count, get_stratum=COMPACT.get_stratum)
    assert len(set(ids)) == len(ids) == min(count, 40)


@pytest.mark.parametrize("right", [True, False])
def test_one_model_that_is_always_right_or_wrong_still_has_examples(right: bool) -> None:
    predictions = [make_prediction(number, right) for number in range(5)]
    report = build_report(
        make_evaluation(("only", predictions)), index_by_id(predictions), task=COMPACT, command="", settings={}
    )
    assert len(report.examples) == 5
    assert {example.outcome for example in report.examples} == {"right" if right else "wrong"}
    assert report.comparisons == ()
