"""Computes the requests, tokens and cost of a run by role, at the prices of the days of the requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from compact_hf.runs.journal import TokenUsage
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, lookup_prices


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """Requests, tokens and cost of one role.

    Attributes:
        teacher (`str`): the teacher, `NAME:MODEL`.
        requests (`int`): number of billed requests, whether their replies could be used or not.
        input_tokens (`int`): billed input tokens.
        output_tokens (`int`): billed output tokens.
        price (`Price | None`): today's price of the teacher, None if unknown.
        cost (`float | None`): US dollars, at the prices of the days of the requests; None if a price is unknown.
        estimated (`int`): number of requests whose tokens, and therefore cost, are estimated.
    """

    teacher: str
    requests: int
    input_tokens: int
    output_tokens: int
    price: Price | None
    cost: float | None
    estimated: int


def usage_by_role(
    entries: Sequence[TokenUsage],
    teachers: Mapping[Role, str],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> dict[Role, RoleUsage]:
    """Return the requests, tokens and cost of each role of a run.

    Args:
        entries (`Sequence[TokenUsage]`): from the run's journal, or from the journals of all its shards.
        teachers (`Mapping[Role, str]`): role -> `NAME:MODEL`, as in the run's identity.
        price_in (`float`, *optional*): US dollars per million input tokens, for teachers with an unknown price.
        price_out (`float`, *optional*): US dollars per million output tokens, for teachers with an unknown price.

    Raises:
        UsageError: only one of the two prices is given, or one is negative.
    """
    get_prices = partial(lookup_prices, teachers, price_in=price_in, price_out=price_out)
    current_prices = get_prices()
    # day -> role -> price, None if unknown
    prices_by_day = {day: get_prices(timestamp=datetime.fromisoformat(day)) for day in {entry.day for entry in entries}}
    usage: dict[Role, RoleUsage] = {}
    for role, teacher in teachers.items():
        role_entries = [entry for entry in entries if entry.role == role]
        costs = [
            price.cost(entry.input_tokens, entry.output_tokens)
            for entry in role_entries
            if (price := prices_by_day[entry.day][role]) is not None
        ]
        is_known = current_prices[role] is not None and len(costs) == len(role_entries)
        usage[role] = RoleUsage(
            teacher,
            requests=sum(entry.requests for entry in role_entries),
            input_tokens=sum(entry.input_tokens for entry in role_entries),
            output_tokens=sum(entry.output_tokens for entry in role_entries),
            price=current_prices[role],
            cost=math.fsum(costs) if is_known else None,
            estimated=sum(entry.estimated for entry in role_entries),
        )
    return usage
