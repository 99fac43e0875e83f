"""Scenes as a source of images: refs `scene:SEED` in, PNG files out."""

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
    """The scenes of the seeds `start` to `stop - 1`."""

    start: int
    stop: int

    identity: ClassVar[str] = "scenes"

    def refs(self) -> Iterator[str]:
        """Yield `scene:SEED` in the order of the seeds."""
        return (f"scene:{seed}" for seed in range(self.start, self.stop))

    def block(self, ref: str) -> str:
        """Return `ref`: each scene is drawn alone."""
        return ref

    def origin(self, ref: str) -> tuple[str, str]:  # noqa: ARG002 (the Source protocol names it)
        """Return `scenes`, and that they are free for any use."""
        return "scenes", "CC0-1.0"

    def stamp(self, ref: str) -> str:  # noqa: ARG002 (the Source protocol names it)
        """Return nothing: a seed's scene never changes."""
        return ""

    def read(self, ref: str) -> bytes:
        """Return the image as a PNG file.

        Raises:
            SourceError: `ref` is not `scene:SEED`.
        """
        from compact_hf.scenes.render import render_png

        return render_png(build_scene(parse_seed(ref)))


def parse_seed(ref: str) -> int:
    """Return the seed of `scene:SEED`.

    Raises:
        SourceError: `ref` is something else.
    """
    match = re.fullmatch(r"scene:([0-9]{1,18})", ref)
    if match is None:
        raise SourceError(f"{ref!r} is not a drawn scene; a scene's ref is scene:SEED, such as scene:7")
    return int(match[1])


def parse_scenes(text: str) -> SceneSource:
    """Return the scenes that a command line's `scenes:N` or `scenes:A-B` stands for.

    Raises:
        UsageError: another text, no scene at all, or scenes that are reserved for evaluation.
    """
    match = re.fullmatch(r"scenes:(?:([0-9]{1,18})-)?([0-9]{1,18})", text)
    if match is None:
        raise UsageError(f"{text!r} names no scenes; give {_SCENES_SYNTAX}")
    start, stop = int(match[1] or 0), int(match[2])
    if stop <= start:
        raise UsageError(f"{text!r} holds no scene; give {_SCENES_SYNTAX}, with at least one seed")
    if start < EVALUATION_SEEDS.stop and stop > EVALUATION_SEEDS.start:
        raise UsageError(
            f"{text!r} reaches into the scenes reserved for evaluation, seeds {EVALUATION_SEEDS.start} to "
            f"{EVALUATION_SEEDS.stop - 1}; give seeds outside of them"
        )
    return SceneSource(start, stop)


def reserved_scenes(n: int) -> SceneSource:
    """Return the first `n` of the scenes reserved for evaluation.

    Raises:
        UsageError: `n` is less than 1, or more than there are.
    """
    if not 1 <= n <= len(EVALUATION_SEEDS):
        raise UsageError(f"asked for {n} evaluation scenes; there are 1 to {len(EVALUATION_SEEDS)}")
    return SceneSource(EVALUATION_SEEDS.start, EVALUATION_SEEDS.start + n)
