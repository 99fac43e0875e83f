"""The embedded teacher: it asks and judges questions about drawn scenes, whose truth it knows. No key, no network.

As a teacher it looks up the scene and asks for the combination in the task. As a verifier it reads the question's words
and works out from the scene what they need. With `noise` it plants, by a seed, the faults that real teachers make, and
labels each in `Reply.planted`; the verifier never sees that label.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from functools import lru_cache
from typing import Final

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.errors import TeacherError, UsageError
from compact_hf.records import Task, digest
from compact_hf.scenes.layout import scene_of
from compact_hf.scenes.questions import SceneQuestion, ask, understand
from compact_hf.scenes.scene import Scene
from compact_hf.scenes.source import seed_of
from compact_hf.teachers.teacher import Failure, Reply, Request

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
    sources: str | None = "scenes"

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        if not 0 <= noise <= 1:
            raise UsageError(f"got a noise of {noise}; allowed is 0 (none) to 1 (a fault in every draft)")
        self.name = f"scenes:noise={noise:g}" if noise else "scenes"
        self._noise = noise
        self._seed = seed
        # The scenes being talked about are kept: each is asked about two to twenty times in a row.
        self._scene = lru_cache(maxsize=1024)(scene_of)

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        async for request in requests:
            if request.exposure is None:
                # Without the picture nothing is known of the scene.
                yield Reply(request.key, text=json.dumps({"answer": "unanswerable"}), model="scenes")
                continue
            scene = self._scene(seed_of(request.exposure.ref))
            if isinstance(request.subject, Task):
                yield self._draft(request, request.subject, scene)
            else:
                yield self._verdict(request, request.subject, scene)

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Nothing to give back."""

    def _draft(self, request: Request, task: Task, scene: Scene) -> Reply:
        if len(task.combinations) != 1:
            raise TeacherError(f"the teacher scenes writes one question a request, got {len(task.combinations)}")
        rng = random.Random(digest("scenes teacher", self._seed, request.key))
        fault = rng.choice(PLANTED) if rng.random() < self._noise else ""
        found = ask(scene, task.combinations[0], rng)
        if found is None:
            return Reply(request.key, text="", refused="the picture does not support it", model=self.name)
        written = {"question": found.question, "answer": found.answer, "confidence": _CONFIDENCE}
        spoilt = _plant(fault, scene, found, rng)
        return Reply(request.key, text=json.dumps(written | spoilt), model=self.name, planted=fault if spoilt else "")

    def _verdict(self, request: Request, question: str, scene: Scene) -> Reply:
        found = understand(scene, question)
        judged = {
            "capabilities": list(found.capabilities) if found else [],
            "answer": found.answer if found else "unanswerable",
        }
        return Reply(request.key, text=json.dumps(judged), model=self.name)


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
