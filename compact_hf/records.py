"""What flows from image to release: Image, Draft, Verdict, Turn, Conversation, Reject, Row.

Small frozen values without behaviour but their ids and their way to and from JSON. Ids are hashes of content,
so that they are the same in every run, on every machine.
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

RESULTS_SCHEMA: Final = 3
"""Of `results.json`, which evaluation writes and a model's card quotes; another number is another set of fields."""

READABLE_RESULTS_SCHEMAS: Final = (2, RESULTS_SCHEMA)
"""Those that readers take. 2, which version 0.1.0 wrote, names no task: all of it is accuracy by k."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that has been looked at and can be read again.

    Attributes:
        image_id (`str`): 32 hex digits, the SHA-256 of the file's bytes.
        ref (`str`): where its source finds it: a path relative to the folder, or `scene:SEED`.
        width, height (`int`): pixels, EXIF orientation applied.
        image_source (`str`): a name for the origin that may be published; never an absolute path.
        image_license (`str`): licence of the image, `unknown` where nobody said.
    """

    image_id: str
    ref: str
    width: int
    height: int
    image_source: str
    image_license: str = "unknown"


@dataclass(frozen=True, slots=True)
class Draft:
    """What the teacher wrote for one combination; `confidence` in per cent, 0 to 100."""

    question: str
    answer: str
    confidence: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier found a question to need, and its own answer; it knew neither the draft's."""

    capabilities: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An accepted question with its answer.

    Attributes:
        capabilities (`tuple[str, ...]`): the combination that was asked for.
        verified_capabilities (`tuple[str, ...]`): what the verifier found.
        confidence (`int`): the teacher's, 0 to 100.
    """

    question: str
    answer: str
    capabilities: tuple[str, ...]
    verified_capabilities: tuple[str, ...]
    confidence: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Something that was dropped, and why.

    Attributes:
        stage (`str`): `picture`, `generation`, `verification`, `conversation`, `assembly`, `instruction`.
        reason (`str`): a short fixed phrase, the key under which rejects are counted.
        subject (`str`): the image's ref, the question, or the row's id.
        detail (`str`): what was got, for people.
        capabilities (`tuple[str, ...]`): the combination that was asked for, where there is one.
    """

    stage: Literal["picture", "generation", "verification", "conversation", "assembly", "instruction"]
    reason: str
    subject: str
    detail: str = ""
    capabilities: tuple[str, ...] = ()


class Reason(StrEnum):
    """The reason why something is dropped: a short fixed phrase that is counted; one enum for each stage.

    Journals and datasets hold these words, so they never change.
    """

    # The repr of a plain string: the hash that identifies a dataset's rows is computed from the repr.
    __repr__ = str.__repr__


@dataclass(frozen=True, slots=True)
class Conversation:
    """An image with its 2 to 3 accepted turns, all of the image's one k."""

    image_id: str
    k: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a row: `role` is `user` or `assistant`, `content` has no `<image>`."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a dataset but for its images' bytes, which `read_images` reads when they are written.

    A method whose rows have columns of their own derives a class with a field for each.

    Attributes:
        id (`str`): a stable hash of the content.
        messages (`tuple[Message, ...]`): `user` and `assistant` in turn.
        source (`str`): the method that made it, or `instruction`.
        image_id (`str`, *optional*): the image's id; those of several in order, with commas between; None without any.
        image_source, image_license (`str`, *optional*): where the images come from, and their licence.
        teacher, verifier, preset_version (`str`, *optional*): who wrote and who checked it, with which settings.
        read_images (`tuple[Callable[[], bytes], ...]`): reads each image.
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

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The ids of its images, in order."""
        return split_image_ids(self.image_id)

    def to_record(self) -> dict[str, Any]:
        """Return its columns but for the images, as JSON has them."""
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
        """Return the values of the columns that rows of its method have beside the common ones, as JSON has them."""
        return {}


def split_image_ids(image_id: str | None) -> tuple[str, ...]:
    """Return the ids in a row's column `image_id`, in the order of its images."""
    return tuple(image_id.split(",")) if image_id else ()


_VALIDATION_MODULUS: Final = 20


def is_validation_image(image_id: str) -> bool:
    """Whether an image is for validation, as 5% are, by the hash of its bytes (hex digits)."""
    return int(image_id, 16) % _VALIDATION_MODULUS == 0


def digest(*parts: object, length: int = 32) -> str:
    """Return the first `length` hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def to_json(record: Any) -> str:
    """Return a record as one line of JSON with sorted keys."""
    return _ENCODER.encode(record)


def _fields_of(record: Any) -> dict[str, Any]:
    # `asdict` would deep-copy every value.
    return {item.name: getattr(record, item.name) for item in fields(record)}


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_fields_of, check_circular=False
)


def from_json(kind: type[T], text: str | bytes) -> T:
    """Return the record of type `kind` that `to_json` wrote.

    Raises:
        pydantic.ValidationError: the text is not such a record.
    """
    hashable: type = kind  # mypy takes type[T] for unhashable
    return _adapter(hashable).validate_json(text)  # type: ignore[no-any-return]


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
