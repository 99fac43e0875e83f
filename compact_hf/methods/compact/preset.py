"""Defines presets: all parameters of the method, under a name and a version that every row of a dataset records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.errors import UsageError, did_you_mean
from compact_hf.images.codec import check_max_edge
from compact_hf.images.source import MAX_EDGE
from compact_hf.methods.compact.sampling import MAX_K

METHOD: Final = "compact"


@dataclass(frozen=True, slots=True)
class Preset:
    """The parameters of COMPACT (paper, section 3.2 and appendix).

    Attributes:
        name, version (`str`): together the `preset_version` of rows. Any change of prompts, checks or parameters
            requires a new version.
        ks (`tuple[int, ...]`): k is drawn uniformly from these.
        min_confidence (`int`): per cent, 0 to 100; drafts below are dropped.
        max_overlap (`float`): share of common words, 0 to 1, above which a question repeats an accepted question about
            the same image.
        combinations_per_request (`int`): number of combinations that one request per round asks for.
        max_rounds (`int`): number of rounds after which an image is given up.
        max_turns, min_turns (`int`): number of accepted questions at which an image is finished, and number that it
            needs to be kept. If a round asks for several questions, more than `max_turns` may be accepted; all are
            kept.
        max_edge (`int`): pixels on the longer side of the image that teacher and verifier see.
        strict (`bool`): whether to do two checks that the paper does not have: the verifier's own answer must agree
            with the draft's, and the question must not be answered correctly without the image.
    """

    name: str
    version: str
    # The defaults are those of the preset `paper`.
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
        """The name and version that rows record: `NAME@VERSION` or `NAME@VERSION+strict@VERSION`."""
        # Both strict checks compare answers, so their version is that of the rules for answers (1 if it is missing).
        return f"{self.name}@{self.version}{f'+strict@{ANSWER_RULES_VERSION}' if self.strict else ''}"

    def with_overrides(self, ks: Sequence[int] | None, *, max_edge: int, teacher: str, supported_ks: range) -> Preset:
        """Return a copy of the preset with other values of k and another image size.

        Args:
            ks (`Sequence[int] | None`): the values of k; None or empty keeps those of the preset.
            max_edge (`int`): pixels on the longer side of the image.
            teacher (`str`): the name of the teacher, for error messages.
            supported_ks (`range`): the values of k that the teacher supports.

        Raises:
            UsageError: a k is out of range, not supported by the teacher, or has too few combinations; or `max_edge` is
                out of range.
        """
        for k in ks or self.ks:
            if not 1 <= k <= MAX_K:
                raise UsageError(f"k = {k} is out of range: a question needs 1 to {MAX_K} capabilities")
            if k not in supported_ks:
                raise UsageError(
                    f"k = {k} is not supported: the teacher {teacher} has questions for k = {supported_ks.start} to "
                    f"{supported_ks[-1]}"
                )
            # Only k = 10: its single combination gives one question, so every image would be dropped.
            if math.comb(MAX_K, k) < self.min_turns:
                raise UsageError(
                    f"k = {k} has only {math.comb(MAX_K, k)} combination of capabilities (an image needs "
                    f"{self.min_turns} questions to be kept): give k up to {MAX_K - 1}"
                )
        # Sorted and unique: the identity of a run must not depend on how the ks were written.
        return replace(self, ks=tuple(sorted(set(ks or self.ks))), max_edge=check_max_edge(max_edge))


PAPER: Final = Preset(name="paper", version="1")

# If 80% of drafts are accepted, four combinations give three questions. One request writes them and one verifies them,
# so the image is sent twice instead of six times or more.
EFFICIENT: Final = Preset(name="efficient", version="1", combinations_per_request=4, max_rounds=4)
# In batches a round takes up to two days, so there are fewer rounds with more combinations each.
EFFICIENT_BATCH: Final = replace(EFFICIENT, name="efficient-batch", combinations_per_request=6, max_rounds=2)

PRESETS: Final = {preset.name: preset for preset in (PAPER, EFFICIENT)}


def get_preset(name: str, *, strict: bool = False, is_batch: bool = False) -> Preset:
    """Return a preset by its name.

    Args:
        name (`str`): `paper` or `efficient`.
        strict (`bool`, *optional*, defaults to False): whether to do the two strict checks.
        is_batch (`bool`, *optional*, defaults to False): whether a model replies in batches, which may take a day each.
            `efficient` then asks for more questions per round, in two rounds at most.

    Raises:
        UsageError: there is no such preset, or it would need too many batches.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: there are {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    preset = PRESETS[name]
    # `efficient` has a variant for batches; rounds of single questions would take weeks.
    if is_batch and preset != EFFICIENT:
        raise UsageError(
            f"the preset {name} does not work with a model that replies in batches (its {preset.max_rounds} rounds of "
            "two requests each would wait for up to twenty batches of up to 24 hours each): use --preset efficient"
        )
    return replace(EFFICIENT_BATCH if is_batch else preset, strict=strict)
