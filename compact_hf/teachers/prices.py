"""Looks up the price of a teacher by its name, in US dollars per million tokens, in the library genai-prices.

The prices are those of the installed genai-prices at a given date, without any network access; upgrade the library to
get newer ones. Only the name decides: a private server with a model that has the name of one of OpenAI's or Google's
models gets their price, unless `price_in` and `price_out` are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.teachers.base import Role
from compact_hf.teachers.registry import BACKENDS

_BATCH_PRICE_FACTOR: Final = 0.5
"""Factor to the standard price if genai-prices lists no batch price; Google charges half for all of its models."""
_MILLION: Final = 1_000_000
# Tokens. Prices may rise with the length of the prompt (for Gemini from 200,000 tokens). One image and a page of text
# stay below each such step, so one price per model is enough.
_SHORT_PROMPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a teacher.

    Attributes:
        input_per_million (`float`): US dollars per million input tokens.
        output_per_million (`float`): US dollars per million output tokens, including thinking.
        source (`str`): origin of the price: `genai-prices VERSION`, `given`, or `runs here`.
    """

    input_per_million: float
    output_per_million: float
    source: str

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of tokens in US dollars.

        Args:
            input_tokens (`float`): number of input tokens.
            output_tokens (`float`): number of output tokens.
        """
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / _MILLION


def lookup_price(teacher: str, *, timestamp: datetime | None = None) -> Price | None:
    """Return the price of a teacher.

    Args:
        teacher (`str`): name of the teacher with its model, as in a run's identity: `gemini:gemini-3.8-flash`.
        timestamp (`datetime`, *optional*, defaults to now): time of the request, because prices change.

    Returns:
        The price, or None if it is unknown: genai-prices does not list the model, for example that of a private server.
    """
    name, _, model = teacher.partition(":")
    backend = BACKENDS.get(name)
    if backend is not None and backend.is_free:
        return Price(0.0, 0.0, "runs here")
    if backend is None or backend.provider is None:
        return None
    standard_price = _lookup_listed(model, backend.provider, timestamp)
    if standard_price is None or not backend.is_batch:
        return standard_price
    batch_price = _lookup_listed(model, backend.provider, timestamp, processing="batch")
    # genai-prices returns the standard price if it lists no batch price.
    if batch_price is not None and batch_price != standard_price:
        return batch_price
    half_prices = (
        standard_price.input_per_million * _BATCH_PRICE_FACTOR,
        standard_price.output_per_million * _BATCH_PRICE_FACTOR,
    )
    return Price(*half_prices, f"{standard_price.source}, halved")


def lookup_prices(
    teachers: Mapping[Role, str],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
    timestamp: datetime | None = None,
) -> dict[Role, Price | None]:
    """Return the price of each role's teacher, None if it is unknown.

    `price_in` and `price_out` apply to the teachers with an unknown price. If all prices are known, they replace the
    prices of all teachers that are not free, for users with their own contract.

    Args:
        teachers (`Mapping[Role, str]`): role -> `NAME:MODEL`.
        price_in (`float`, *optional*): US dollars per million input tokens.
        price_out (`float`, *optional*): US dollars per million output tokens.
        timestamp (`datetime`, *optional*, defaults to now): as for `lookup_price`.

    Raises:
        UsageError: only one of the two prices is given, or one is negative.
    """
    prices = {role: lookup_price(teacher, timestamp=timestamp) for role, teacher in teachers.items()}
    if price_in is None and price_out is None:
        return prices
    if price_in is None or price_out is None:
        raise UsageError("got only one of --price-in and --price-out: give both, in USD per million tokens")
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"got --price-in {price_in} --price-out {price_out}: give prices of at least 0, in USD")
    own_price = Price(price_in, price_out, "given")
    if None in prices.values():
        return {role: price or own_price for role, price in prices.items()}
    return {role: price if is_free(teachers[role]) else own_price for role, price in prices.items()}


def format_price(teacher: str, price: Price | None) -> str:
    """Return a line with the price of a teacher, or with the options that set it if it is unknown.

    Args:
        teacher (`str`): name of the teacher.
        price (`Price | None`): its price.
    """
    if price is None:
        return f"{teacher}: the price is unknown: give --price-in and --price-out, in USD per million tokens"
    price_in, price_out = f"{price.input_per_million:g}", f"{price.output_per_million:g}"
    return f"{teacher}: {price_in} USD per million tokens in, {price_out} out ({price.source})"


def is_free(teacher: str) -> bool:
    """Return whether a teacher runs on this machine and costs nothing.

    Args:
        teacher (`str`): name of the teacher, `NAME[:MODEL]`.
    """
    backend = BACKENDS.get(teacher.partition(":")[0])
    return backend is not None and backend.is_free


def _lookup_listed(model: str, provider: str, timestamp: datetime | None, **context: str) -> Price | None:
    """Return the price of a model in genai-prices, None if it is not listed."""
    from genai_prices import Usage, calc_price

    def price_per_million(**tokens: int) -> float:
        result = calc_price(
            Usage(**tokens), model, provider_id=provider, genai_request_timestamp=timestamp, price_context=context
        )
        return float(result.total_price) * _MILLION / _SHORT_PROMPT

    try:
        return Price(
            price_per_million(input_tokens=_SHORT_PROMPT),
            price_per_million(output_tokens=_SHORT_PROMPT),
            f"genai-prices {version('genai-prices')}",
        )
    except LookupError:
        return None
