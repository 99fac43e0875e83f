"""What a task asks and what a model answered; and controls: the same questions about other images, or about none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.records import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as it is asked, alone, whatever conversation it was part of. A task's own has further fields.

    Attributes:
        id (`str`): unique in its dataset.
        image_id (`str`): which image it was written about; questions about one image share it.
        question (`str`): as the dataset has it; the task makes a prompt of it.
        answers (`tuple[str, ...]`): the right ones, at least one; any of them counts, the first is the one shown.
        parts (`Mapping[str, str]`): grouping -> the part of it that the question belongs to, such as
            `{"type": "counting"}`; scores are given for each part too.
        read_image (`Callable[[], bytes] | None`): returns the encoded image when it is needed; None for a question that
            is asked without one.
    """

    id: str
    image_id: str
    question: str
    answers: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    read_image: Callable[[], bytes] | None = field(compare=False, repr=False)

    def content(self) -> tuple[Any, ...]:
        """Return what tells this question from another: all fields but the image's reader, parts if there are any."""
        names = [item.name for item in fields(self) if item.compare and (item.name != "parts" or self.parts)]
        return tuple(getattr(self, name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A question with the answers that are right and the one the model gave. A task's own has further fields.

    Attributes:
        id (`str`): the question's, unique in its dataset.
        picture (`str`): which image it was written about; questions about one image share it.
        question (`str`): as the dataset has it.
        answers (`tuple[str, ...]`): the right ones, not normalised; any of them counts, the first is the one shown.
        parts (`Mapping[str, str]`): as of the question.
        prediction (`str`): the model's, not normalised.
        right (`bool`): whether it counts as right by the rule that was chosen.
    """

    id: str
    picture: str
    question: str
    answers: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    prediction: str
    right: bool

    def points(self) -> float:
        """Return what the answer is worth, 0 to 1, by which models are compared; a task with grades has its own."""
        return float(self.right)

    def to_line(self) -> str:
        """Return the prediction as predictions.jsonl has it: one line of JSON, with `parts` only if there are any."""
        values = {name: value for name, value in asdict(self).items() if name != "parts" or value}
        return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which part of a dataset is read, and how.

    Attributes:
        config (`str | None`): of a dataset with several.
        split (`str | None`): by default what the task takes.
        columns (`Mapping[str, str] | None`): field -> the column that has it, for tasks that read any dataset.
    """

    config: str | None = None
    split: str | None = None
    columns: Mapping[str, str] | None = None

    def refuse(self, dataset: str) -> None:
        """Refuse all of them, for a dataset that has no use for any.

        Raises:
            UsageError: one is given.
        """
        if self.config or self.split or self.columns:
            raise UsageError(f"{dataset} has no configs, splits or columns; leave --config, --split and --columns out")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one dataset.

    Attributes:
        name (`str`): what they are called in results.
        questions (`tuple[Question, ...]`): in a fixed order.
        skip_counts (`Mapping[str, int]`): reason -> rows that cannot be asked.
        control (`str`): a word for what a control did to them; empty without one.
    """

    name: str
    questions: tuple[Question, ...]
    skip_counts: Mapping[str, int] = field(default_factory=dict)
    control: str = ""

    @property
    def identity(self) -> str:
        """A hash of the questions: ids, images, texts and answers, and the control."""
        identity = digest([question.content() for question in self.questions])
        return digest(self.control, identity) if self.control else identity

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of scores has to know of them, in lines."""
        return tuple(f"{count:,} rows of {self.name} left out: {reason}" for reason, count in self.skip_counts.items())

    def limit(self, count: int) -> QuestionSet:
        """Return `count` of the questions, drawn by a hash of their ids: a smaller limit's are among a larger one's.

        Raises:
            UsageError: a limit below 1.
        """
        if count < 1:
            raise UsageError(f"got the limit {count}; it must be at least 1")
        if count >= len(self.questions):
            return self
        selected_digests = set(sorted(digest(question.id) for question in self.questions)[:count])
        questions = tuple(question for question in self.questions if digest(question.id) in selected_digests)
        return replace(self, name=f"{self.name}, {count} of its questions", questions=questions)


Control = Callable[[QuestionSet], QuestionSet]
"""Takes away what a model should need; what it still gets right, it knows from elsewhere."""


def swap_images(question_set: QuestionSet) -> QuestionSet:
    """Return the same questions, each about the image of the one half the list away.

    Raises:
        EvaluationError: there is only one image.
    """
    questions = _swap_image_readers(question_set.questions)
    return replace(question_set, name=f"{question_set.name}, pictures swapped", questions=questions, control="swapped")


def _swap_image_readers(questions: Sequence[Question]) -> tuple[Question, ...]:
    readers = {question.image_id: question.read_image for question in questions}
    if len(readers) < 2:
        raise EvaluationError("all questions are about one picture; swapping pictures takes at least two")
    image_ids = tuple(readers)
    # Neighbours may show the same place; half the list away there is another one.
    partners = {
        image_id: image_ids[(index + len(image_ids) // 2) % len(image_ids)] for index, image_id in enumerate(image_ids)
    }
    return tuple(replace(question, read_image=readers[partners[question.image_id]]) for question in questions)


def remove_images(question_set: QuestionSet) -> QuestionSet:
    """Return the same questions, asked without an image."""
    questions = tuple(replace(question, read_image=None) for question in question_set.questions)
    return replace(question_set, name=f"{question_set.name}, without images", questions=questions, control="blind")


SWAPPED_IMAGES: Final = "swapped-images"
CONTROLS: Final[Mapping[str, Control]] = {SWAPPED_IMAGES: swap_images, "blind": remove_images}
"""Name -> control, of any task with images."""
