"""How COMPACT's questions fare and what they take, for a forecast of a run.

The rounds of an image are a Markov chain over the number of its accepted questions: probabilities are carried from
round to round, without any simulation. How drafts fare is assumed, or the mean of what the run has done.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Final, Literal, cast

from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    blind_prompt,
    blind_several_prompt,
    teacher_prompt,
    teacher_several_prompt,
    verifier_prompt,
    verifier_several_prompt,
)
from compact_hf.methods.compact.reasons import VerificationReason
from compact_hf.methods.compact.sampling import MAX_K, draw_combinations
from compact_hf.methods.compact.status import QuestionRunStatus
from compact_hf.methods.forecast import (
    CHARS_PER_TOKEN,
    IMAGE_TOKENS,
    MIN_SAMPLES,
    THINKING_TOKENS,
    ImageEstimate,
    RequestEstimate,
    describe_assumptions,
    describe_measurement,
)
from compact_hf.methods.status import RunStatus
from compact_hf.teachers.base import Role


@dataclass(frozen=True, slots=True)
class PassRates:
    """How drafts fare, as shares from 0 to 1.

    Attributes:
        generation (`float`): of the drafts that were asked for, those that come and pass the checks made in code.
        verification (`float`): of those, the ones that the verdict agrees with.
        blind (`float`): of those, the ones that cannot be answered without the image (strict presets only).
    """

    generation: float
    verification: float
    blind: float = 1.0


@dataclass(frozen=True, slots=True)
class QuestionEstimate:
    """What one image takes and gives, on average.

    Attributes:
        teacher_requests, verifier_requests, blind_requests (`float`): requests; blind ones go to the verifier too,
            without the image.
        teacher_questions, verifier_questions, blind_questions (`float`): combinations and questions in these requests.
        kept (`float`): probability that the image is kept.
        questions (`float`): accepted questions, those of images that are not kept left out.
    """

    teacher_requests: float
    verifier_requests: float
    blind_requests: float
    teacher_questions: float
    verifier_questions: float
    blind_questions: float
    kept: float
    questions: float


def estimate_image(preset: Preset, k: int, rates: PassRates) -> QuestionEstimate:
    """Return what an image of this k takes and gives where each draft fares by itself."""
    distribution: Mapping[int, float] = {0: 1.0}  # accepted questions -> share of the images
    blind_rate = rates.blind if preset.strict else 1.0
    teacher_requests = verifier_requests = blind_requests = teacher_questions = 0.0
    combinations = math.comb(MAX_K, k)
    for _ in range(preset.max_rounds):
        count = min(preset.combinations_per_request, combinations)
        if not count:
            break
        combinations -= count
        active_share = sum(share for turns, share in distribution.items() if turns < preset.max_turns)
        teacher_requests += active_share
        teacher_questions += active_share * count
        # A round that leaves nothing to judge, or to guess, spares that request.
        verifier_requests += active_share * _at_least_one(rates.generation, count)
        blind_requests += (
            active_share * _at_least_one(rates.generation * rates.verification, count) if preset.strict else 0.0
        )
        distribution = _after_round(
            distribution, count, rates.generation * rates.verification * blind_rate, preset.max_turns
        )
    verifier_questions = teacher_questions * rates.generation
    return QuestionEstimate(
        teacher_requests=teacher_requests,
        verifier_requests=verifier_requests,
        blind_requests=blind_requests,
        teacher_questions=teacher_questions,
        verifier_questions=verifier_questions,
        blind_questions=verifier_questions * rates.verification if preset.strict else 0.0,
        kept=sum(share for turns, share in distribution.items() if turns >= preset.min_turns),
        questions=sum(turns * share for turns, share in distribution.items() if turns >= preset.min_turns),
    )


def _at_least_one(probability: float, count: int) -> float:
    return 1 - (1 - probability) ** count


def _after_round(
    distribution: Mapping[int, float], count: int, accept_rate: float, max_turns: int
) -> Mapping[int, float]:
    result: defaultdict[int, float] = defaultdict(float)
    for turns, share in distribution.items():
        if turns >= max_turns:
            result[turns] += share
            continue
        for new_turns in range(count + 1):
            probability = (
                math.comb(count, new_turns) * accept_rate**new_turns * (1 - accept_rate) ** (count - new_turns)
            )
            result[turns + new_turns] += share * probability
    return result


RequestKind = Literal["teacher", "verifier", "blind"]
"""What is asked: `blind` goes to the verifier, without the image."""

ASSUMED_ACCEPT_RATE: Final = 0.8
"""Share of drafts that are taken to pass all checks, before anything is known."""
_LABELS: Final = {"teacher": "teacher", "verifier": "verifier", "blind": "verifier, without the picture"}
_OUTPUT_TOKENS: Final = {"teacher": 50, "verifier": 35, "blind": 10}
_SAMPLE_QUESTION: Final = "What colour is the jacket of the person who reaches for the second shelf from the left?"


def estimate_run(preset: Preset, status: RunStatus | None) -> ImageEstimate:
    """Return what an image takes and gives on average, over the preset's k.

    Args:
        preset (`Preset`): the parameters, `ks` and `strict` included.
        status (`RunStatus | None`): the run so far, whose means replace assumptions.
    """
    question_status = None if status is None else cast(QuestionRunStatus, status)
    mean = _mean(estimate_image(preset, k, estimate_pass_rates(k, question_status)) for k in preset.ks)
    return ImageEstimate(
        mean.kept,
        mean.questions,
        tuple(_iter_requests(mean, preset)),
        tuple(_describe_basis(question_status)),
    )


def estimate_pass_rates(k: int, status: QuestionRunStatus | None) -> PassRates:
    """Return how drafts of this k fared in a run so far; without one, all are taken to come and 80% to pass."""
    if status is None:
        return PassRates(generation=1.0, verification=ASSUMED_ACCEPT_RATE)
    drafts, accepted = status.drafts_by_k, status.accepted_by_k
    total_drafts, total_accepted = sum(drafts.values()), sum(accepted.values())
    dropped = sum(reject_count.count for reject_count in status.rejects if reject_count.stage == "generation")
    guess_count = sum(
        reject_count.count for reject_count in status.rejects if reject_count.reason == VerificationReason.BLIND
    )
    # A k that was hardly drawn yet is taken to fare as all do.
    accept_rate = accepted[k] / drafts[k] if drafts.get(k, 0) >= MIN_SAMPLES else total_accepted / total_drafts
    generation_rate = max(accept_rate, 1 - dropped / total_drafts)
    blind_rate = total_accepted / (total_accepted + guess_count) if total_accepted else 1.0
    return PassRates(
        generation_rate, min(1.0, accept_rate / (generation_rate * blind_rate)) if generation_rate else 0.0, blind_rate
    )


def _mean(estimates: Iterable[QuestionEstimate]) -> QuestionEstimate:
    rows = [astuple(estimate) for estimate in estimates]
    return QuestionEstimate(*(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)))


def _iter_requests(mean: QuestionEstimate, preset: Preset) -> Iterator[RequestEstimate]:
    kinds: list[tuple[RequestKind, Role, float, float]] = [
        ("teacher", "teacher", mean.teacher_requests, mean.teacher_questions),
        ("verifier", "verifier", mean.verifier_requests, mean.verifier_questions),
        ("blind", "verifier", mean.blind_requests, mean.blind_questions),
    ]
    for kind, role, requests, questions in kinds[: 3 if preset.strict else 2]:
        yield RequestEstimate(
            kind,
            _LABELS[kind],
            role,
            requests,
            requests * _estimate_input_tokens(kind, questions / requests if requests else 1, preset),
            questions * (_OUTPUT_TOKENS[kind] + THINKING_TOKENS),
        )


def _estimate_input_tokens(kind: RequestKind, questions: float, preset: Preset) -> float:
    """Return the tokens of one request that holds so many questions: the real prompt's, and the image's."""
    is_several = preset.combinations_per_request > 1
    question_list = [_SAMPLE_QUESTION] * max(1, round(questions))
    match kind:
        case "teacher":
            samples = [draw_combinations(0, "", k, (), preset.combinations_per_request) for k in preset.ks]
            prompts = [
                teacher_several_prompt(combinations) if is_several else teacher_prompt(combinations[0])
                for combinations in samples
            ]
        case "verifier":
            prompts = [verifier_several_prompt(question_list) if is_several else verifier_prompt(_SAMPLE_QUESTION)]
        case "blind":
            prompts = [blind_several_prompt(question_list) if is_several else blind_prompt(_SAMPLE_QUESTION)]
    text = sum(map(len, prompts)) / len(prompts) / CHARS_PER_TOKEN
    return text if kind == "blind" else text + IMAGE_TOKENS


def _describe_basis(status: QuestionRunStatus | None) -> Iterator[str]:
    if status is None:
        yield from describe_assumptions(f"{ASSUMED_ACCEPT_RATE:.0%} of drafts pass")
    else:
        share = sum(status.accepted_by_k.values()) / sum(status.drafts_by_k.values())
        yield describe_measurement(status, f"{share:.0%} of drafts pass")
