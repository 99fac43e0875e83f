"""What teachers charge: a teacher's name in, USD per million tokens out, as the library genai-prices keeps them.

Nothing is asked of the network: the prices are those that came with the installed genai-prices (newer ones: upgrade
it), on the day that is asked about. A teacher's name is all there is to go by, so a server of one's own that serves a
model of OpenAI's or Google's name is priced like theirs, unless its prices are given.
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
"""Of the usual price, where genai-prices lists none for batches: Google's rule for all of its models."""
_MILLION: Final = 1_000_000
# Prices may go up with the length of a prompt (Gemini's from 200,000 tokens on). One image and a page of text stay
# below every such step, so that one price per model is enough.
_SHORT_PROMPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a teacher charges.

    Attributes:
        input_per_million, output_per_million (`float`): USD per million tokens; thinking counts as output.
        source (`str`): where this was found: `genai-prices VERSION`, `given`, or `runs here`.
    """

    input_per_million: float
    output_per_million: float
    source: str

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return the price of so many tokens, in USD."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / _MILLION


def lookup_price(teacher: str, *, timestamp: datetime | None = None) -> Price | None:
    """Return what the teacher `NAME[:MODEL]` charges.

    Args:
        teacher (`str`): as in a run's identity, the model included: `gemini:gemini-3.8-flash`.
        timestamp (`datetime`, *optional*, defaults to now): the moment of the request, because prices change.

    Returns:
        None where nobody knows: a model that genai-prices does not list, such as one's own server's.
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
    # The library answers with the usual price where it lists none for batches.
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
    """Return what each role's teacher charges, None where nobody knows.

    Args:
        teachers (`Mapping[Role, str]`): role -> `NAME:MODEL`.
        price_in, price_out (`float`, *optional*): USD per million tokens, for the teachers whose price is not known;
            where all are known, for all that charge anything (one's own contract).
        timestamp (`datetime`, *optional*, defaults to now): as for `lookup_price`.

    Raises:
        UsageError: only one of the two prices is given, or one is negative.
    """
    prices = {role: lookup_price(teacher, timestamp=timestamp) for role, teacher in teachers.items()}
    if price_in is None and price_out is None:
        return prices
    if price_in is None or price_out is None:
        raise UsageError("got one of --price-in and --price-out; give both, in USD per million tokens")
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"got --price-in {price_in} --price-out {price_out}; prices are 0 or more, in USD")
    own_price = Price(price_in, price_out, "given")
    if None in prices.values():
        return {role: price or own_price for role, price in prices.items()}
    return {role: price if is_free(teachers[role]) else own_price for role, price in prices.items()}


def format_price(teacher: str, price: Price | None) -> str:
    """Return one line on what a teacher charges, or on what to give where nobody knows."""
    if price is None:
        return f"{teacher}: the price is not known; give --price-in and --price-out, in USD per million tokens"
    price_in, price_out = f"{price.input_per_million:g}", f"{price.output_per_million:g}"
    return f"{teacher}: {price_in} USD in, {price_out} USD out per million tokens ({price.source})"


def is_free(teacher: str) -> bool:
    """Whether a teacher runs here and charges nothing, by its name."""
    backend = BACKENDS.get(teacher.partition(":")[0])
    return backend is not None and backend.is_free


def _lookup_listed(model: str, provider: str, timestamp: datetime | None, **context: str) -> Price | None:
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
