"""What an evaluation task says about itself: the contract, with what most tasks have in common as its defaults.

    compact evaluate MODEL DATASET --out DIR --task NAME

A task is a class in a package that registers it by an entry point; nothing else has to know of it:

    [project.entry-points."compact_hf.tasks"]
    gqa = "my_package.gqa:Gqa"

A usual one, with short answers that are right or wrong, reads its files and says no more:

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
from compact_hf.reports.evaluation_page import Section, Tag
from compact_hf.reports.score_charts import plot_accuracy_in_handfuls

GROUP: Final = "compact_hf.tasks"
"""The entry points' group."""

DEFAULT_TASK: Final = "compact"
"""The task of data that no task recognizes, and of results of version 0.1.0, which names none."""


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """A headline that others have published, to stand beside ours.

    Attributes:
        model (`str`): as its authors call it.
        value (`float`): of the task's metric; 1 is 100%.
        source (`str`): the paper or page, and the table in it.
    """

    model: str
    value: float
    source: str


class EvaluationTask(ABC):
    """What is asked, how, and what an answer is worth.

    Args:
        name (`str`): by which it was loaded: a registered name or `package.module:Class`. Results are bound to it.

    Attributes:
        version (`str`): another one where the same answers would get other scores, or models another prompt.
        max_new_tokens (`int`): where an answer is cut unless the caller says otherwise.
        prediction_type (`type[Prediction]`): has the fields of the task's questions, if they have fields of their own.
        rules (`Mapping[str, Rule]`): name -> when an answer counts as right; the first is the default.
        controls (`Mapping[str, Control]`): name -> control that makes sense for it.
        published (`Sequence[PublishedScore]`): what others report.
        lead (`str`): what the scores are, as the page's first sentence goes on.
        stratum_name (`str`): what `get_stratum` returns, as a noun; empty where there is one stratum only.
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

    # What is asked

    def recognizes(self, dataset: str) -> bool:  # noqa: ARG002  # for those that override it
        """Return whether a dataset is this task's own, which then needs no `--task`; without reading it."""
        return False

    @abstractmethod
    def read(self, dataset: str, options: DataOptions) -> QuestionSet:
        """Return a dataset's questions; images are read only when they are asked about.

        Raises:
            UsageError: an option that the dataset has no use for.
            EvaluationError: it cannot be read, or has no questions.
        """

    def get_prompt(self, question: Question) -> str:
        """Return what a model is asked, beside the image: by default with LLaVA's request for a short answer."""
        return f"{question.question}\n{SHORT_ANSWER_INSTRUCTION}"

    # What an answer is worth

    def mark(self, question: Question, answer: str, matching: str) -> Prediction:
        """Return what the model's answer is worth: by default, whether it is right by that rule."""
        names = {item.name for item in fields(self.prediction_type)} & {item.name for item in fields(question)}
        return self.prediction_type(
            **{name: getattr(question, name) for name in names},
            picture=question.image_id,
            prediction=answer,
            right=self.rules[matching].is_right(answer, question.answers),
        )

    def score(self, predictions: Sequence[Any], *, model: str, dataset: str, matching: str) -> Results:
        """Return a model's scores: by default the accuracy of all questions and of each part of them.

        Args:
            predictions (`Sequence[Prediction]`): of the task's own type.
            model, dataset (`str`): what they are called.
            matching (`str`): the rule by which they were judged.

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
            overall=overall,
            parts=parts,
        )

    def iter_parts(self, prediction: Any) -> Iterable[tuple[str, str]]:
        """Yield (grouping, part) of each part of the questions that a prediction is counted under."""
        parts: Mapping[str, str] = prediction.parts
        return parts.items()

    def get_stratum(self, prediction: Any) -> Any:  # noqa: ARG002
        """Return the stratum of a prediction: each has its own majority answer and its turn among the page's examples.

        Hashable, and comparable with the others.
        """
        return ""

    # How it is shown

    def count_parts(self, questions: Iterable[Any]) -> dict[str, dict[str, int]]:
        """Return grouping -> part -> questions in it, as a plan and the page tell, of questions or predictions."""
        counts: dict[str, Counter[str]] = {}
        for question in questions:
            for grouping, part in question.parts.items():
                counts.setdefault(grouping, Counter())[part] += 1
        return {grouping: dict(sorted(parts.items())) for grouping, parts in sorted(counts.items())}

    def get_label(self, grouping: str, part: str) -> str:  # noqa: ARG002
        """Return what a part is called in tables, plots and sentences."""
        return part

    def iter_sections(self, results: Sequence[Any]) -> Iterator[Section]:
        """Yield the page's sections about the scores of some models, each with its plots.

        By default one for each way in which right and wrong answers are parted, none for other results.
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
            yield Section(re.sub(r"\W+", "-", heading.lower()), heading, heading, "", tuple(plots))

    def iter_tags(self, prediction: Any) -> Iterator[Tag]:
        """Yield what the page shows beside an example."""
        for grouping, part in prediction.parts.items():
            yield Tag(self.get_label(grouping, part), title=grouping)


def load_task(name: str) -> EvaluationTask:
    """Return the task of that name, or of `package.module:Class`.

    Raises:
        UsageError: there is none, or it is no task.
    """
    loaded = load_plugin(GROUP, name)
    if not (isinstance(loaded, type) and issubclass(loaded, EvaluationTask)):
        raise UsageError(f"{name!r} is no evaluation task ({loaded!r}); give a class derived from EvaluationTask")
    return loaded(name)


def choose_task(name: str | None, dataset: str) -> EvaluationTask:
    """Return the task of that name; without one the one that recognizes the dataset, or else `compact`.

    Raises:
        UsageError: there is no such task, or several recognize the dataset.
    """
    if name is not None:
        return load_task(name)
    tasks = [task for task in map(load_task, list_plugins(GROUP)) if task.recognizes(dataset)]
    if len(tasks) > 1:
        names = " and ".join(task.name for task in tasks)
        raise UsageError(f"{dataset} is the data of several tasks ({names}); choose one with --task")
    return tasks[0] if tasks else load_task(DEFAULT_TASK)


def choose_rule(task: EvaluationTask, matching: str | None) -> str:
    """Return the name of a task's rule: the one that is asked for, or its first; empty where it has none.

    Raises:
        UsageError: it has no such rule.
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
    """Return what a task asks about a dataset.

    Args:
        task (`EvaluationTask`): reads it.
        dataset (`str`), options (`DataOptions`): as the task takes them.
        limit (`int`, *optional*): only so many questions, drawn by a hash of their ids.
        control (`str`, *optional*): the name of one of the task's controls.

    Raises:
        UsageError: there is no such control, or a limit below 1; and as `EvaluationTask.read`.
        EvaluationError: two questions have one id, or there are none; and as `EvaluationTask.read`.
    """
    if control is not None and control not in task.controls:
        raise UsageError(
            f"the task {task.name} has no control {control!r} (it has {', '.join(task.controls) or 'none'})"
            f"{did_you_mean(control, task.controls)}"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"got the limit {limit}; it must be at least 1")
    question_set = task.read(dataset, options)
    if not question_set.questions:
        raise EvaluationError(f"{question_set.name} has no question that can be asked; give another")
    if repeated := [id for id, count in Counter(item.id for item in question_set.questions).items() if count > 1]:
        raise EvaluationError(f"{question_set.name} has two questions of the id {repeated[0]!r}; ids must differ")
    if limit is not None:
        question_set = question_set.limit(limit)
    return task.controls[control](question_set) if control is not None else question_set


def describe_parts(task: EvaluationTask, parts: Mapping[str, Mapping[str, int]]) -> str:
    """Return how many questions each part has, in words."""
    return ", ".join(
        f"{count:,} of {task.get_label(grouping, part)}"
        for grouping, counts in parts.items()
        for part, count in counts.items()
    )
