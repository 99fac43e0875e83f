"""The embedded teacher: it answers about drawn scenes, whose truth it knows. No key, no network.

What is true of a scene about what a method asks, the request's subject says. With a `fault_rate` it lets the subject
plant, by a seed, the faults that real teachers make, and labels each in `Reply.planted`; a verifier never sees that
label.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import lru_cache

from compact_hf.errors import TeacherError, UsageError
from compact_hf.records import digest
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import parse_seed
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.registry import TeacherSettings


class ScenesTeacher:
    """Answer about drawn scenes.

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
            yield self._answer(request)

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Nothing to give back."""

    def _answer(self, request: Request) -> Reply:
        if request.subject is None:
            raise TeacherError(
                "the teacher scenes does not know what this method asks (its requests have no subject); "
                "name a teacher that reads, such as gemini"
            )
        image = request.encoded_image
        scene = self._get_scene(parse_seed(image.ref)) if image is not None else None
        rng = random.Random(digest("scenes teacher", self._seed, request.key))

        def draw_fault(faults: Sequence[str]) -> str:
            return rng.choice(faults) if rng.random() < self._fault_rate else ""

        truth = request.subject.answer_about(scene, rng, draw_fault)
        return Reply(request.key, truth.text, self.name, refused=truth.refused, planted=truth.planted)


def open_scenes(_model: str, settings: TeacherSettings) -> ScenesTeacher:
    """Return the teacher `scenes`; see `teachers.registry.Backend`."""
    return ScenesTeacher(fault_rate=settings.fault_rate, seed=settings.seed)
