"""Implements the teacher `scenes`, which computes correct replies about drawn scenes, without a model, key or network.

The subject of a request computes the reply from the scene. With a `fault_rate`, the subject also plants faults of the
kinds that real teachers make, chosen by a seed. Each planted fault is labelled in `Reply.planted`, which a verifier
never sees.
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
    """Teacher that answers requests about drawn scenes.

    Args:
        fault_rate (`float`, *optional*, defaults to 0.0): share of drafts, 0 to 1, in which one fault is planted.
        seed (`int`, *optional*, defaults to 0): random seed of the wording of questions and of the planted faults.

    Raises:
        UsageError: `fault_rate` is not between 0 and 1.
    """

    ks = range(1, 6)
    is_batch = False
    source_type: str | None = "scenes"

    def __init__(self, *, fault_rate: float = 0.0, seed: int = 0) -> None:
        if not 0 <= fault_rate <= 1:
            raise UsageError(f"got --noise {fault_rate}: give a value from 0 (no faults) to 1 (a fault in every draft)")
        self.name = f"scenes:noise={fault_rate:g}" if fault_rate else "scenes"
        self._fault_rate = fault_rate
        self._seed = seed
        # Cached, because 2 to 20 requests about the same scene follow each other.
        self._get_scene = lru_cache(maxsize=1024)(build_scene)

    async def prepare(self, request: Request) -> None:
        """Do nothing, because the scene is built from its seed.

        Args:
            request (`Request`): a request that will be sent soon.
        """

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` per request; see `Teacher.ask`.

        Args:
            requests (`AsyncIterator[Request]`): the requests.
        """
        async for request in requests:
            yield self._answer(request)

    async def flush(self) -> None:
        """Do nothing, because requests are never held back."""

    async def close(self) -> None:
        """Do nothing, because there are no resources to close."""

    def _answer(self, request: Request) -> Reply:
        """Compute the reply to a request, with random choices seeded by the request."""
        if request.subject is None:
            raise TeacherError(
                "the teacher scenes does not support this method (its requests have no subject): "
                "name another teacher, such as gemini"
            )
        image = request.encoded_image
        scene = self._get_scene(parse_seed(image.ref)) if image is not None else None
        # The same request gets the same reply in every session and in any order.
        rng = random.Random(digest("scenes teacher", self._seed, request.key))

        def draw_fault(faults: Sequence[str]) -> str:
            return rng.choice(faults) if rng.random() < self._fault_rate else ""

        truth = request.subject.answer_about(scene, rng, draw_fault)
        return Reply(request.key, truth.text, self.name, refused=truth.refused, planted=truth.planted)


def open_scenes(_model: str, settings: TeacherSettings) -> ScenesTeacher:
    """Return the teacher `scenes`; see `opener` of `teachers.registry.Backend`.

    Args:
        _model (`str`): ignored, because the teacher has no models.
        settings (`TeacherSettings`): its `fault_rate` and `seed` are used.
    """
    return ScenesTeacher(fault_rate=settings.fault_rate, seed=settings.seed)
