"""What a run's teachers were asked and what that cost, at the prices of the days on which they were asked."""

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


def usage_by_role(
    entries: Sequence[TokenUsage],
    teachers: Mapping[Role, str],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> dict[Role, RoleUsage]:
    """Return what each role of a run was asked, and what that cost.

    Args:
        entries (`Sequence[TokenUsage]`): from the run's journal, or those of all its shards.
        teachers (`Mapping[Role, str]`): role -> who is asked, as in the run's identity.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        UsageError: the prices are not two, or negative.
    """
    get_prices = partial(lookup_prices, teachers, price_in=price_in, price_out=price_out)
    current_prices = get_prices()
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
        )
    return usage
