"""Forecasts a run: expected requests, tokens, price and time for a number of images.

    compact generate photos --out run --dry-run

No request is sent and no API key is needed. The method estimates the cost and the yield of an image, either from
assumptions or from the averages in the run's journal. A forecast says in words what it is based on.
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
"""Tokens of one image for Gemini 3 if no media resolution is set."""
THINKING_TOKENS: Final = 200
"""Assumed for each question that is written or judged. Thinking level `low` takes 100 to 500 per request."""
# A rule of thumb for English text; measured tokens replace it.
CHARS_PER_TOKEN: Final = 4
REQUEST_S: Final = 5.0  # assumed latency of a request, in seconds
MIN_SAMPLES: Final = 10
"""Number of finished images, or of drafts of one k, from which on the journal's own averages are used."""
_TEXT_TOKENS: Final = 300
"""Tokens assumed for the text of a prompt, and for a reply, if the method gives no estimate."""


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """One kind of request, and what it amounts to per image on average.

    Attributes:
        kind (`str`): a short name for it, such as `teacher`.
        label (`str`): its name in a printed forecast.
        role (`Role`): the role of the model that the requests go to.
        requests (`float`): requests per image.
        input_tokens, output_tokens (`float`): tokens of all these requests together; used until there are measurements.
    """

    kind: str
    label: str
    role: Role
    requests: float
    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class ImageEstimate:
    """The average cost and yield of one image.

    Attributes:
        kept (`float`): probability, 0 to 1, that the image is kept.
        questions (`float`): accepted questions; those of images that are not kept do not count.
        requests (`tuple[RequestEstimate, ...]`): the requests by kind.
        basis (`tuple[str, ...]`): lines that say what the estimate is based on.
    """

    kept: float
    questions: float
    requests: tuple[RequestEstimate, ...]
    basis: tuple[str, ...]


def estimate_by_role(roles: Collection[Role], status: RunStatus | None) -> ImageEstimate:
    """Estimate an image for a method that has no estimate of its own.

    Args:
        roles (`Collection[Role]`): the roles of the method.
        status (`RunStatus | None`): the run so far, whose averages are used. Without it one request per role is
            assumed.
    """
    if status is None:
        requests = [RequestEstimate(role, role, role, 1.0, IMAGE_TOKENS + _TEXT_TOKENS, _TEXT_TOKENS) for role in roles]
        return ImageEstimate(
            1.0, 1.0, tuple(requests), describe_assumptions("one request per role and image, all images kept")
        )
    # Measured: requests per finished image. Tokens are 0 here, because `_iter_lines` uses the measured ones.
    requests = [
        RequestEstimate(role, role, role, status.requests.get(role, 0) / status.finished, 0.0, 0.0) for role in roles
    ]
    kept, questions = status.conversations / status.finished, status.questions / status.finished
    return ImageEstimate(kept, questions, tuple(requests), (describe_measurement(status, f"{kept:.0%} are kept"),))


def describe_assumptions(fate: str) -> tuple[str, ...]:
    """Return the lines that describe the basis of an estimate without measurements.

    Args:
        fate (`str`): what is assumed about the results of requests, such as `80% of drafts pass`.
    """
    return (
        f"assumed: {fate}; a request takes {REQUEST_S:g} s;",
        f"  {IMAGE_TOKENS:,} tokens per image (Gemini 3), {CHARS_PER_TOKEN} characters per token, "
        f"{THINKING_TOKENS} thinking tokens per question",
        f"from {MIN_SAMPLES} finished images on, the run's own averages are used: try --limit {2 * MIN_SAMPLES} first",
    )


def describe_measurement(status: RunStatus, fate: str) -> str:
    """Return the line that describes the basis of an estimate from measurements.

    Args:
        status (`RunStatus`): the run that was measured.
        fate (`str`): what was measured about the results of requests, such as `75% of drafts pass`.
    """
    return f"measured on {status.finished:,} finished images, as are tokens and pace: {fate}"


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One kind of request in a forecast; `cost` is in USD, None if the price is unknown."""

    kind: str
    label: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected cost and yield of the rest of a run.

    Attributes:
        pictures, finished (`int`): images that still have to be processed, and images that are finished already.
        kept, questions (`int`): images and questions expected from those that still have to be processed.
        lines (`tuple[ForecastLine, ...]`): one per kind of request.
        requests, input_tokens, output_tokens (`int`): totals over all kinds.
        cost, cost_per_question (`float | None`): USD; None if a price is unknown.
        seconds (`float | None`): estimated duration; None for batches and for models on this machine's GPU, whose speed
            is unknown.
        basis (`tuple[str, ...]`): lines that say what the forecast is based on.
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
    """Forecast a run over a number of images.

    Args:
        image_count (`int`): total number of images, including finished ones.
        estimate (`Callable[[RunStatus | None], ImageEstimate]`): the method's estimate. Its argument is the run so far
            once ten images are finished, and None before.
        teachers (`Mapping[Role, str]`): the model for each role, as `NAME:MODEL`.
        prices (`Mapping[Role, Price | None]`): the models' prices, as returned by `teachers.prices.lookup_prices`.
        rate_limits (`RateLimits`): limits on requests in flight and on requests and tokens per minute.
        status (`RunStatus`, *optional*): the run so far; from ten finished images on its averages replace assumptions.
    """
    finished = status.finished if status else 0
    remaining = max(0, image_count - finished)
    # The averages of fewer images are too uncertain.
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
    """Yield a line for each kind of request; tokens measured for its role replace estimated ones."""
    for item in requests:
        # Tokens are measured per role, not per kind of request, so they are spread evenly over the role's requests.
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
    """Return the slowest of three bounds: the pace or the latency of requests, `rpm`, and `tpm`; None if unknown."""
    # Totals over all images; `rpm` and `tpm` are per minute, seconds are returned.
    requests = sum(line.requests for line in lines)
    tokens = sum(line.input_tokens + line.output_tokens for line in lines)
    backends = [get_backend(teacher) for teacher in teachers.values()]
    # Batches may take a day each, and the speed of a local GPU is unknown.
    if any(backend.is_batch or backend.uses_gpu for backend in backends):
        return None
    if status is not None and status.pace:
        # The measured pace contains latency, limits and retries.
        seconds = image_count / status.pace
    else:
        seconds = (
            0.0 if all(backend.is_instant for backend in backends) else requests * REQUEST_S / rate_limits.in_flight
        )
    # Without a limit the bound is 0, a division by infinity.
    return max(seconds, 60 * requests / (rate_limits.rpm or math.inf), 60 * tokens / (rate_limits.tpm or math.inf))


def _format_prices(teachers: Mapping[Role, str], prices: Mapping[Role, Price | None]) -> Iterator[str]:
    # Teacher and verifier are often the same model, whose price is listed once.
    price_by_name = {name: prices[role] for role, name in teachers.items()}
    for name, price in price_by_name.items():
        yield format_price(name, price)
