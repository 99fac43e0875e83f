"""Writes the HTML report of an evaluation. reports/evaluation_page.py does the layout.

compact evaluate MODEL... DATASET --out DIR      writes DIR/report.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.questions import Prediction
from compact_hf.evaluation.results_directory import Evaluation
from compact_hf.evaluation.scoring import Results
from compact_hf.evaluation.task import EvaluationTask, describe_parts
from compact_hf.records import digest
from compact_hf.reports.answered_questions import OUTCOMES, AnsweredQuestion, ModelAnswer, Outcome, get_outcome
from compact_hf.reports.evaluation_page import EvaluationReport, render_evaluation
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.score_charts import Interval, ModelDifference

REPORT_FILE: Final = "report.html"
MAX_EXAMPLES: Final = 12


def write_report(
    evaluation: Evaluation, out: Path, *, task: EvaluationTask, command: str, settings: Mapping[str, object]
) -> Path:
    """Write report.html into the directory of an evaluation, and return its path.

    Args:
        evaluation (`Evaluation`): the scores.
        out (`Path`): the evaluation directory, which holds the predictions of each model.
        task (`EvaluationTask`): the task that produced the scores.
        command (`str`): the commands that reproduce the evaluation, one per line.
        settings (`Mapping[str, object]`): name -> value of everything else that the answers depend on, package versions
            included.

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
    """Return the contents of the page.

    Args:
        evaluation (`Evaluation`): the scores.
        answers (`Sequence[Mapping[str, Prediction]]`): for each model, question id -> prediction.
        task (`EvaluationTask`): the task that produced the scores.
        command (`str`): the commands that reproduce the evaluation, one per line.
        settings (`Mapping[str, object]`): name -> value of everything else that the answers depend on.
    """
    results = evaluation.results
    models = tuple(item.model for item in results)
    sections = tuple(task.iter_sections(results))
    # None for a task without rules, whose `matching` is empty.
    rule = task.rules.get(evaluation.matching)
    return EvaluationReport(
        dataset=evaluation.dataset,
        questions=len(answers[0]),
        lead=task.lead if sections else "",
        facts=_facts(task, tuple(answers[0].values())),
        models=models,
        # One fact per model. Baselines depend on the questions alone, so those of the first model are valid for all.
        headline=(*(_describe_headline(item) for item in results), *results[0].baselines()),
        sections=sections,
        published=evaluation.published_table() if evaluation.published else None,
        comparisons=_differences(evaluation),
        examples=build_examples(answers, models, MAX_EXAMPLES, task=task, read_image=evaluation.read_image),
        selection_rule=describe_selection(MAX_EXAMPLES, len(answers[0]), len(models), task.stratum_name),
        matching=f"{rule.text} (Rule {evaluation.matching}, version {rule.version}.)" if rule else "",
        notes=evaluation.notes,
        settings=tuple((name, f"{value}") for name, value in settings.items()),
        command=Example("Run this again to resume the evaluation; name another model to add that model.", command),
    )


def _describe_headline(results: Results) -> Fact:
    headline, remark = results.headline, results.remark()
    interval = f"95% interval {headline.low:.1%} to {headline.high:.1%}"
    return Fact(results.model, f"{headline.value:.1%}", f"{interval}; {remark}" if remark else interval)


def build_examples(
    answers: Sequence[Mapping[str, Prediction]],
    models: Sequence[str],
    count: int,
    *,
    task: EvaluationTask,
    read_image: Callable[[str], bytes | None],
) -> list[AnsweredQuestion]:
    """Return at most `count` questions with the answers of all models, as a page shows them.

    Args:
        answers (`Sequence[Mapping[str, Prediction]]`): for each model, question id -> prediction.
        models (`Sequence[str]`): names of the models.
        count (`int`): largest number of questions.
        task (`EvaluationTask`): the task of the evaluation.
        read_image (`Callable[[str], bytes | None]`): takes a question id and returns the encoded image.
    """
    examples = []
    for id in select_examples(answers, count, get_stratum=task.get_stratum):
        predictions = [item[id] for item in answers]
        first = predictions[0]
        model_answers = tuple(
            ModelAnswer(model, prediction.prediction, prediction.right)
            for model, prediction in zip(models, predictions, strict=True)
        )
        examples.append(
            AnsweredQuestion(
                read_image(id), tuple(task.iter_tags(first)), first.question, first.answers[0], model_answers, id
            )
        )
    return examples


def select_examples(
    answers: Sequence[Mapping[str, Prediction]], count: int, *, get_stratum: Callable[[Prediction], Any]
) -> list[str]:
    """Return the ids of at most `count` questions to show as examples, selected by a fixed rule.

    Each round takes one question per stratum. Outcomes take turns, as far as such questions exist: answered correctly
    by some models, by none, by all. Among the candidates, the question whose id has the smallest hash is taken; an
    image that has not been shown yet is preferred.
    """
    # Stratum -> outcome -> the candidates that are left, in the order of their hashes.
    pending: dict[Any, dict[Outcome, list[Prediction]]] = defaultdict(lambda: {name: [] for name in OUTCOMES})
    for id in sorted(answers[0], key=digest):
        prediction = answers[0][id]
        pending[get_stratum(prediction)][get_outcome([item[id].right for item in answers])].append(prediction)
    selected: list[str] = []
    used_images: set[str] = set()
    round_number = 0
    # Each pass is one round. It ends when enough questions are selected or no stratum has any left.
    while len(selected) < count and any(
        candidates for outcomes in pending.values() for candidates in outcomes.values()
    ):
        for position, stratum in enumerate(sorted(pending)):
            # Each stratum starts with another outcome, so that one round already shows all of them.
            order = [OUTCOMES[(round_number + position + step) % len(OUTCOMES)] for step in range(len(OUTCOMES))]
            candidates = next((pending[stratum][outcome] for outcome in order if pending[stratum][outcome]), None)
            if candidates and len(selected) < count:
                # Candidates are in the order of their hashes: the first one about an unused image, otherwise the first.
                item = next(
                    (prediction for prediction in candidates if prediction.picture not in used_images), candidates[0]
                )
                candidates.remove(item)
                used_images.add(item.picture)
                selected.append(item.id)
        round_number += 1
    return selected


def _facts(task: EvaluationTask, predictions: Sequence[Prediction]) -> tuple[Fact, ...]:
    # Of several right answers only the first is counted; it is the one that examples show.
    right_answers = {answer for prediction in predictions for answer in prediction.answers[:1]}
    return (
        Fact("questions", f"{len(predictions):,}", describe_parts(task, task.count_parts(predictions))),
        Fact("images", f"{len({prediction.picture for prediction in predictions}):,}"),
        Fact("distinct correct answers", f"{len(right_answers):,}"),
    )


def _differences(evaluation: Evaluation) -> tuple[ModelDifference, ...]:
    """Return the difference between each further model and the first."""
    names = [results.model for results in evaluation.results]
    return tuple(
        ModelDifference(
            names[0], name, comparison.n, Interval(comparison.difference, comparison.low, comparison.high), comparison.p
        )
        for name, comparison in zip(names[1:], evaluation.comparisons, strict=True)
    )


def describe_selection(count: int, questions: int, models: int, stratum_name: str) -> str:
    """Return how `select_examples` selected the examples, as a sentence for the page.

    Args:
        count (`int`): largest number of examples.
        questions (`int`): number of questions to select from.
        models (`int`): number of models.
        stratum_name (`str`): name of the strata, such as `k`; may be empty.
    """
    outcomes = (
        "a question that some models answer correctly, one that no model does and one that all models do"
        if models > 1
        else "a question that is answered incorrectly and one that is answered correctly"
    )
    turns = f"for each {stratum_name} in turn, " if stratum_name else "in turn, "
    return (
        f"{min(count, questions)} of the {questions:,} questions, selected by a fixed rule and not by hand: "
        f"{turns}{outcomes}, as far as such questions exist; ties are resolved by a hash of the id."
    )
