"""Defines the interface of evaluation tasks, with defaults for what most tasks have in common.

    compact evaluate MODEL DATASET --out DIR --task NAME

A task is a class that its package registers with an entry point; no other file has to be changed:

    [project.entry-points."compact_hf.tasks"]
    gqa = "my_package.gqa:Gqa"

A typical task has short answers that are right or wrong. It only has to read its files:

    class Gqa(EvaluationTask):
        def read(self, dataset: str, options: DataOptions) -> QuestionSet:
            data = read_rows(dataset, options)
            return data.collect((Question(...) for row in data.rows), {})
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.evaluation.image_check import drop_unreadable_images
from compact_hf.evaluation.questions import CONTROLS, Control, DataOptions, Prediction, Question, QuestionSet
from compact_hf.evaluation.scoring import (
    SHORT_ANSWER_RULES,
    AccuracyResults,
    Results,
    Rule,
    build_score_row,
    score_answers,
)
from compact_hf.plugins import list_plugins, load_plugin
from compact_hf.reports.answered_questions import Tag
from compact_hf.reports.evaluation_page import Section
from compact_hf.reports.score_charts import plot_accuracy_in_handfuls

GROUP: Final = "compact_hf.tasks"
"""The group of the entry points."""

DEFAULT_TASK: Final = "compact"
"""The task for datasets that no task recognizes, and for results of version 0.1.0, which do not name a task."""


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """A published headline score, shown next to ours.

    Attributes:
        model (`str`): the name that its authors use.
        value (`float`): the value of the task's metric; 1 is 100%.
        source (`str`): the paper or page, and the table in it.
    """

    model: str
    value: float
    source: str


class EvaluationTask(ABC):
    """Defines which questions are asked, with which prompt, and how answers are scored.

    Args:
        name (`str`): the name that the task was loaded by: a registered name or `package.module:Class`. Results record
            it, and a directory with results of another task is refused.

    Attributes:
        version (`str`): must be raised when the same answers would get different scores, or the prompt changes.
        max_new_tokens (`int`): default maximum length of an answer, in tokens.
        prediction_type (`type[Prediction]`): the class of predictions; it repeats the fields that the task's questions
            have in addition to those of `Question`.
        rules (`Mapping[str, Rule]`): name -> rule that decides whether an answer is right; the first is the default.
        controls (`Mapping[str, Control]`): name -> control experiment that makes sense for the task.
        published (`Sequence[PublishedScore]`): scores that others have published.
        lead (`str`): what the scores measure; it completes the first sentence of the page.
        stratum_name (`str`): a noun for what `get_stratum` returns; empty if there is only one stratum.
    """

    version: ClassVar[str] = "1"
    max_new_tokens: ClassVar[int] = 16
    prediction_type: ClassVar[type[Prediction]] = Prediction
    rules: ClassVar[Mapping[str, Rule]] = SHORT_ANSWER_RULES
    controls: ClassVar[Mapping[str, Control]] = CONTROLS
    published: ClassVar[Sequence[PublishedScore]] = ()
    lead: ClassVar[str] = "the share of right answers"
    stratum_name: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        self.name = name

    # Questions

    def recognizes(self, dataset: str) -> bool:  # noqa: ARG002  # subclasses use it
        """Return whether a dataset belongs to this task, so that `--task` can be omitted. Must not read the dataset."""
        return False

    @abstractmethod
    def read(self, dataset: str, options: DataOptions) -> QuestionSet:
        """Return the questions of a dataset. Images are read later, when a question about them is asked.

        Args:
            dataset (`str`): the dataset, as given on the command line.
            options (`DataOptions`): config, split and columns to read.

        Raises:
            UsageError: an option does not apply to this dataset.
            EvaluationError: the dataset cannot be read, or has no questions.
        """

    def get_prompt(self, question: Question) -> str:
        """Return the text of the prompt: by default the question and LLaVA's instruction to give a short answer."""
        return f"{question.question}\n{SHORT_ANSWER_INSTRUCTION}"

    # Scoring

    def mark(self, question: Question, answer: str, matching: str) -> Prediction:
        """Return a prediction with the model's answer, marked as right or wrong by the rule named `matching`."""
        # The fields that question and prediction have in common, including those of the task's own classes.
        names = {item.name for item in fields(self.prediction_type)} & {item.name for item in fields(question)}
        return self.prediction_type(
            **{name: getattr(question, name) for name in names},
            picture=question.image_id,
            prediction=answer,
            right=self.rules[matching].is_right(answer, question.answers),
            matching_version=self.get_rule_version(matching),
        )

    def get_rule_version(self, matching: str) -> str:
        """Return the version of the rule named `matching`; empty if the task has no rules."""
        return self.rules[matching].version if matching else ""

    def score(self, predictions: Sequence[Any], *, model: str, dataset: str, matching: str) -> Results:
        """Return the scores of a model: by default the accuracy on all questions and on each part of them.

        Args:
            predictions (`Sequence[Prediction]`): the model's predictions, of the type `prediction_type`.
            model (`str`): display name of the model.
            dataset (`str`): display name of the dataset.
            matching (`str`): name of the rule that marked the predictions.

        Raises:
            EvaluationError: there are no predictions.
        """
        overall, parts = score_answers(
            predictions, self.rules[matching], get_stratum=self.get_stratum, get_parts=self.iter_parts
        )
        return AccuracyResults(
            task=self.name,
            task_version=self.version,
            model=model,
            dataset=dataset,
            matching=matching,
            matching_version=self.get_rule_version(matching),
            overall=overall,
            parts=parts,
        )

    def iter_parts(self, prediction: Any) -> Iterable[tuple[str, str]]:
        """Yield (grouping, part) for each part of the questions that the prediction is counted in."""
        parts: Mapping[str, str] = prediction.parts
        return parts.items()

    def get_stratum(self, prediction: Any) -> Any:  # noqa: ARG002
        """Return the stratum of a prediction; it must be hashable, and comparable with other strata.

        The majority answer is computed per stratum, and the examples on the page are taken from all strata in turn.
        """
        return ""

    # Presentation

    def count_parts(self, questions: Iterable[Any]) -> dict[str, dict[str, int]]:
        """Return grouping -> part -> number of questions, for `--dry-run` and the page.

        Args:
            questions (`Iterable[Question | Prediction]`): the questions, or predictions for them.
        """
        counts: dict[str, Counter[str]] = {}
        for question in questions:
            for grouping, part in question.parts.items():
                counts.setdefault(grouping, Counter())[part] += 1
        return {grouping: dict(sorted(parts.items())) for grouping, parts in sorted(counts.items())}

    def get_label(self, grouping: str, part: str) -> str:  # noqa: ARG002
        """Return the display name of a part for tables, plots and sentences."""
        return part

    def iter_sections(self, results: Sequence[Any]) -> Iterator[Section]:
        """Yield the sections of the page that show the scores of one or more models, each with its plots.

        By default there is one section per grouping of `AccuracyResults`, and none for other results.
        """
        models, first = [item.model for item in results], results[0]
        for grouping, parts in first.parts.items() if isinstance(first, AccuracyResults) else ():
            rows = [build_score_row("all", *(item.overall for item in results))]
            rows += [
                build_score_row(self.get_label(grouping, part), *(item.parts[grouping][part] for item in results))
                for part in parts
            ]
            plots = plot_accuracy_in_handfuls(rows, models, name=f"accuracy-by-{grouping}", title=f"By {grouping}")
            heading = f"By {grouping}"
            # The anchor on the page: `By question type` becomes `by-question-type`.
            yield Section(re.sub(r"\W+", "-", heading.lower()), heading, heading, "", tuple(plots))

    def iter_tags(self, prediction: Any) -> Iterator[Tag]:
        """Yield the tags that the page shows next to an example."""
        for grouping, part in prediction.parts.items():
            yield Tag(self.get_label(grouping, part), title=grouping)


def load_task(name: str) -> EvaluationTask:
    """Return the task with a registered name, or from `package.module:Class`.

    Raises:
        UsageError: the task was not found, or is not derived from `EvaluationTask`.
    """
    loaded = load_plugin(GROUP, name)
    if not (isinstance(loaded, type) and issubclass(loaded, EvaluationTask)):
        raise UsageError(f"{name!r} is not an evaluation task ({loaded!r}); give a class derived from EvaluationTask")
    return loaded(name)


def choose_task(name: str | None, dataset: str) -> EvaluationTask:
    """Return the task with the given name. If it is None, return the task that recognizes the dataset, or `compact`.

    Raises:
        UsageError: there is no such task, or several recognize the dataset.
    """
    if name is not None:
        return load_task(name)
    tasks = [task for task in map(load_task, list_plugins(GROUP)) if task.recognizes(dataset)]
    if len(tasks) > 1:
        names = " and ".join(task.name for task in tasks)
        raise UsageError(f"{dataset} is recognized by several tasks ({names}); choose one with --task")
    return tasks[0] if tasks else load_task(DEFAULT_TASK)


def choose_rule(task: EvaluationTask, matching: str | None) -> str:
    """Return the name of the matching rule: the given one, or by default the task's first; empty if the task has none.

    Raises:
        UsageError: the task has no rule with this name.
    """
    if matching is None:
        return next(iter(task.rules), "")
    if matching not in task.rules:
        raise UsageError(
            f"unknown matching {matching!r}; the rules are {' and '.join(task.rules) or 'none'}"
            f"{did_you_mean(matching, task.rules)}"
        )
    return matching


def read_questions(
    task: EvaluationTask, dataset: str, options: DataOptions, *, limit: int | None = None, control: str | None = None
) -> QuestionSet:
    """Return the questions that a task asks about a dataset, without those whose image cannot be decoded.

    Args:
        task (`EvaluationTask`): the task, which reads the dataset.
        dataset (`str`): the dataset, as given on the command line.
        options (`DataOptions`): config, split and columns to read.
        limit (`int`, *optional*): maximum number of questions, selected by a hash of their ids.
        control (`str`, *optional*): the name of one of the task's controls.

    Raises:
        UsageError: the task has no such control, the limit is below 1, or as for `EvaluationTask.read`.
        EvaluationError: two questions have the same id, there are no questions, no image can be decoded, or as for
            `EvaluationTask.read`.
    """
    if control is not None and control not in task.controls:
        raise UsageError(
            f"the task {task.name} has no control {control!r} (it has {', '.join(task.controls) or 'none'})"
            f"{did_you_mean(control, task.controls)}"
        )
    # Checked here as well as in `limit`, because reading may first download the dataset.
    if limit is not None and limit < 1:
        raise UsageError(f"got --limit {limit}; it must be at least 1")
    question_set = task.read(dataset, options)
    if not question_set.questions:
        raise EvaluationError(f"{question_set.name} has no question that can be asked; give another dataset")
    if repeated := [id for id, count in Counter(item.id for item in question_set.questions).items() if count > 1]:
        raise EvaluationError(f"{question_set.name} has two questions with the id {repeated[0]!r}; make ids unique")
    if limit is not None:
        question_set = question_set.limit(limit)
    question_set = drop_unreadable_images(question_set)
    # The control is last: with the same limit, the same questions are asked with and without it.
    return task.controls[control](question_set) if control is not None else question_set


def describe_parts(task: EvaluationTask, parts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the number of questions in each part as text, such as `40 of k = 1, 38 of k = 2`."""
    return ", ".join(
        f"{count:,} of {task.get_label(grouping, part)}"
        for grouping, counts in parts.items()
        for part, count in counts.items()
    )
