"""The page of a judging: `Evaluation` in, report.html out, which reports/evaluation_page.py lays out.

compact evaluate MODEL... DATASET --out DIR      leaves DIR/report.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.questions import Prediction
from compact_hf.evaluation.results_folder import Evaluation
from compact_hf.evaluation.scoring import Results
from compact_hf.evaluation.task import EvaluationTask, describe_parts
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
from compact_hf.reports.score_charts import Interval, ModelDifference

REPORT_FILE: Final = "report.html"
MAX_EXAMPLES: Final = 12


def write_report(
    evaluation: Evaluation, out: Path, *, task: EvaluationTask, command: str, settings: Mapping[str, object]
) -> Path:
    """Write the page of a judging into its folder, and return its path.

    Args:
        evaluation (`Evaluation`): the scores.
        out (`Path`): the judging's folder, with each model's predictions.
        task (`EvaluationTask`): by which they were judged.
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
    report = build_report(evaluation, answers, task=task, command=command, settings=settings)
    path.write_text(render_evaluation(report), encoding="utf-8")
    return path


def build_report(
    evaluation: Evaluation,
    answers: Sequence[Mapping[str, Prediction]],
    *,
    task: EvaluationTask,
    command: str,
    settings: Mapping[str, object],
) -> EvaluationReport:
    """Return what the page tells.

    Args:
        answers (`Sequence[Mapping[str, Prediction]]`): of each model, by the question's id.
        task, command, settings: as in `write_report`.
    """
    results = evaluation.results
    models = tuple(item.model for item in results)
    sections = tuple(task.iter_sections(results))
    rule = task.rules.get(evaluation.matching)
    return EvaluationReport(
        dataset=evaluation.dataset,
        questions=len(answers[0]),
        lead=task.lead if sections else "",
        facts=_facts(task, tuple(answers[0].values())),
        models=models,
        headline=(*(_describe_headline(item) for item in results), *results[0].baselines()),
        sections=sections,
        published=evaluation.published_table() if evaluation.published else None,
        comparisons=_differences(evaluation),
        examples=[
            _build_example(task, evaluation, models, [item[id] for item in answers])
            for id in select_examples(answers, MAX_EXAMPLES, get_stratum=task.get_stratum)
        ],
        selection_rule=_describe_selection(len(answers[0]), len(models), task.stratum_name),
        matching=rule.text if rule else "",
        notes=evaluation.notes,
        settings=tuple((name, f"{value}") for name, value in settings.items()),
        command=Example("The same command goes on where it was stopped; with another model it adds that one.", command),
    )


def _describe_headline(results: Results) -> Fact:
    headline, remark = results.headline, results.remark()
    interval = f"95% interval {headline.low:.1%} to {headline.high:.1%}"
    return Fact(results.model, f"{headline.value:.1%}", f"{interval}; {remark}" if remark else interval)


def select_examples(
    answers: Sequence[Mapping[str, Prediction]], count: int, *, get_stratum: Callable[[Prediction], Any]
) -> list[str]:
    """Return the ids of at most `count` questions to show, by a rule that nobody's eye has a part in.

    Round by round one of each stratum is taken, by turns one that some models get right, one that none does and one
    that all do, as far as there are such; of those the one whose id has the smallest hash, if possible of a new image.
    """
    pending: dict[Any, dict[Outcome, list[Prediction]]] = defaultdict(lambda: {name: [] for name in OUTCOMES})
    for id in sorted(answers[0], key=digest):
        prediction = answers[0][id]
        pending[get_stratum(prediction)][get_outcome([item[id].right for item in answers])].append(prediction)
    selected: list[str] = []
    used_images: set[str] = set()
    round_number = 0
    while len(selected) < count and any(
        candidates for outcomes in pending.values() for candidates in outcomes.values()
    ):
        for position, stratum in enumerate(sorted(pending)):
            order = [OUTCOMES[(round_number + position + step) % len(OUTCOMES)] for step in range(len(OUTCOMES))]
            candidates = next((pending[stratum][outcome] for outcome in order if pending[stratum][outcome]), None)
            if candidates and len(selected) < count:
                item = next(
                    (prediction for prediction in candidates if prediction.picture not in used_images), candidates[0]
                )
                candidates.remove(item)
                used_images.add(item.picture)
                selected.append(item.id)
        round_number += 1
    return selected


def _facts(task: EvaluationTask, predictions: Sequence[Prediction]) -> tuple[Fact, ...]:
    right_answers = {answer for prediction in predictions for answer in prediction.answers[:1]}
    return (
        Fact("questions", f"{len(predictions):,}", describe_parts(task, task.count_parts(predictions))),
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
    task: EvaluationTask, evaluation: Evaluation, models: Sequence[str], predictions: Sequence[Prediction]
) -> AnsweredQuestion:
    first = predictions[0]
    return AnsweredQuestion(
        image=evaluation.read_image(first.id),
        tags=tuple(task.iter_tags(first)),
        question=first.question,
        answer=first.answers[0],
        model_answers=tuple(
            ModelAnswer(model, prediction.prediction, prediction.right)
            for model, prediction in zip(models, predictions, strict=True)
        ),
        caption=first.id,
    )


def _describe_selection(questions: int, models: int, stratum_name: str) -> str:
    outcomes = (
        "one that some models get right, one that none does and one that all do"
        if models > 1
        else "one that is answered wrongly and one rightly"
    )
    turns = f"one of each {stratum_name} after the other, by turns" if stratum_name else "by turns"
    return (
        f"{min(MAX_EXAMPLES, questions)} of the {questions:,} questions, chosen by a fixed rule and not by eye: "
        f"{turns} {outcomes}, as far as there are such; which of them, a hash of its id decides."
    )
