"""What a run was asked and what that cost: the journal's counts of requests and tokens in, US dollars by role out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from compact_hf.runs.journal import Spending
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, prices_of

ROLES: Final[tuple[Role, ...]] = ("teacher", "verifier")


@dataclass(frozen=True, slots=True)
class Spent:
    """What one role was asked and what that cost.

    Attributes:
        teacher (`str`): who is asked, `NAME:MODEL`.
        requests, input_tokens, output_tokens (`int`): answered requests and their tokens as billed.
        price (`Price | None`): what the teacher charges today, None where nobody knows.
        cost (`float | None`): USD, at the prices of the days on which it was asked.
    """

    teacher: str
    requests: int
    input_tokens: int
    output_tokens: int
    price: Price | None
    cost: float | None


def spent_by_role(
    counted: Sequence[Spending],
    identity: Mapping[str, Any],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> dict[Role, Spent]:
    """Return what each role of a run was asked, and what that cost.

    Args:
        counted (`Sequence[Spending]`): from the run's journal, or those of all its shards.
        identity (`Mapping[str, Any]`): the run's settings, which name who is asked.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        UsageError: the prices are not two, or negative.
    """
    teachers = {role: identity[role] for role in ROLES if role in identity}
    priced = partial(prices_of, teachers, price_in=price_in, price_out=price_out)
    today, of_day = priced(), {day: priced(at=datetime.fromisoformat(day)) for day in {one.day for one in counted}}
    found: dict[Role, Spent] = {}
    for role, teacher in teachers.items():
        own = [one for one in counted if one.role == role]
        into, out = sum(one.input_tokens for one in own), sum(one.output_tokens for one in own)
        costs = [
            price.cost(one.input_tokens, one.output_tokens)
            for one in own
            if (price := of_day[one.day][role]) is not None
        ]
        known = today[role] is not None and len(costs) == len(own)
        requests = sum(one.requests for one in own)
        found[role] = Spent(teacher, requests, into, out, today[role], math.fsum(costs) if known else None)
    return found
