"""Defines the records of a run and of a dataset: ImageInfo, Draft, Verdict, Turn, Conversation, Reject and Row.

They are small frozen dataclasses that can be written to and read from JSON. Ids are hashes of contents, so that they
are the same in every run and on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

MAX_CONFIDENCE: Final = 100

# Raise it if a field changes its meaning or is removed, and add the old version to the list below.
RESULTS_SCHEMA: Final = 3
"""Version of the fields of `results.json`, which evaluation writes and model cards read."""

READABLE_RESULTS_SCHEMAS: Final = (2, RESULTS_SCHEMA)
"""Versions that can be read. Version 2, written by compact_hf 0.1.0, names no task: it is always accuracy by k."""

FIRST_RULE_VERSION: Final = "1"
"""Version of the rules that marked the answers of results that do not name a version."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that was inspected and can be read again from its source.

    Attributes:
        image_id (`str`): the first 32 hex digits of the SHA-256 of the file's bytes.
        ref (`str`): the image's reference in its source: a path relative to the source's directory, or `scene:SEED`.
        width (`int`): pixels, after EXIF orientation.
        height (`int`): pixels, after EXIF orientation.
        image_source (`str`): name of the origin, as published in the dataset; never an absolute path.
        image_license (`str`): license of the image, `unknown` if the source does not state one.
    """

    image_id: str
    ref: str
    width: int
    height: int
    image_source: str
    image_license: str = "unknown"


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and answer that the teacher wrote for one combination of capabilities.

    Attributes:
        question (`str`): the question.
        answer (`str`): the teacher's answer.
        confidence (`int`): the teacher's confidence in the answer, in per cent, 0 to 100.
        capabilities (`tuple[str, ...]`): the requested combination.
    """

    question: str
    answer: str
    confidence: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verifier's judgement of a question. The verifier sees neither the requested capabilities nor the answer.

    Attributes:
        capabilities (`tuple[str, ...]`): the capabilities that the question needs, according to the verifier.
        answer (`str`): the verifier's own answer.
    """

    capabilities: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An accepted question with its answer.

    Attributes:
        question (`str`): the question.
        answer (`str`): the teacher's answer.
        capabilities (`tuple[str, ...]`): the requested combination.
        verified_capabilities (`tuple[str, ...]`): the capabilities that the question needs, according to the verifier.
        confidence (`int`): the teacher's confidence, in per cent, 0 to 100.
    """

    question: str
    answer: str
    capabilities: tuple[str, ...]
    verified_capabilities: tuple[str, ...]
    confidence: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A dropped image, draft or row, with the reason.

    Attributes:
        stage (`str`): `picture`, `generation`, `verification`, `conversation`, `assembly` or `instruction`.
        reason (`str`): a short fixed phrase; rejects are counted by it.
        subject (`str`): the reference of the image, the question, or the id of the row.
        detail (`str`): more about the reason, such as the value that was rejected; for people.
        capabilities (`tuple[str, ...]`): the requested combination, if there is one.
    """

    stage: Literal["picture", "generation", "verification", "conversation", "assembly", "instruction"]
    reason: str
    subject: str
    detail: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowReject(Reject):
    """A reject by which whole rows of a dataset are lost: a row, or an image that rows are about.

    Attributes:
        rows (`int`): number of rows that are lost.
        questions (`int`): number of their questions.
    """

    # Always given; after the fields of `Reject`, a dataclass allows none without a default.
    rows: int = 0
    questions: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """What is dropped of a dataset of questions.

    Attributes:
        rows (`int`, *optional*, defaults to 0): number of rows that are dropped as a whole.
        questions (`int`, *optional*, defaults to 0): number of dropped questions, including those of these rows. A row
            that cannot be read counts as none.
    """

    rows: int = 0
    questions: int = 0

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.rows + other.rows, self.questions + other.questions)

    def __str__(self) -> str:
        rows, questions = "row" if self.rows == 1 else "rows", "question" if self.questions == 1 else "questions"
        return f"{self.rows:,} {rows} and {self.questions:,} {questions}"


class Reason(StrEnum):
    """Base class of the reasons for rejects: short fixed phrases, one enum for each stage.

    The phrases are stored in journals and datasets, so they never change.
    """

    # Same repr as a plain string: the hash that identifies the rows of a dataset is computed from the repr.
    __repr__ = str.__repr__


@dataclass(frozen=True, slots=True)
class Conversation:
    """An image with its 2 or 3 accepted turns, which all have the same k.

    Attributes:
        image_id (`str`): the id of the image.
        k (`int`): number of capabilities per question.
        turns (`tuple[Turn, ...]`): the questions with their answers.
    """

    image_id: str
    k: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a row; its `content` never includes the `<image>` token."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a dataset. The bytes of its images are read by `read_images` when the dataset is written.

    A method whose rows have additional columns derives a class with a field for each column.

    Attributes:
        id (`str`): a stable hash of the content.
        messages (`tuple[Message, ...]`): the messages of `user` and `assistant`, alternating.
        source (`str`): the method that made the row, or `instruction`.
        image_id (`str`, *optional*): the ids of the images in order, separated by commas; None without images.
        image_source (`str`, *optional*): where the images come from.
        image_license (`str`, *optional*): the license of the images.
        teacher (`str`, *optional*): the model that wrote the row.
        verifier (`str`, *optional*): the model that verified it.
        preset_version (`str`, *optional*): the version of the settings that it was made with.
        read_images (`tuple[Callable[[], bytes], ...]`): functions that return the encoded images, in order.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    image_id: str | None = None
    image_source: str | None = None
    image_license: str | None = None
    teacher: str | None = None
    verifier: str | None = None
    preset_version: str | None = None
    read_images: tuple[Callable[[], bytes], ...] = field(default=(), compare=False, repr=False)

    def reject(self, stage: Literal["assembly", "instruction"], reason: str, detail: str) -> RowReject:
        """Return the reject of this row, which counts its questions.

        Args:
            stage (`str`): as in `Reject`.
            reason (`str`): as in `Reject`.
            detail (`str`): as in `Reject`.
        """
        return RowReject(stage, reason, self.id, detail, rows=1, questions=len(self.messages) // 2)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The ids of the row's images, in order."""
        return split_image_ids(self.image_id)

    def to_record(self) -> dict[str, Any]:
        """Return all columns except the images, as JSON values."""
        return {
            "id": self.id,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "source": self.source,
            "image_id": self.image_id,
            "image_source": self.image_source,
            "image_license": self.image_license,
            "teacher": self.teacher,
            "verifier": self.verifier,
            "preset_version": self.preset_version,
        } | self.own_columns()

    def own_columns(self) -> dict[str, Any]:
        """Return the columns that only rows of this method have, as JSON values."""
        return {}


def split_image_ids(image_id: str | None) -> tuple[str, ...]:
    """Return the ids in the column `image_id` of a row, in the order of its images."""
    # Ids are hex digits, so a comma never occurs in one. Text-only rows have None.
    return tuple(image_id.split(",")) if image_id else ()


_VALIDATION_MODULUS: Final = 20  # one image in 20, so 5%, is for validation


def is_validation_image(image_id: str) -> bool:
    """Return whether an image belongs to the validation split, which has 5% of all images.

    Args:
        image_id (`str`): hex digits of the hash of the image's bytes. It alone decides the split, so that an image is
            never in both splits.
    """
    # Ids are hashes, so their remainders are uniformly distributed.
    return int(image_id, 16) % _VALIDATION_MODULUS == 0


def digest(*parts: object, length: int = 32) -> str:
    """Return the first `length` hex digits of the SHA-256 of the canonical JSON of `parts`."""
    # Ids of rows and keys of requests are digests: a change of these arguments would change all of them.
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def to_json(record: Any) -> str:
    """Return a record as one line of JSON with sorted keys."""
    return _ENCODER.encode(record)


def _fields_of(record: Any) -> dict[str, Any]:
    # Not `dataclasses.asdict`, which makes a deep copy of every value.
    return {item.name: getattr(record, item.name) for item in fields(record)}


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_fields_of, check_circular=False
)


def from_json(kind: type[T], text: str | bytes) -> T:
    """Return the record of type `kind` that `to_json` wrote.

    Raises:
        pydantic.ValidationError: the text is not a record of this type.
    """
    hashable: type = kind  # mypy takes type[T] for unhashable
    return _adapter(hashable).validate_json(text)  # type: ignore[no-any-return]


@cache
def _adapter(kind: type) -> Any:
    # Cached by type: building the validator costs far more than one call of it.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
