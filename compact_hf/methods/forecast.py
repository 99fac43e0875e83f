"""Forecast a run: expected requests, tokens, price and time for a number of images.

Nothing is asked and no key is needed. What an image takes and gives is the method's to estimate, by assumptions or by
the means of what the run's journal holds already; a forecast says in words what it is based on.

    compact generate photos --out run --dry-run
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.methods.status import RunStatus
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, format_price
from compact_hf.teachers.registry import get_backend

IMAGE_TOKENS: Final = 1120
"""Gemini 3's for one image, where no media resolution is set."""
THINKING_TOKENS: Final = 200
"""For each question that is written or judged: thinking level `low` takes 100 to 500 a request."""
CHARS_PER_TOKEN: Final = 4
REQUEST_S: Final = 5.0
MIN_SAMPLES: Final = 10
"""Finished images, and drafts of one k, from which on the journal's own means are used."""
_TEXT_TOKENS: Final = 300
"""Of a prompt, and of a reply, of a method that does not say how long they are."""
"""The teacher that computes instead of reading: no tokens, no waiting."""


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """One kind of request, and what it comes to for one image on average.

    Attributes:
        kind (`str`): a word for it, such as `teacher`.
        label (`str`): what it is called where a forecast is printed.
        role (`Role`): who is asked.
        requests (`float`): requests.
        input_tokens, output_tokens (`float`): of all these requests; used where nothing is measured yet.
    """

    kind: str
    label: str
    role: Role
    requests: float
    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class ImageEstimate:
    """What one image takes and gives, on average.

    Attributes:
        kept (`float`): probability that the image is kept.
        questions (`float`): accepted questions, those of images that are not kept left out.
        requests (`tuple[RequestEstimate, ...]`): by kind.
        basis (`tuple[str, ...]`): lines that say what this rests on.
    """

    kept: float
    questions: float
    requests: tuple[RequestEstimate, ...]
    basis: tuple[str, ...]


def estimate_by_role(roles: Collection[Role], status: RunStatus | None) -> ImageEstimate:
    """Return what an image takes of a method that does not estimate it: one request a role, or the means so far."""
    if status is None:
        requests = [RequestEstimate(role, role, role, 1.0, IMAGE_TOKENS + _TEXT_TOKENS, _TEXT_TOKENS) for role in roles]
        return ImageEstimate(1.0, 1.0, tuple(requests), describe_assumptions("a request a role and picture, all kept"))
    requests = [
        RequestEstimate(role, role, role, status.requests.get(role, 0) / status.finished, 0.0, 0.0) for role in roles
    ]
    kept, questions = status.conversations / status.finished, status.questions / status.finished
    return ImageEstimate(kept, questions, tuple(requests), (describe_measurement(status, f"{kept:.0%} are kept"),))


def describe_assumptions(fate: str) -> tuple[str, ...]:
    """Return the lines of a basis where nothing is measured; `fate` says what is assumed of replies."""
    return (
        f"assumed: {fate}; a request takes {REQUEST_S:g} s;",
        f"  {IMAGE_TOKENS:,} tokens a picture (Gemini 3's), {CHARS_PER_TOKEN} characters a token, "
        f"{THINKING_TOKENS} tokens of thinking a question",
        f"from {MIN_SAMPLES} finished pictures on the run's own means are used: try --limit {2 * MIN_SAMPLES} first",
    )


def describe_measurement(status: RunStatus, fate: str) -> str:
    """Return the line of a basis that was measured; `fate` says what became of replies."""
    return f"measured on {status.finished:,} finished pictures: {fate}; tokens; pace"


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One kind of request in a forecast; `cost` in USD, None where the price is not known."""

    kind: str
    label: str
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
    estimate: Callable[[RunStatus | None], ImageEstimate],
    *,
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    rate_limits: RateLimits,
    status: RunStatus | None = None,
) -> Forecast:
    """Say what a run over this number of images will take.

    Args:
        image_count (`int`): images in all, those that are finished included.
        estimate (`Callable[[RunStatus | None], ImageEstimate]`): the method's estimate, given the run so far once ten
            images are finished.
        teachers (`Mapping[Role, str]`): who is asked in each role, `NAME:MODEL`.
        prices (`Mapping[Role, Price | None]`): what they charge, as `teachers.prices.lookup_prices` gives it.
        rate_limits (`RateLimits`): requests in flight, and what may be asked in a minute.
        status (`RunStatus`, *optional*): the run so far; from ten finished images on its means replace assumptions.
    """
    finished = status.finished if status else 0
    remaining = max(0, image_count - finished)
    usable_status = status if status is not None and finished >= MIN_SAMPLES else None
    mean = estimate(usable_status)
    lines = tuple(_iter_lines(remaining, mean.requests, teachers, prices, usable_status))
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
        basis=(*mean.basis, *_format_prices(teachers, prices)),
    )


def _iter_lines(
    image_count: int,
    requests: Sequence[RequestEstimate],
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    status: RunStatus | None,
) -> Iterator[ForecastLine]:
    for item in requests:
        usage = status.spending[item.role] if status and item.role in status.spending else None
        input_tokens, output_tokens = item.input_tokens, item.output_tokens
        if get_backend(teachers[item.role]).is_instant:
            input_tokens, output_tokens = 0.0, 0.0
        elif usage is not None and usage.requests:
            input_tokens, output_tokens = (
                item.requests * tokens / usage.requests for tokens in (usage.input_tokens, usage.output_tokens)
            )
        total_input, total_output = round(image_count * input_tokens), round(image_count * output_tokens)
        price = prices[item.role]
        yield ForecastLine(
            item.kind,
            item.label,
            round(image_count * item.requests),
            total_input,
            total_output,
            None if price is None else price.cost(total_input, total_output),
        )


def _estimate_seconds(
    lines: Sequence[ForecastLine],
    image_count: int,
    teachers: Mapping[Role, str],
    rate_limits: RateLimits,
    status: RunStatus | None,
) -> float | None:
    requests = sum(line.requests for line in lines)
    tokens = sum(line.input_tokens + line.output_tokens for line in lines)
    backends = [get_backend(teacher) for teacher in teachers.values()]
    if any(backend.is_batch or backend.uses_gpu for backend in backends):
        return None
    if status is not None and status.pace:
        seconds = image_count / status.pace
    else:
        seconds = (
            0.0 if all(backend.is_instant for backend in backends) else requests * REQUEST_S / rate_limits.in_flight
        )
    return max(seconds, 60 * requests / (rate_limits.rpm or math.inf), 60 * tokens / (rate_limits.tpm or math.inf))


def _format_prices(teachers: Mapping[Role, str], prices: Mapping[Role, Price | None]) -> Iterator[str]:
    price_by_name = {name: prices[role] for role, name in teachers.items()}
    for name, price in price_by_name.items():
        yield format_price(name, price)
