"""A method of somebody else's package, in one file: a teacher writes a caption of each image, a verifier confirms it.

It has a request and a reply of its own, an outcome, a reject reason, an option, replies truthfully about scenes, and
rows with a column and a part of the card of their own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from compact_hf.errors import UsageError
from compact_hf.methods.assembly import FinishedOutcome
from compact_hf.methods.base import Method, RunSetup, StartedMethod
from compact_hf.methods.row_kind import Column, Record, RowDefect, RowStatistics
from compact_hf.records import ImageInfo, Message, Reason, Reject, Row, digest, from_json, to_json
from compact_hf.runs.options import option
from compact_hf.runs.process import Process, Result, make_request
from compact_hf.scenes.scene import Scene
from compact_hf.teachers.base import EncodedImage, Reply, Request, TruthfulReply
from compact_hf.teachers.reader import parse_json_reply

EXAGGERATION = "exaggeration"
T = TypeVar("T", bound=BaseModel)


class CaptionReply(BaseModel):
    """The JSON of the teacher."""

    caption: str


class ConfirmationReply(BaseModel):
    """The JSON of the verifier."""

    is_true: bool


class CaptionReason(Reason):
    """Why a caption is dropped."""

    UNTRUE = "untrue caption"
    UNUSABLE = "no caption"


@dataclass(frozen=True)
class CaptionOptions:
    """The option of the method."""

    tone: str = option("plain", "how captions sound: plain or lively (default: plain)", metavar="TONE")


@dataclass(frozen=True)
class CaptionOutcome:
    """What became of an image: `drafts` as `AnyOutcome` has them, to count planted faults by."""

    caption: str
    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaptionTask:
    """What the teacher is asked."""

    tone: str

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        assert scene is not None
        fault = draw_fault((EXAGGERATION,))
        number = len(scene.objects) + (1 if fault else 0)
        exclamation = rng.choice(("!", "!!")) if self.tone == "lively" else "."
        caption = f"{number} things at this place: {scene.place}{exclamation}"
        return TruthfulReply(json.dumps({"caption": caption}), planted=(fault,) if fault else ())


@dataclass(frozen=True)
class CaptionCheck:
    """What the verifier is asked."""

    caption: str

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        assert scene is not None
        return TruthfulReply(json.dumps({"is_true": self.caption.startswith(f"{len(scene.objects)} things")}))


@dataclass(frozen=True, kw_only=True)
class CaptionRow(Row):
    """A row with one column of its own."""

    num_words: int

    def own_columns(self) -> dict[str, Any]:
        return {"num_words": self.num_words}


class CaptionStatistics(RowStatistics):
    """What the card says about captions."""

    title = "Captions"
    tags = ("captions",)

    def __init__(self) -> None:
        self.words = 0
        self.rows = 0

    def add(self, record: Record) -> None:
        self.rows += 1
        self.words += record["num_words"]

    def merge(self, other: CaptionStatistics) -> None:
        self.rows += other.rows
        self.words += other.words

    @classmethod
    def card_template(cls) -> str:
        return """
            {% block questions %}{{ statistics.words }} words in {{ statistics.rows }} captions.{% endblock %}
        """


class Captions(Method):
    """Captions of images."""

    name = "captions"
    summary = "captions"
    options = CaptionOptions
    reject_reasons = (CaptionReason,)
    statistics = CaptionStatistics
    public_settings = ("tone",)

    @classmethod
    def columns(cls) -> dict[str, Column]:
        from datasets import Value

        return {"num_words": Column(Value("int64"), "number of words in the caption")}

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        if record["num_words"] != len(record["messages"][1]["content"].split()):
            yield "words are not counted", str(record["num_words"])

    @classmethod
    def make_rows(
        cls, outcome: FinishedOutcome, image: ImageInfo, read_image: Callable[[], bytes]
    ) -> Iterator[Row | Reject]:
        parsed = cls.parse_outcome(outcome.body)
        yield from parsed.rejects
        if parsed.caption:
            yield CaptionRow(
                id=digest(cls.name, image.image_id, parsed.caption),
                messages=(Message("user", "Describe the image."), Message("assistant", parsed.caption)),
                source=cls.name,
                image_id=image.image_id,
                image_source=image.image_source,
                image_license=image.image_license,
                teacher=outcome.identity.teachers["teacher"],
                verifier=outcome.identity.teachers["verifier"],
                preset_version=outcome.identity.settings["tone"],
                read_images=(read_image,),
                num_words=len(parsed.caption.split()),
            )

    @classmethod
    def start(cls, setup: RunSetup) -> StartedMethod:
        tone = setup.options.tone
        if tone not in ("plain", "lively"):
            raise UsageError(f"got the tone {tone!r}; there are plain and lively")
        return StartedMethod(partial(write_caption, tone), {"tone": tone})

    @classmethod
    def parse_outcome(cls, body: str) -> CaptionOutcome:
        return from_json(CaptionOutcome, body)


def write_caption(tone: str, image: ImageInfo, encoded_image: EncodedImage) -> Process:
    """Ask for a caption, and whether it is true."""
    prompt = f"Write a {tone} caption."
    request = make_request("teacher", image.image_id, encoded_image, prompt, CaptionReply, CaptionTask(tone))
    (reply,) = yield [request]
    draft = parse_reply(reply, CaptionReply)
    if draft is None:
        return drop(request, Reject("generation", CaptionReason.UNUSABLE, "", reply.refused))
    check = CaptionCheck(draft.caption)
    question = f"Is this true? {draft.caption}"
    (answer,) = yield [make_request("verifier", image.image_id, encoded_image, question, ConfirmationReply, check)]
    verdict = parse_reply(answer, ConfirmationReply)
    if verdict is None or not verdict.is_true:
        return drop(request, Reject("verification", CaptionReason.UNTRUE, draft.caption, answer.refused))
    return Result(to_json(CaptionOutcome(draft.caption, (), ((request.key, ""),))), 1)


def parse_reply(reply: Reply, schema: type[T]) -> T | None:
    """Return a reply's JSON; None where the teacher refused, or wrote something else: neither may end the run."""
    try:
        return parse_json_reply(schema, reply.text)
    except ValidationError:
        return None


def drop(request: Request, reject: Reject) -> Result:
    return Result(to_json(CaptionOutcome("", (reject,), ((request.key, reject.reason),))), 0)
