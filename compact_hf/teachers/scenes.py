"""The embedded teacher: it asks and judges questions about drawn scenes, whose truth it knows. No key, no network.

As a teacher it looks up the scene and asks for the combination in the task. As a verifier it reads the question's words
and works out from the scene what they need. With a `fault_rate` it plants, by a seed, the faults that real teachers
make, and labels each in `Reply.planted`; the verifier never sees that label.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import TeacherError, UsageError
from compact_hf.records import Task, digest
from compact_hf.scenes.questions import SceneQuestion, analyze_question, make_question
from compact_hf.scenes.scene import Scene, build_scene
from compact_hf.scenes.source import parse_seed
from compact_hf.teachers.base import Failure, Reply, Request

FAULTS: Final = ("wrong answer", "superfluous capability", "missing capability", "joined question", "low confidence")
"""The faults that it plants, each in the words under which it is counted."""

_CONFIDENCE: Final = 95
_LOW_CONFIDENCE: Final = 40


class ScenesTeacher:
    """Ask about drawn scenes.

    Args:
        fault_rate (`float`, *optional*, defaults to 0.0): the share, 0 to 1, of drafts in which one fault is planted.
        seed (`int`, *optional*, defaults to 0): decides the wording of questions and where faults are planted.

    Raises:
        UsageError: `fault_rate` is not between 0 and 1.
    """

    ks = range(1, 6)
    is_batch = False
    source_type: str | None = "scenes"

    def __init__(self, *, fault_rate: float = 0.0, seed: int = 0) -> None:
        if not 0 <= fault_rate <= 1:
            raise UsageError(f"got a noise of {fault_rate}; allowed is 0 (none) to 1 (a fault in every draft)")
        self.name = f"scenes:noise={fault_rate:g}" if fault_rate else "scenes"
        self._fault_rate = fault_rate
        self._seed = seed
        # The scenes being talked about are kept: each is asked about two to twenty times in a row.
        self._get_scene = lru_cache(maxsize=1024)(build_scene)

    async def prepare(self, request: Request) -> None:
        """Nothing: the scene is known by its seed."""

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        async for request in requests:
            scene = (
                self._get_scene(parse_seed(request.encoded_image.ref)) if request.encoded_image is not None else None
            )
            if isinstance(request.subject, Task):
                yield self._write_drafts(request, request.subject, scene)
            else:
                yield self._verify(request, request.subject, scene)

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Nothing to give back."""

    def _write_drafts(self, request: Request, task: Task, scene: Scene | None) -> Reply:
        if scene is None:
            raise TeacherError("the teacher scenes writes questions about scenes, and was shown none")
        rng = random.Random(digest("scenes teacher", self._seed, request.key))
        drafts, injected_faults = zip(
            *(self._write_draft(scene, combination, rng) for combination in task.combinations), strict=True
        )
        if len(drafts) == 1 and not drafts[0]["supported"]:
            return Reply(request.key, text="", refused="the picture does not support it", model=self.name)
        reply = _make_reply(request, "drafts", drafts, self.name)
        return replace(reply, planted=injected_faults) if any(injected_faults) else reply

    def _write_draft(
        self, scene: Scene, combination: tuple[str, ...], rng: random.Random
    ) -> tuple[dict[str, Any], str]:
        fault = rng.choice(FAULTS) if rng.random() < self._fault_rate else ""
        scene_question = make_question(scene, combination, rng)
        if scene_question is None:
            return {"supported": False, "question": "", "answer": "", "confidence": 0}, ""
        changes = _inject_fault(fault, scene, scene_question, rng)
        draft = {
            "supported": True,
            "question": scene_question.question,
            "answer": scene_question.answer,
            "confidence": _CONFIDENCE,
        }
        return draft | changes, fault if changes else ""

    def _verify(self, request: Request, questions: tuple[str, ...], scene: Scene | None) -> Reply:
        if scene is None:
            # Without the image nothing is known of it.
            return _make_reply(request, "answers", [{"answer": "unanswerable"} for _ in questions], self.name)
        scene_questions = [analyze_question(scene, question) for question in questions]
        verdicts = [
            {
                "capabilities": list(scene_question.capabilities) if scene_question else [],
                "answer": scene_question.answer if scene_question else "unanswerable",
            }
            for scene_question in scene_questions
        ]
        return _make_reply(request, "verdicts", verdicts, self.name)


def _make_reply(request: Request, name: str, items: Sequence[Mapping[str, Any]], model: str) -> Reply:
    """Return the items as the JSON that the schema asks for: the one alone, or several by number under a name."""
    if len(items) == 1:
        fields = {field: value for field, value in items[0].items() if field in request.schema.model_fields}
        return Reply(request.key, text=json.dumps(fields), model=model)
    numbered_items = [{"number": number, **item} for number, item in enumerate(items, 1)]
    return Reply(request.key, text=json.dumps({name: numbered_items}), model=model)


def _inject_fault(fault: str, scene: Scene, scene_question: SceneQuestion, rng: random.Random) -> dict[str, str | int]:
    """Return what the fault changes in the draft; empty where the scene has no room for it."""
    match fault:
        case "wrong answer":
            alternatives = (
                alternative
                for alternative in _alternative_questions(scene, scene_question, rng)
                if alternative.answer != scene_question.answer
            )
            return next(({"answer": alternative.answer} for alternative in alternatives), {})
        case "superfluous capability":
            supersets = (
                canonicalize((*scene_question.capabilities, name))
                for name in _shuffle_capabilities(rng)
                if name not in scene_question.capabilities
            )
            return _ask_instead(scene, supersets, rng)
        case "missing capability":
            subsets = (
                tuple(name for name in scene_question.capabilities if name != dropped)
                for dropped in _shuffle_capabilities(rng)
            )
            return _ask_instead(
                scene, (subset for subset in subsets if subset and subset != scene_question.capabilities), rng
            )
        case "joined question":
            for alternative in _alternative_questions(scene, scene_question, rng):
                second = alternative.question[0].lower() + alternative.question[1:]
                return {
                    "question": f"{scene_question.question.rstrip('?')}, and {second}",
                    "answer": f"{scene_question.answer} and {alternative.answer}",
                }
            return {}
        case "low confidence":
            return {"confidence": _LOW_CONFIDENCE}
    return {}


def _alternative_questions(scene: Scene, scene_question: SceneQuestion, rng: random.Random) -> list[SceneQuestion]:
    """Return questions of one capability about the same scene, the ones that ask for the same kind of answer first."""
    names = sorted(_shuffle_capabilities(rng), key=lambda name: name not in scene_question.capabilities)
    questions = (make_question(scene, (name,), rng) for name in names)
    return [question for question in questions if question is not None]


def _ask_instead(scene: Scene, combinations: Iterable[tuple[str, ...]], rng: random.Random) -> dict[str, str | int]:
    for combination in combinations:
        replacement = make_question(scene, combination, rng)
        if replacement is not None:
            return {"question": replacement.question, "answer": replacement.answer}
    return {}


def _shuffle_capabilities(rng: random.Random) -> list[str]:
    return rng.sample(list(CAPABILITIES), len(CAPABILITIES))
