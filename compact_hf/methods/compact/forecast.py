"""Forecast a run: expected requests, tokens, price and time for a number of images.

Nothing is asked and no key is needed. How drafts fare and how long requests are is assumed, or the mean of what the
run's journal holds already; a forecast says in words what it is based on. The rounds of an image are a Markov chain
over the number of its accepted questions: probabilities are carried from round to round, without any simulation.

    compact generate photos --out run --dry-run
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final, Literal

from compact_hf.errors import UsageError
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    blind_prompt,
    blind_several_prompt,
    teacher_prompt,
    teacher_several_prompt,
    verifier_prompt,
    verifier_several_prompt,
)
from compact_hf.methods.compact.sampling import MAX_K, draw_combinations
from compact_hf.methods.compact.status import RunStatus
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, format_price


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
class ImageEstimate:
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


def estimate_image(preset: Preset, k: int, rates: PassRates) -> ImageEstimate:
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
    return ImageEstimate(
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
IMAGE_TOKENS: Final = 1120
"""Gemini 3's for one image, where no media resolution is set."""
THINKING_TOKENS: Final = 200
"""For each question that is written or judged: thinking level `low` takes 100 to 500 a request."""
REQUEST_S: Final = 5.0
MIN_SAMPLES: Final = 10
"""Finished images, and drafts of one k, from which on the journal's own means are used."""
_CHARS_PER_TOKEN: Final = 4
_OUTPUT_TOKENS: Final = {"teacher": 50, "verifier": 35, "blind": 10}
_SAMPLE_QUESTION: Final = "What colour is the jacket of the person who reaches for the second shelf from the left?"
_BLIND_REASON: Final = "answerable without the picture"
_SCENES_TEACHER: Final = "scenes"
"""The teacher that computes instead of reading: no tokens, no waiting."""
_UNTIMED_TEACHERS: Final = frozenset({"gemini-batch", "local"})


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One kind of request in a forecast; `cost` in USD, None where the price is not known."""

    kind: RequestKind
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take from here on.

    Attributes:
        pictures, finished (`int`): images to be worked on, and those that are done already and cost nothing more.
        kept, questions (`int`): what the images to be worked on will give.
        lines (`tuple[ForecastLine, ...]`): by kind of request.
        requests, input_tokens, output_tokens (`int`): in all.
        cost, cost_per_question (`float | None`): USD; None where a price is not known.
        seconds (`float | None`): how long it will take, roughly; None where nothing is known of that.
        basis (`tuple[str, ...]`): what this rests on, in words.
    """

    pictures: int
    finished: int
    kept: int
    questions: int
    lines: tuple[ForecastLine, ...]
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    cost_per_question: float | None
    seconds: float | None
    basis: tuple[str, ...]


def forecast_run(
    image_count: int,
    preset: Preset,
    *,
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    rate_limits: RateLimits,
    status: RunStatus | None = None,
) -> Forecast:
    """Say what a run over so many images will take.

    Args:
        image_count (`int`): images in all, those that are finished included.
        preset (`Preset`): the method's parameters, `ks` and `strict` included.
        teachers (`Mapping[Role, str]`): who is asked in each role, `NAME:MODEL`.
        prices (`Mapping[Role, Price | None]`): what they charge, as `teachers.prices.lookup_prices` gives it.
        rate_limits (`RateLimits`): requests in flight, and what may be asked in a minute.
        status (`RunStatus`, *optional*): the run so far; from ten finished images on its means replace assumptions.

    Raises:
        UsageError: there are no questions of such a k.
    """
    for k in preset.ks:
        if not 1 <= k <= MAX_K:
            raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
    finished = status.finished if status else 0
    remaining = max(0, image_count - finished)
    usable_status = status if status is not None and finished >= MIN_SAMPLES else None
    mean = _mean(estimate_image(preset, k, estimate_pass_rates(k, usable_status)) for k in preset.ks)
    lines = tuple(_iter_lines(remaining, mean, preset, teachers, prices, usable_status))
    costs = [line.cost for line in lines if line.cost is not None]
    cost = math.fsum(costs) if len(costs) == len(lines) else None
    questions = round(remaining * mean.questions)
    return Forecast(
        pictures=remaining,
        finished=finished,
        kept=round(remaining * mean.kept),
        questions=questions,
        lines=lines,
        requests=sum(line.requests for line in lines),
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        cost=cost,
        cost_per_question=cost / questions if cost is not None and questions else None,
        seconds=_estimate_seconds(lines, remaining, teachers, rate_limits, usable_status),
        basis=tuple(_describe_basis(usable_status, teachers, prices)),
    )


def estimate_pass_rates(k: int, status: RunStatus | None) -> PassRates:
    """Return how drafts of this k fared in a run so far; without one, all are taken to come and 80% to pass."""
    if status is None:
        return PassRates(generation=1.0, verification=ASSUMED_ACCEPT_RATE)
    drafts, accepted = status.drafts_by_k, status.accepted_by_k
    total_drafts, total_accepted = sum(drafts.values()), sum(accepted.values())
    dropped = sum(reject_count.count for reject_count in status.rejects if reject_count.stage == "generation")
    guess_count = sum(reject_count.count for reject_count in status.rejects if reject_count.reason == _BLIND_REASON)
    # A k that was hardly drawn yet is taken to fare as all do.
    accept_rate = accepted[k] / drafts[k] if drafts.get(k, 0) >= MIN_SAMPLES else total_accepted / total_drafts
    generation_rate = max(accept_rate, 1 - dropped / total_drafts)
    blind_rate = total_accepted / (total_accepted + guess_count) if total_accepted else 1.0
    return PassRates(
        generation_rate, min(1.0, accept_rate / (generation_rate * blind_rate)) if generation_rate else 0.0, blind_rate
    )


def _mean(estimates: Iterable[ImageEstimate]) -> ImageEstimate:
    rows = [astuple(estimate) for estimate in estimates]
    return ImageEstimate(*(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)))


def _iter_lines(
    image_count: int,
    mean: ImageEstimate,
    preset: Preset,
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    status: RunStatus | None,
) -> Iterator[ForecastLine]:
    kinds: list[tuple[RequestKind, Role, float, float]] = [
        ("teacher", "teacher", mean.teacher_requests, mean.teacher_questions),
        ("verifier", "verifier", mean.verifier_requests, mean.verifier_questions),
        ("blind", "verifier", mean.blind_requests, mean.blind_questions),
    ]
    for kind, role, requests, questions in kinds[: 3 if preset.strict else 2]:
        usage = status.spending[role] if status and role in status.spending else None
        if teachers[role].partition(":")[0] == _SCENES_TEACHER:
            input_tokens, output_tokens = 0.0, 0.0
        elif usage is not None:
            input_tokens, output_tokens = (
                requests * tokens / usage.requests for tokens in (usage.input_tokens, usage.output_tokens)
            )
        else:
            input_tokens = requests * _estimate_input_tokens(kind, questions / requests if requests else 1, preset)
            output_tokens = questions * (_OUTPUT_TOKENS[kind] + THINKING_TOKENS)
        input_tokens, output_tokens = round(image_count * input_tokens), round(image_count * output_tokens)
        price = prices[role]
        yield ForecastLine(
            kind,
            round(image_count * requests),
            input_tokens,
            output_tokens,
            None if price is None else price.cost(input_tokens, output_tokens),
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
    text = sum(map(len, prompts)) / len(prompts) / _CHARS_PER_TOKEN
    return text if kind == "blind" else text + IMAGE_TOKENS


def _estimate_seconds(
    lines: Sequence[ForecastLine],
    image_count: int,
    teachers: Mapping[Role, str],
    rate_limits: RateLimits,
    status: RunStatus | None,
) -> float | None:
    requests = sum(line.requests for line in lines)
    tokens = sum(line.input_tokens + line.output_tokens for line in lines)
    names = {teacher.partition(":")[0] for teacher in teachers.values()}
    if names & _UNTIMED_TEACHERS:
        return None
    if status is not None and status.pace:
        seconds = image_count / status.pace
    else:
        seconds = 0.0 if names == {_SCENES_TEACHER} else requests * REQUEST_S / rate_limits.in_flight
    return max(seconds, 60 * requests / (rate_limits.rpm or math.inf), 60 * tokens / (rate_limits.tpm or math.inf))


def _describe_basis(
    status: RunStatus | None, teachers: Mapping[Role, str], prices: Mapping[Role, Price | None]
) -> Iterator[str]:
    if status is None:
        yield f"assumed: {ASSUMED_ACCEPT_RATE:.0%} of drafts pass; a request takes {REQUEST_S:g} s;"
        yield (
            f"  {IMAGE_TOKENS:,} tokens a picture (Gemini 3's), {_CHARS_PER_TOKEN} characters a token, "
            f"{THINKING_TOKENS} tokens of thinking a question"
        )
        yield (
            f"from {MIN_SAMPLES} finished pictures on the run's own means are used: try --limit {2 * MIN_SAMPLES} first"
        )
    else:
        share = sum(status.accepted_by_k.values()) / sum(status.drafts_by_k.values())
        yield f"measured on {status.finished:,} finished pictures: {share:.0%} of drafts pass; tokens; pace"
    for role, teacher in teachers.items():
        if role == "teacher" or teacher != teachers["teacher"]:
            yield format_price(teacher, prices[role])
