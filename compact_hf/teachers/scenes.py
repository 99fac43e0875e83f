"""The embedded teacher: it asks and judges questions about drawn scenes, whose truth it knows. No key, no network.

As a teacher it looks up the scene and asks for the combination in the task. As a verifier it reads the question's words
and works out from the scene what they need. With `noise` it plants, by a seed, the faults that real teachers make, and
labels each in `Reply.planted`; the verifier never sees that label.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.errors import TeacherError, UsageError
from compact_hf.records import Task, digest
from compact_hf.scenes.questions import SceneQuestion, ask, understand
from compact_hf.scenes.scene import Scene, scene_of
from compact_hf.scenes.source import seed_of
from compact_hf.teachers.base import Failure, Reply, Request

PLANTED: Final = ("wrong answer", "superfluous capability", "missing capability", "joined question", "low confidence")
"""The faults that `noise` plants, each in the words under which it is counted."""

_CONFIDENCE: Final = 95
_LOW_CONFIDENCE: Final = 40


class ScenesTeacher:
    """Ask about drawn scenes.

    Args:
        noise (`float`, *optional*, defaults to 0.0): the share, 0 to 1, of drafts in which one fault is planted.
        seed (`int`, *optional*, defaults to 0): decides the wording of questions and where faults are planted.

    Raises:
        UsageError: `noise` is not between 0 and 1.
    """

    ks = range(1, 6)
    in_batches = False
    sources: str | None = "scenes"

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        if not 0 <= noise <= 1:
            raise UsageError(f"got a noise of {noise}; allowed is 0 (none) to 1 (a fault in every draft)")
        self.name = f"scenes:noise={noise:g}" if noise else "scenes"
        self._noise = noise
        self._seed = seed
        # The scenes being talked about are kept: each is asked about two to twenty times in a row.
        self._scene = lru_cache(maxsize=1024)(scene_of)

    async def prepare(self, request: Request) -> None:
        """Nothing: the scene is known by its seed."""

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        async for request in requests:
            scene = self._scene(seed_of(request.exposure.ref)) if request.exposure is not None else None
            if isinstance(request.subject, Task):
                yield self._written(request, request.subject, scene)
            else:
                yield self._judged(request, request.subject, scene)

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Nothing to give back."""

    def _written(self, request: Request, task: Task, scene: Scene | None) -> Reply:
        if scene is None:
            raise TeacherError("the teacher scenes writes questions about scenes, and was shown none")
        rng = random.Random(digest("scenes teacher", self._seed, request.key))
        drafts, planted = zip(*(self._draft(scene, combination, rng) for combination in task.combinations), strict=True)
        if len(drafts) == 1 and not drafts[0]["supported"]:
            return Reply(request.key, text="", refused="the picture does not support it", model=self.name)
        reply = _reply(request, "drafts", drafts, self.name)
        return replace(reply, planted=planted) if any(planted) else reply

    def _draft(self, scene: Scene, combination: tuple[str, ...], rng: random.Random) -> tuple[dict[str, Any], str]:
        fault = rng.choice(PLANTED) if rng.random() < self._noise else ""
        found = ask(scene, combination, rng)
        if found is None:
            return {"supported": False, "question": "", "answer": "", "confidence": 0}, ""
        spoilt = _plant(fault, scene, found, rng)
        draft = {"supported": True, "question": found.question, "answer": found.answer, "confidence": _CONFIDENCE}
        return draft | spoilt, fault if spoilt else ""

    def _judged(self, request: Request, questions: tuple[str, ...], scene: Scene | None) -> Reply:
        if scene is None:
            # Without the picture nothing is known of it.
            return _reply(request, "answers", [{"answer": "unanswerable"} for _ in questions], self.name)
        understood = [understand(scene, question) for question in questions]
        verdicts = [
            {
                "capabilities": list(found.capabilities) if found else [],
                "answer": found.answer if found else "unanswerable",
            }
            for found in understood
        ]
        return _reply(request, "verdicts", verdicts, self.name)


def _reply(request: Request, name: str, items: Sequence[Mapping[str, Any]], model: str) -> Reply:
    """Return the items as the JSON that the schema asks for: the one alone, or several by number under a name."""
    if len(items) == 1:
        written = {field: value for field, value in items[0].items() if field in request.schema.model_fields}
        return Reply(request.key, text=json.dumps(written), model=model)
    numbered = [{"number": number, **item} for number, item in enumerate(items, 1)]
    return Reply(request.key, text=json.dumps({name: numbered}), model=model)


def _plant(fault: str, scene: Scene, found: SceneQuestion, rng: random.Random) -> dict[str, str | int]:
    """Return what the fault changes in the draft; empty where the scene has no room for it."""
    match fault:
        case "wrong answer":
            others = (other for other in _others(scene, found, rng) if other.answer != found.answer)
            return next(({"answer": other.answer} for other in others), {})
        case "superfluous capability":
            more = (canonical((*found.capabilities, name)) for name in _shuffled(rng) if name not in found.capabilities)
            return _asked_instead(scene, more, rng)
        case "missing capability":
            fewer = (tuple(name for name in found.capabilities if name != left_out) for left_out in _shuffled(rng))
            return _asked_instead(scene, (few for few in fewer if few and few != found.capabilities), rng)
        case "joined question":
            for other in _others(scene, found, rng):
                second = other.question[0].lower() + other.question[1:]
                return {
                    "question": f"{found.question.rstrip('?')}, and {second}",
                    "answer": f"{found.answer} and {other.answer}",
                }
            return {}
        case "low confidence":
            return {"confidence": _LOW_CONFIDENCE}
    return {}


def _others(scene: Scene, found: SceneQuestion, rng: random.Random) -> list[SceneQuestion]:
    """Return questions of one capability about the same scene, the ones that ask for the same kind of answer first."""
    names = sorted(_shuffled(rng), key=lambda name: name not in found.capabilities)
    asked = (ask(scene, (name,), rng) for name in names)
    return [other for other in asked if other is not None]


def _asked_instead(scene: Scene, combinations: Iterable[tuple[str, ...]], rng: random.Random) -> dict[str, str | int]:
    for combination in combinations:
        other = ask(scene, combination, rng)
        if other is not None:
            return {"question": other.question, "answer": other.answer}
    return {}


def _shuffled(rng: random.Random) -> list[str]:
    return rng.sample(list(CAPABILITIES), len(CAPABILITIES))
