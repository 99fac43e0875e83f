"""Draws scenes as an image source: the reference `scene:SEED` is read as a PNG file.

compact generate scenes:100 --out run
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from compact_hf.errors import SourceError, UsageError
from compact_hf.scenes.scene import EVALUATION_SEEDS, build_scene

_SCENES_SYNTAX = "scenes:N (seeds 0 to N-1) or scenes:A-B (seeds A to B-1)"


@dataclass(frozen=True, slots=True)
class SceneSource:
    """An image source of the scenes with the seeds `start` to `stop - 1`.

    Attributes:
        start (`int`): the first seed.
        stop (`int`): the seed after the last one.
        identity (`str`): `scenes`, because a reference means the same scene in every range.
    """

    start: int
    stop: int

    identity: ClassVar[str] = "scenes"

    def refs(self) -> Iterator[str]:
        """Yield `scene:SEED` in the order of the seeds."""
        return (f"scene:{seed}" for seed in range(self.start, self.stop))

    def describe_skipped(self) -> str:
        """Return an empty string: every scene is listed."""
        return ""

    def block(self, ref: str) -> str:
        """Return `ref`, because each scene is drawn separately."""
        return ref

    def origin(self, ref: str) -> tuple[str, str]:  # noqa: ARG002 (the Source protocol names it)
        """Return the origin `scenes` and the license `CC0-1.0`."""
        return "scenes", "CC0-1.0"

    def partial_hash(self, ref: str) -> str:
        """Return the seed of a scene; SourceError if `ref` is not `scene:SEED`."""
        return str(parse_seed(ref))

    def stamp(self, ref: str) -> str:  # noqa: ARG002 (the Source protocol names it)
        """Return an empty string, because the scene of a seed never changes."""
        return ""

    def read(self, ref: str) -> bytes:
        """Return the image as a PNG file.

        Raises:
            SourceError: `ref` is not `scene:SEED`.
        """
        from compact_hf.scenes.render import render_png

        return render_png(build_scene(parse_seed(ref)))


def parse_seed(ref: str) -> int:
    """Return the seed of a reference.

    Args:
        ref (`str`): `scene:SEED`.

    Raises:
        SourceError: `ref` has another form.
    """
    match = re.fullmatch(r"scene:([0-9]{1,18})", ref)
    if match is None:
        raise SourceError(f"{ref!r} is not the reference of a scene: give scene:SEED, such as scene:7")
    return int(match[1])


def parse_scenes(text: str) -> SceneSource:
    """Return the scenes that an argument of the command line selects.

    Args:
        text (`str`): `scenes:N` for the seeds 0 to N-1, or `scenes:A-B` for the seeds A to B-1.

    Raises:
        UsageError: `text` has another form, selects no scenes, or selects scenes that are reserved for evaluation.
    """
    # The number before the hyphen is optional; without it the seeds begin at 0.
    match = re.fullmatch(r"scenes:(?:([0-9]{1,18})-)?([0-9]{1,18})", text)
    if match is None:
        raise UsageError(f"{text!r} does not select scenes: give {_SCENES_SYNTAX}")
    start, stop = int(match[1] or 0), int(match[2])
    if stop <= start:
        raise UsageError(f"{text!r} contains no scenes: give {_SCENES_SYNTAX}, with at least one seed")
    if start < EVALUATION_SEEDS.stop and stop > EVALUATION_SEEDS.start:
        raise UsageError(
            f"{text!r} includes scenes reserved for evaluation, seeds {EVALUATION_SEEDS.start} to "
            f"{EVALUATION_SEEDS.stop - 1}: give other seeds"
        )
    return SceneSource(start, stop)


def reserved_scenes(n: int) -> SceneSource:
    """Return the first scenes of those reserved for evaluation.

    Args:
        n (`int`): number of scenes.

    Raises:
        UsageError: `n` is less than 1 or more than the number of reserved seeds.
    """
    if not 1 <= n <= len(EVALUATION_SEEDS):
        raise UsageError(f"asked for {n} evaluation scenes: give a number from 1 to {len(EVALUATION_SEEDS)}")
    return SceneSource(EVALUATION_SEEDS.start, EVALUATION_SEEDS.start + n)
