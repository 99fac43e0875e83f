"""What a picture takes and gives on average: how drafts fare goes in, expected requests and questions come out.

Pure and exact: the rounds of a picture are a Markov chain over the number of its accepted questions, and its
probabilities are carried from round to round, without any simulation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.sampling import MAX_K


@dataclass(frozen=True, slots=True)
class Fate:
    """How drafts fare, as shares from 0 to 1.

    Attributes:
        written (`float`): of the drafts that were asked for, those that come and pass the checks made in code.
        verified (`float`): of those, the ones that the verdict agrees with.
        unguessed (`float`): of those, the ones that cannot be answered without the picture (strict presets only).
    """

    written: float
    verified: float
    unguessed: float = 1.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What one picture takes and gives, on average.

    Attributes:
        teacher, verifier, blind (`float`): requests; blind ones go to the verifier too, without the picture.
        asked, judged, guessed (`float`): combinations and questions in these requests.
        kept (`float`): probability that the picture is kept.
        questions (`float`): accepted questions, those of pictures that are not kept left out.
    """

    teacher: float
    verifier: float
    blind: float
    asked: float
    judged: float
    guessed: float
    kept: float
    questions: float


def expected(preset: Preset, k: int, fate: Fate) -> Expected:
    """Return what a picture of this k takes and gives where each draft fares by itself."""
    standing: Mapping[int, float] = {0: 1.0}  # accepted questions -> share of the pictures
    unguessed = fate.unguessed if preset.strict else 1.0
    teacher = verifier = blind = asked = 0.0
    combinations = math.comb(MAX_K, k)
    for _ in range(preset.max_rounds):
        count = min(preset.combinations_per_request, combinations)
        if not count:
            break
        combinations -= count
        going_on = sum(share for turns, share in standing.items() if turns < preset.max_turns)
        teacher += going_on
        asked += going_on * count
        # A round that leaves nothing to judge, or to guess, spares that request.
        verifier += going_on * _any(fate.written, count)
        blind += going_on * _any(fate.written * fate.verified, count) if preset.strict else 0.0
        standing = _after_round(standing, count, fate.written * fate.verified * unguessed, preset.max_turns)
    judged = asked * fate.written
    return Expected(
        teacher=teacher,
        verifier=verifier,
        blind=blind,
        asked=asked,
        judged=judged,
        guessed=judged * fate.verified if preset.strict else 0.0,
        kept=sum(share for turns, share in standing.items() if turns >= preset.min_turns),
        questions=sum(turns * share for turns, share in standing.items() if turns >= preset.min_turns),
    )


def _any(chance: float, count: int) -> float:
    return 1 - (1 - chance) ** count


def _after_round(standing: Mapping[int, float], count: int, accepted: float, enough: int) -> Mapping[int, float]:
    after: defaultdict[int, float] = defaultdict(float)
    for turns, share in standing.items():
        if turns >= enough:
            after[turns] += share
            continue
        for more in range(count + 1):
            chance = math.comb(count, more) * accepted**more * (1 - accepted) ** (count - more)
            after[turns + more] += share * chance
    return after
