"""Defines questions, predictions and sets of questions, and controls that swap or remove the images of a set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from typing import Any, Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.images.codec import ImageError
from compact_hf.records import Loss, digest

_MAX_NAMED: Final = 20
"""Number of questions with an image that cannot be decoded that are named; all of them are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. It is asked alone, even if it was part of a conversation. Tasks derive classes with more fields.

    Attributes:
        id (`str`): unique in the dataset.
        image_id (`str`): id of the image that the question was written about, shared by all questions about it.
        question (`str`): the text from the dataset, which the task turns into a prompt.
        answers (`tuple[str, ...]`): the right answers, at least one. Any of them counts as right; the first is shown.
        parts (`Mapping[str, str]`): grouping -> the part that the question belongs to, such as `{"type": "counting"}`.
            Each part also gets a score of its own.
        read_image (`Callable[[], bytes] | None`): returns the encoded image when it is needed; None for a question that
            is asked without an image.
    """

    id: str
    image_id: str
    question: str
    answers: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    read_image: Callable[[], bytes] | None = field(compare=False, repr=False)

    def content(self) -> tuple[Any, ...]:
        """Return the values that identify the question: all fields except `read_image`, and `parts` unless empty."""
        # Leaving out empty `parts` keeps the hashes of questions that were made before the field existed.
        names = [item.name for item in fields(self) if item.compare and (item.name != "parts" or self.parts)]
        return tuple(getattr(self, name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A question with its right answers and the model's answer. Tasks derive classes with more fields.

    Attributes:
        id (`str`): id of the question, unique in the dataset.
        picture (`str`): id of the image that the question was written about, shared by all questions about it.
        question (`str`): the text from the dataset.
        answers (`tuple[str, ...]`): the right answers, not normalised. Any of them counts as right; the first is shown.
        parts (`Mapping[str, str]`): as in `Question`.
        prediction (`str`): the model's answer, not normalised.
        right (`bool`): whether the answer is right according to the chosen rule.
        matching_version (`str`, *optional*, defaults to empty): version of this rule; empty if it is not known, or the
            task has no rules. It is not in the line of predictions.jsonl, but in evaluation.json, for all predictions
            of a directory.
    """

    id: str
    picture: str
    question: str
    answers: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    prediction: str
    right: bool
    matching_version: str = field(default="", compare=False)

    def points(self) -> float:
        """Return the points for the answer, 0 to 1. Models are compared by them. Tasks with grades override this."""
        return float(self.right)

    def to_line(self) -> str:
        """Return the line of predictions.jsonl: JSON without `matching_version`, and without `parts` if it is empty."""
        values = {name: value for name, value in asdict(self).items() if name != "parts" or value}
        del values["matching_version"]
        return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Options that say which part of a dataset is read, and how.

    Attributes:
        config (`str | None`): config of a dataset that has several.
        split (`str | None`): split to read; by default the task chooses it.
        columns (`Mapping[str, str] | None`): field -> name of its column, for tasks that read any dataset.
    """

    config: str | None = None
    split: str | None = None
    columns: Mapping[str, str] | None = None

    def refuse(self, dataset: str) -> None:
        """Raise an error if any option is given, for a dataset to which none applies.

        Raises:
            UsageError: an option is given.
        """
        if self.config or self.split or self.columns:
            raise UsageError(f"{dataset} has no configs, splits or columns; omit --config, --split and --columns")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one dataset.

    Attributes:
        name (`str`): display name of the dataset in results.
        questions (`tuple[Question, ...]`): the questions, in a fixed order.
        losses (`Mapping[str, Loss]`): reason -> the rows and questions that were skipped.
        control (`str`): a word for the control that was applied; empty without one.
        unreadable (`Mapping[str, str]`): question id -> why its image cannot be read or decoded, for the questions that
            were skipped for it; they are in `losses` too.
        is_drawn (`bool`): whether the images are drawn from their ids, and so cannot change and can all be decoded.
    """

    name: str
    questions: tuple[Question, ...]
    losses: Mapping[str, Loss] = field(default_factory=dict)
    control: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    is_drawn: bool = False

    def hash_images(self) -> str | None:
        """Return a hash of the images that are shown, each of which is read once; None if none can change."""
        # Image id -> function that reads the image; none for questions that are asked without an image.
        readers = {item.image_id: item.read_image for item in self.questions if item.read_image is not None}
        if self.is_drawn or not readers:
            return None
        return digest([(image_id, _hash_image(read_image)) for image_id, read_image in sorted(readers.items())])

    @property
    def identity(self) -> str:
        """Hash of the questions (ids, image ids, texts and answers) and of the control."""
        # A control changes the identity, so its answers never get into a directory of normal answers.
        identity = digest([question.content() for question in self.questions])
        return digest(self.control, identity) if self.control else identity

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of the scores: one line per reason for which rows and questions were skipped, and one per
        question whose image cannot be decoded, up to a number.
        """
        counted = [f"{loss} of {self.name} skipped: {reason}" for reason, loss in self.losses.items()]
        named = [f"skipped question {id}: {error}" for id, error in islice(self.unreadable.items(), _MAX_NAMED)]
        if len(self.unreadable) > _MAX_NAMED:
            named.append(f"and {len(self.unreadable) - _MAX_NAMED:,} more with an image that cannot be decoded")
        return (*counted, *named)

    def limit(self, count: int) -> QuestionSet:
        """Return `count` of the questions, selected by a hash of their ids.

        The questions of a smaller limit are a subset of those of a larger one.

        Raises:
            UsageError: the limit is below 1.
        """
        if count < 1:
            raise UsageError(f"got --limit {count}; it must be at least 1")
        if count >= len(self.questions):
            return self
        # The lowest hashes are taken, so the order of the rows does not matter. The questions keep their order.
        selected_digests = set(sorted(digest(question.id) for question in self.questions)[:count])
        questions = tuple(question for question in self.questions if digest(question.id) in selected_digests)
        return replace(self, name=f"{self.name}, {count} of its questions", questions=questions)


def _hash_image(read_image: Callable[[], bytes]) -> str:
    try:
        return hashlib.sha256(read_image()).hexdigest()
    except ImageError:
        return ""  # the evaluation will report the question


Control = Callable[[QuestionSet], QuestionSet]
"""Removes information that a model should need. What it still answers correctly, it did not get from the image."""


def swap_images(question_set: QuestionSet) -> QuestionSet:
    """Return the same questions, each with the image that is half the list of images away.

    Raises:
        EvaluationError: there is only one image.
    """
    questions = _swap_image_readers(question_set.questions)
    return replace(question_set, name=f"{question_set.name}, pictures swapped", questions=questions, control="swapped")


def _swap_image_readers(questions: Sequence[Question]) -> tuple[Question, ...]:
    """Return the questions with the `read_image` of another image each."""
    readers = {question.image_id: question.read_image for question in questions}
    if len(readers) < 2:
        raise EvaluationError("all questions are about one image; swapping images takes at least two")
    image_ids = tuple(readers)
    # Neighbouring images may show the same place; an image half the list away is likely to show another.
    partners = {
        image_id: image_ids[(index + len(image_ids) // 2) % len(image_ids)] for index, image_id in enumerate(image_ids)
    }
    return tuple(replace(question, read_image=readers[partners[question.image_id]]) for question in questions)


def remove_images(question_set: QuestionSet) -> QuestionSet:
    """Return the same questions without images."""
    questions = tuple(replace(question, read_image=None) for question in question_set.questions)
    return replace(question_set, name=f"{question_set.name}, without images", questions=questions, control="blind")


SWAPPED_IMAGES: Final = "swapped-images"
CONTROLS: Final[Mapping[str, Control]] = {SWAPPED_IMAGES: swap_images, "blind": remove_images}
"""Name -> control, for any task with images."""
