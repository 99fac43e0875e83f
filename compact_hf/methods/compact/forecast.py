"""Estimates the yield and the requests of COMPACT per image, for the forecast of a run.

The rounds of an image are a Markov chain over the number of its accepted questions. The probabilities are computed from
round to round; nothing is simulated. The pass rates of drafts are assumed, or measured in the run so far.
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
    """Shares of drafts, 0 to 1, that pass each stage.

    Attributes:
        generation (`float`): share of requested drafts that are written and pass the filters.
        verification (`float`): share of these that the verifier's verdict agrees with.
        blind (`float`): share of these that cannot be answered without the image (strict presets only).
    """

    generation: float
    verification: float
    blind: float = 1.0


@dataclass(frozen=True, slots=True)
class QuestionEstimate:
    """The average cost and yield of one image.

    Attributes:
        teacher_requests, verifier_requests, blind_requests (`float`): number of requests; blind ones go to the verifier
            too, but without the image.
        teacher_questions, verifier_questions, blind_questions (`float`): number of combinations or questions in these
            requests.
        kept (`float`): probability, 0 to 1, that the image is kept.
        questions (`float`): accepted questions; those of images that are not kept do not count.
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
    """Return the average cost and yield of an image, if drafts pass or fail independently of each other.

    Args:
        preset (`Preset`): the preset of the run.
        k (`int`): the k of the image.
        rates (`PassRates`): the pass rates of its drafts.
    """
    distribution: Mapping[int, float] = {0: 1.0}  # number of accepted questions -> share of images
    blind_rate = rates.blind if preset.strict else 1.0
    teacher_requests = verifier_requests = blind_requests = teacher_questions = 0.0
    # Combinations of this k that were not requested yet; k = 10 has a single one.
    combinations = math.comb(MAX_K, k)
    for _ in range(preset.max_rounds):
        count = min(preset.combinations_per_request, combinations)
        if not count:
            break
        combinations -= count
        active_share = sum(share for turns, share in distribution.items() if turns < preset.max_turns)
        teacher_requests += active_share
        teacher_questions += active_share * count
        # A request to the verifier is only sent if at least one draft is left for it.
        verifier_requests += active_share * _at_least_one(rates.generation, count)
        blind_requests += (
            active_share * _at_least_one(rates.generation * rates.verification, count) if preset.strict else 0.0
        )
        # Drafts that pass everything become turns; images with `max_turns` stay as they are.
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
    """Return the probability that at least one of `count` independent events occurs."""
    return 1 - (1 - probability) ** count


def _after_round(
    distribution: Mapping[int, float], count: int, accept_rate: float, max_turns: int
) -> Mapping[int, float]:
    """Return the distribution of accepted questions after a round with `count` drafts; finished images stay."""
    result: defaultdict[int, float] = defaultdict(float)
    for turns, share in distribution.items():
        if turns >= max_turns:
            result[turns] += share
            continue
        # Binomial distribution: `new_turns` of `count` drafts are accepted.
        for new_turns in range(count + 1):
            probability = (
                math.comb(count, new_turns) * accept_rate**new_turns * (1 - accept_rate) ** (count - new_turns)
            )
            result[turns + new_turns] += share * probability
    return result


RequestKind = Literal["teacher", "verifier", "blind"]
"""The kind of a request; `blind` goes to the verifier, without the image."""

ASSUMED_ACCEPT_RATE: Final = 0.8
"""Assumed share of drafts that pass all checks, until there are measurements."""
_LABELS: Final = {"teacher": "teacher", "verifier": "verifier", "blind": "verifier, without the image"}
# Assumed tokens per question of a reply, without thinking.
_OUTPUT_TOKENS: Final = {"teacher": 50, "verifier": 35, "blind": 10}
# Of typical length; its number of characters decides the assumed tokens of the verifier's prompts.
_SAMPLE_QUESTION: Final = "What colour is the jacket of the person who reaches for the second shelf from the left?"


def estimate_run(preset: Preset, status: RunStatus | None) -> ImageEstimate:
    """Return the average cost and yield of an image, over all k of the preset.

    Args:
        preset (`Preset`): the preset of the run.
        status (`RunStatus | None`): the run so far, whose measurements replace assumptions.
    """
    question_status = None if status is None else cast(QuestionRunStatus, status)
    # k is drawn uniformly, so the plain mean over the ks is the mean over images.
    mean = _mean(estimate_image(preset, k, estimate_pass_rates(k, question_status)) for k in preset.ks)
    return ImageEstimate(
        mean.kept,
        mean.questions,
        tuple(_iter_requests(mean, preset)),
        tuple(_describe_basis(question_status)),
    )


def estimate_pass_rates(k: int, status: QuestionRunStatus | None) -> PassRates:
    """Return the pass rates of drafts.

    Args:
        k (`int`): the k of the drafts.
        status (`QuestionRunStatus | None`): the run so far. Without it all drafts are assumed to be written, and 80% of
            them to pass.
    """
    if status is None:
        return PassRates(generation=1.0, verification=ASSUMED_ACCEPT_RATE)
    drafts, accepted = status.drafts_by_k, status.accepted_by_k
    total_drafts, total_accepted = sum(drafts.values()), sum(accepted.values())
    dropped = sum(reject_count.count for reject_count in status.rejects if reject_count.stage == "generation")
    guess_count = sum(
        reject_count.count for reject_count in status.rejects if reject_count.reason == VerificationReason.BLIND
    )
    # A k with too few drafts so far is assumed to have the overall rate.
    accept_rate = accepted[k] / drafts[k] if drafts.get(k, 0) >= MIN_SAMPLES else total_accepted / total_drafts
    # Rejects are not counted by k, so a k may have more accepted drafts than the overall rate of the filters allows.
    generation_rate = max(accept_rate, 1 - dropped / total_drafts)
    blind_rate = total_accepted / (total_accepted + guess_count) if total_accepted else 1.0
    # The product of the three rates is the measured accept rate, unless the verification rate is cut to 1.
    return PassRates(
        generation_rate, min(1.0, accept_rate / (generation_rate * blind_rate)) if generation_rate else 0.0, blind_rate
    )


def _mean(estimates: Iterable[QuestionEstimate]) -> QuestionEstimate:
    """Return the mean of estimates, field by field."""
    rows = [astuple(estimate) for estimate in estimates]
    return QuestionEstimate(*(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)))


def _iter_requests(mean: QuestionEstimate, preset: Preset) -> Iterator[RequestEstimate]:
    """Yield the estimate of each kind of request; blind requests exist for strict presets only."""
    # (kind, role that pays for it, requests, questions in them), per image.
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
    """Return the input tokens of a request with this many questions: the actual prompt's, and the image's."""
    is_several = preset.combinations_per_request > 1
    question_list = [_SAMPLE_QUESTION] * max(1, round(questions))
    match kind:
        case "teacher":
            # The prompts that a run would send first, for each k; seed and image do not change their length much.
            samples = [draw_combinations(0, "", k, (), preset.combinations_per_request) for k in preset.ks]
            prompts = [
                teacher_several_prompt(combinations) if is_several else teacher_prompt(combinations[0])
                for combinations in samples
            ]
        case "verifier":
            prompts = [verifier_several_prompt(question_list) if is_several else verifier_prompt(_SAMPLE_QUESTION)]
        case "blind":
            prompts = [blind_several_prompt(question_list) if is_several else blind_prompt(_SAMPLE_QUESTION)]
    # Characters to tokens; a blind request has no image.
    text = sum(map(len, prompts)) / len(prompts) / CHARS_PER_TOKEN
    return text if kind == "blind" else text + IMAGE_TOKENS


def _describe_basis(status: QuestionRunStatus | None) -> Iterator[str]:
    """Yield the lines that say what the pass rates are based on."""
    if status is None:
        yield from describe_assumptions(f"{ASSUMED_ACCEPT_RATE:.0%} of drafts pass")
    else:
        share = sum(status.accepted_by_k.values()) / sum(status.drafts_by_k.values())
        yield describe_measurement(status, f"{share:.0%} of drafts pass")
