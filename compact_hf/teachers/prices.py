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

_PROVIDERS: Final = {"gemini": "google", "gemini-batch": "google", "openai": "openai"}
_BATCH: Final = ("gemini-batch",)
_BATCH_SHARE: Final = 0.5
"""Of the usual price, where genai-prices lists none for batches: Google's rule for all of its models."""
FREE: Final = ("local", "scenes")
"""Teachers that run here, by the first part of their names."""
_MILLION: Final = 1_000_000
# Prices may go up with the length of a prompt (Gemini's from 200,000 tokens on). One picture and a page of text stay
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


def price_of(teacher: str, *, at: datetime | None = None) -> Price | None:
    """Return what the teacher `NAME[:MODEL]` charges.

    Args:
        teacher (`str`): as in a run's identity, the model included: `gemini:gemini-3.8-flash`.
        at (`datetime`, *optional*, defaults to now): the moment of the request, because prices change.

    Returns:
        None where nobody knows: a model that genai-prices does not list, such as one's own server's.
    """
    name, _, model = teacher.partition(":")
    if name in FREE:
        return Price(0.0, 0.0, "runs here")
    if name not in _PROVIDERS:
        return None
    usual = _listed(model, _PROVIDERS[name], at)
    if usual is None or name not in _BATCH:
        return usual
    batch = _listed(model, _PROVIDERS[name], at, processing="batch")
    # The library answers with the usual price where it lists none for batches.
    if batch is not None and batch != usual:
        return batch
    halves = usual.input_per_million * _BATCH_SHARE, usual.output_per_million * _BATCH_SHARE
    return Price(*halves, f"{usual.source}, halved")


def prices_of(
    teachers: Mapping[Role, str],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
    at: datetime | None = None,
) -> dict[Role, Price | None]:
    """Return what each role's teacher charges, None where nobody knows.

    Args:
        teachers (`Mapping[Role, str]`): role -> `NAME:MODEL`.
        price_in, price_out (`float`, *optional*): USD per million tokens, for the teachers whose price is not known;
            where all are known, for all that charge anything (one's own contract).
        at (`datetime`, *optional*, defaults to now): as for `price_of`.

    Raises:
        UsageError: only one of the two prices is given, or one is negative.
    """
    found = {role: price_of(teacher, at=at) for role, teacher in teachers.items()}
    if price_in is None and price_out is None:
        return found
    if price_in is None or price_out is None:
        raise UsageError("got one of --price-in and --price-out; give both, in USD per million tokens")
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"got --price-in {price_in} --price-out {price_out}; prices are 0 or more, in USD")
    given = Price(price_in, price_out, "given")
    if None in found.values():
        return {role: price or given for role, price in found.items()}
    return {role: price if _is_free(teachers[role]) else given for role, price in found.items()}


def price_in_words(teacher: str, price: Price | None) -> str:
    """Return one line on what a teacher charges, or on what to give where nobody knows."""
    if price is None:
        return f"{teacher}: the price is not known; give --price-in and --price-out, in USD per million tokens"
    into, out = f"{price.input_per_million:g}", f"{price.output_per_million:g}"
    return f"{teacher}: {into} USD in, {out} USD out per million tokens ({price.source})"


def _is_free(teacher: str) -> bool:
    return teacher.partition(":")[0] in FREE


def _listed(model: str, provider: str, at: datetime | None, **context: str) -> Price | None:
    from genai_prices import Usage, calc_price

    def charged(**tokens: int) -> float:
        found = calc_price(
            Usage(**tokens), model, provider_id=provider, genai_request_timestamp=at, price_context=context
        )
        return float(found.total_price) * _MILLION / _SHORT_PROMPT

    try:
        return Price(
            charged(input_tokens=_SHORT_PROMPT),
            charged(output_tokens=_SHORT_PROMPT),
            f"genai-prices {version('genai-prices')}",
        )
    except LookupError:
        return None
