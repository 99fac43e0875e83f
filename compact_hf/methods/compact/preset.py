"""A preset: every parameter of the method, under a name and a version that stand in each row of a release."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.errors import UsageError, did_you_mean
from compact_hf.images.codec import check_max_edge
from compact_hf.images.source import MAX_EDGE
from compact_hf.methods.compact.sampling import MAX_K

METHOD: Final = "compact"


@dataclass(frozen=True, slots=True)
class Preset:
    """COMPACT's parameters (paper, section 3.2 and appendix).

    Attributes:
        name, version (`str`): together the `preset_version` of rows; the version goes up with any change of prompts,
            checks or parameters.
        ks (`tuple[int, ...]`): k is drawn uniformly from these.
        min_confidence (`int`): per cent, 0 to 100; a draft below is dropped.
        max_overlap (`float`): share of words, 0 to 1; a question above it repeats an accepted one of its image.
        combinations_per_request (`int`): how many combinations one round asks for, in one request.
        max_rounds (`int`): rounds after which an image is given up.
        max_turns, min_turns (`int`): accepted questions at which an image is done, and that it needs to be kept. A
            round that asks for several may bring more than `max_turns`: a surplus, all of which is kept.
        max_edge (`int`): pixels on the longer edge of the image that teacher and verifier see.
        strict (`bool`): two checks more, beyond the paper: the verifier's own answer must agree with the draft's, and
            the question must not be answered rightly without the image.
    """

    name: str
    version: str
    ks: tuple[int, ...] = (1, 2, 3)
    min_confidence: int = 70
    max_overlap: float = 0.6
    combinations_per_request: int = 1
    max_rounds: int = 10
    max_turns: int = 3
    min_turns: int = 2
    max_edge: int = MAX_EDGE
    strict: bool = False

    @property
    def preset_version(self) -> str:
        """`NAME@VERSION` or `NAME@VERSION+strict`, as it stands in rows."""
        return f"{self.name}@{self.version}{'+strict' if self.strict else ''}"

    def with_overrides(self, ks: Sequence[int] | None, *, max_edge: int, teacher: str, supported_ks: range) -> Preset:
        """Return the preset with these k, or its own where none are given, and images of this size.

        Args:
            teacher (`str`), possible (`range`): who is asked, and the k that it has questions for.

        Raises:
            UsageError: a k that nobody can ask for, or that leaves too few combinations; or no pixels.
        """
        for k in ks or self.ks:
            if not 1 <= k <= MAX_K:
                raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
            if k not in supported_ks:
                raise UsageError(
                    f"got k = {k}; the teacher {teacher} has questions for k = {supported_ks.start} to "
                    f"{supported_ks[-1]}"
                )
            if math.comb(MAX_K, k) < self.min_turns:
                raise UsageError(
                    f"got k = {k}, which leaves {math.comb(MAX_K, k)} combination to ask for; "
                    f"a picture needs {self.min_turns} questions to be kept, so give k up to {MAX_K - 1}"
                )
        return replace(self, ks=tuple(sorted(set(ks or self.ks))), max_edge=check_max_edge(max_edge))


PAPER: Final = Preset(name="paper", version="1")

# Four combinations bring three questions where a teacher has four drafts in five accepted; one request writes them and
# one judges them, so that the image travels twice instead of six times or more.
EFFICIENT: Final = Preset(name="efficient", version="1", combinations_per_request=4, max_rounds=4)
# In batches a round takes up to two days: more is asked for at once, and less often.
EFFICIENT_BATCH: Final = replace(EFFICIENT, name="efficient-batch", combinations_per_request=6, max_rounds=2)

PRESETS: Final = {preset.name: preset for preset in (PAPER, EFFICIENT)}


def get_preset(name: str, *, strict: bool = False, is_batch: bool = False) -> Preset:
    """Return a preset by its name, with or without the two strict checks.

    Args:
        is_batch (`bool`, *optional*, defaults to False): for a teacher that takes a day for whatever it is asked:
            `efficient` then asks for a surplus at once, and for two rounds at most.

    Raises:
        UsageError: there is none of that name, or it would wait for too many batches.
    """
    if name not in PRESETS:
        raise UsageError(f"got the preset {name!r}; there are {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    preset = PRESETS[name]
    if is_batch and preset != EFFICIENT:
        raise UsageError(
            f"got the preset {name} for a teacher that answers in batches; its {preset.max_rounds} rounds of two "
            "requests each would wait for up to twenty batches, each up to 24 hours: use --preset efficient"
        )
    return replace(EFFICIENT_BATCH if is_batch else preset, strict=strict)
