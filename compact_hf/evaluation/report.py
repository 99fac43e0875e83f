"""The page of a judging: `Evaluation` in, report.html out, which reports/evaluation_page.py lays out.

compact evaluate MODEL... DATASET --out DIR      leaves DIR/report.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.results_folder import Evaluation
from compact_hf.evaluation.scoring import TOLERANCE, Matching, Prediction
from compact_hf.evaluation.scoring import Score as ModelScore
from compact_hf.records import digest
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.evaluation_page import (
    OUTCOMES,
    AnsweredQuestion,
    EvaluationReport,
    ModelAnswer,
    Outcome,
    get_outcome,
    render_evaluation,
)
from compact_hf.reports.pair_charts import Pair
from compact_hf.reports.score_charts import Interval, ModelDifference, ScoreRow

REPORT_FILE: Final = "report.html"
MAX_EXAMPLES: Final = 12
_EXACT_TEXT: Final = (
    "An answer counts as right where it is the same as a right one, once case, articles, punctuation, number words and "
    "plurals are evened out"
)
_MATCHING_TEXT: Final[Mapping[Matching, str]] = {
    "exact": f"{_EXACT_TEXT}.",
    "relaxed": f"{_EXACT_TEXT}; or where it is a number within {TOLERANCE:.0%} of a right one.",
}


def write_report(evaluation: Evaluation, out: Path, *, command: str, settings: Mapping[str, object]) -> Path:
    """Write the page of a judging into its folder, and return its path.

    Args:
        evaluation (`Evaluation`): the scores.
        out (`Path`): the judging's folder, with each model's predictions.
        command (`str`): what makes all of it again.
        settings (`Mapping[str, object]`): name -> value of what else the answers depend on, versions included.

    Raises:
        EvaluationError: the predictions cannot be read.
        OSError: the page cannot be written.
    """
    answers = [
        {prediction.id: prediction for prediction in read_predictions(out / directory)}
        for directory in evaluation.slugs
    ]
    path = out / REPORT_FILE
    path.write_text(
        render_evaluation(build_report(evaluation, answers, command=command, settings=settings)), encoding="utf-8"
    )
    return path


def build_report(
    evaluation: Evaluation, answers: Sequence[Mapping[str, Prediction]], *, command: str, settings: Mapping[str, object]
) -> EvaluationReport:
    """Return what the page tells.

    Args:
        answers (`Sequence[Mapping[str, Prediction]]`): of each model, by the question's id.
        command, settings: as in `write_report`.
    """
    results = evaluation.results
    first = results[0]
    models = tuple(item.model for item in results)
    return EvaluationReport(
        dataset=evaluation.dataset,
        facts=_facts(tuple(answers[0].values())),
        models=models,
        overall=chart_score("all", *(item.overall for item in results)),
        by_k=tuple(chart_score(f"k = {k}", *(item.by_k[k] for item in results)) for k in first.by_k),
        by_capability=tuple(
            chart_score(name, *(item.by_capability[name] for item in results)) for name in first.by_capability
        ),
        by_pair={_split_pair(key): chart_score(key, *(item.by_pair[key] for item in results)) for key in first.by_pair},
        comparisons=_differences(evaluation),
        examples=[
            _build_example(evaluation, models, [item[id] for item in answers])
            for id in select_examples(answers, MAX_EXAMPLES)
        ],
        selection_rule=_describe_selection(len(answers[0]), len(models)),
        matching=_MATCHING_TEXT[evaluation.matching],
        notes=evaluation.notes,
        settings=tuple((name, f"{value}") for name, value in settings.items()),
        command=Example("The same command goes on where it was stopped; with another model it adds that one.", command),
    )


def chart_score(label: str, *scores: ModelScore) -> ScoreRow:
    """Return one line of a plot from each model's score of the same questions."""
    intervals = tuple(Interval(score.accuracy, score.low, score.high) for score in scores)
    return ScoreRow(label, scores[0].n, scores[0].majority.accuracy, intervals)


def select_examples(answers: Sequence[Mapping[str, Prediction]], count: int) -> list[str]:
    """Return the ids of at most `count` questions to show, by a rule that nobody's eye has a part in.

    Round by round one of each k is taken, by turns one that some models get right, one that none does and one that all
    do, as far as there are such; of those the one whose id has the smallest hash, if possible of a new image.
    """
    pending: dict[int | None, dict[Outcome, list[Prediction]]] = defaultdict(lambda: {name: [] for name in OUTCOMES})
    for id in sorted(answers[0], key=digest):
        prediction = answers[0][id]
        pending[prediction.k][get_outcome([item[id].right for item in answers])].append(prediction)
    selected: list[str] = []
    used_images: set[str] = set()
    round_number = 0
    while len(selected) < count and any(
        candidates for outcomes in pending.values() for candidates in outcomes.values()
    ):
        for position, k in enumerate(sorted(pending, key=lambda k: (k is None, k))):
            order = [OUTCOMES[(round_number + position + step) % len(OUTCOMES)] for step in range(len(OUTCOMES))]
            candidates = next((pending[k][outcome] for outcome in order if pending[k][outcome]), None)
            if candidates and len(selected) < count:
                item = next(
                    (prediction for prediction in candidates if prediction.picture not in used_images), candidates[0]
                )
                candidates.remove(item)
                used_images.add(item.picture)
                selected.append(item.id)
        round_number += 1
    return selected


def _facts(predictions: Sequence[Prediction]) -> tuple[Fact, ...]:
    ks = sorted({prediction.k for prediction in predictions if prediction.k is not None})
    by_k = ", ".join(f"{sum(prediction.k == k for prediction in predictions):,} of k = {k}" for k in ks)
    right_answers = {answer for prediction in predictions for answer in prediction.answers[:1]}
    return (
        Fact("questions", f"{len(predictions):,}", by_k),
        Fact("pictures", f"{len({prediction.picture for prediction in predictions}):,}"),
        Fact("different right answers", f"{len(right_answers):,}"),
    )


def _differences(evaluation: Evaluation) -> tuple[ModelDifference, ...]:
    """Return how each further model does against the first."""
    names = [results.model for results in evaluation.results]
    return tuple(
        ModelDifference(
            names[0], name, comparison.n, Interval(comparison.difference, comparison.low, comparison.high), comparison.p
        )
        for name, comparison in zip(names[1:], evaluation.comparisons, strict=True)
    )


def _build_example(
    evaluation: Evaluation, models: Sequence[str], predictions: Sequence[Prediction]
) -> AnsweredQuestion:
    first = predictions[0]
    return AnsweredQuestion(
        image=evaluation.read_image(first.id),
        k=first.k,
        capabilities=first.capabilities,
        question=first.question,
        answer=first.answers[0],
        model_answers=tuple(
            ModelAnswer(model, prediction.prediction, prediction.right)
            for model, prediction in zip(models, predictions, strict=True)
        ),
        caption=first.id,
    )


def _describe_selection(questions: int, models: int) -> str:
    outcomes = (
        "one that some models get right, one that none does and one that all do"
        if models > 1
        else "one that is answered wrongly and one rightly"
    )
    return (
        f"{min(MAX_EXAMPLES, questions)} of the {questions:,} questions, chosen by a fixed rule and not by eye: one of "
        f"each k after the other, by turns {outcomes}, as far as there are such; which of them, a hash of its "
        "id decides."
    )


def _split_pair(key: str) -> Pair:
    first, second = key.split("+")
    return first, second
