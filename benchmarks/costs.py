"""What the paper's data set takes to make: requests, price and time of 32,000 conversations, by preset and teacher.

    python benchmarks/costs.py [--json]

Nothing is asked: these are the forecasts of `compact generate --dry-run`, at today's prices and its assumptions, for as
many pictures as so many conversations will take.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from compact_hf.methods.compact.forecast import Forecast, forecast_for
from compact_hf.methods.compact.preset import preset_named
from compact_hf.runs.rate_limit import Limits
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Terms
from compact_hf.teachers.base import Role
from compact_hf.teachers.registry import IN_BATCHES, full_name

CONVERSATIONS: Final = 32_000
WAYS: Final = (("paper", "gemini"), ("efficient", "gemini"), ("efficient", "gemini-batch"))
_SAMPLE: Final = 100_000


def forecasts() -> list[dict[str, Any]]:
    """Return what each way of making the data set takes, with `strict` and without."""
    return [_told(preset, teacher, strict) for preset, teacher in WAYS for strict in (False, True)]


def _told(preset: str, teacher: str, strict: bool) -> dict[str, Any]:
    model = full_name(teacher)
    chosen = preset_named(preset, strict=strict, in_batches=teacher in IN_BATCHES)
    teachers: dict[Role, str] = {"teacher": model, "verifier": model}
    prices = Terms().prices(teachers)

    def of(pictures: int) -> Forecast:
        return forecast_for(
            pictures, chosen, teachers=teachers, prices=prices, limits=Limits(DEFAULT_CONCURRENCY, None, None)
        )

    pictures = math.ceil(CONVERSATIONS * _SAMPLE / of(_SAMPLE).kept)
    return {
        "preset": preset,
        "teacher": model,
        "strict": strict,
        "concurrency": DEFAULT_CONCURRENCY,
        "price": None if prices["teacher"] is None else asdict(prices["teacher"]),
        **{name: value for name, value in asdict(of(pictures)).items() if name != "finished"},
    }


def main() -> None:
    """Work out and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    found = {"conversations": CONVERSATIONS, "on": f"{datetime.now(UTC):%Y-%m-%d}", "ways": forecasts()}
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for way in found["ways"]:
        hours = "within a day a round" if way["seconds"] is None else f"{way['seconds'] / 3600:.1f} h"
        strict = ", strict" if way["strict"] else ""
        print(f"{way['preset']}{strict}, {way['teacher']}: {way['requests']:,} requests, ${way['cost']:,.0f}, {hours}")


if __name__ == "__main__":
    main()
