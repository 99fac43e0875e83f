"""Estimates requests, price and time to generate 32,000 conversations, as in the paper, by preset and teacher.

    python benchmarks/costs.py [--json]

No requests are sent. The numbers are the forecasts of `compact generate --dry-run`, with its assumptions and at today's
prices, for the number of images that 32,000 conversations need.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from compact_hf.methods.compact.forecast import estimate_run
from compact_hf.methods.compact.preset import get_preset
from compact_hf.methods.forecast import Forecast, forecast_run
from compact_hf.runs.options import DEFAULT_CONCURRENCY, RunLimits
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.teachers.base import Role
from compact_hf.teachers.registry import describe_teacher

CONVERSATIONS: Final = 32_000
SETUPS: Final = (("paper", "gemini"), ("efficient", "gemini"), ("efficient", "gemini-batch"))
_SAMPLE_SIZE: Final = 100_000


def forecasts() -> list[dict[str, Any]]:
    """Return the forecast of each preset and teacher, without and with `strict`."""
    return [_forecast_setup(preset, teacher, strict) for preset, teacher in SETUPS for strict in (False, True)]


def _forecast_setup(preset: str, teacher: str, strict: bool) -> dict[str, Any]:
    """Return the forecast for the number of images of which `CONVERSATIONS` are kept."""
    info = describe_teacher(teacher)
    model = info.name
    preset_settings = get_preset(preset, strict=strict, is_batch=info.is_batch)
    teachers: dict[Role, str] = {"teacher": model, "verifier": model}
    prices = RunLimits().prices(teachers)

    def make_forecast(count: int) -> Forecast:
        return forecast_run(
            count,
            partial(estimate_run, preset_settings),
            teachers=teachers,
            prices=prices,
            rate_limits=RateLimits(DEFAULT_CONCURRENCY, None, None),
        )

    image_count = math.ceil(CONVERSATIONS * _SAMPLE_SIZE / make_forecast(_SAMPLE_SIZE).kept)
    return {
        "preset": preset,
        "teacher": model,
        "strict": strict,
        "concurrency": DEFAULT_CONCURRENCY,
        "price": None if prices["teacher"] is None else asdict(prices["teacher"]),
        **{name: value for name, value in asdict(make_forecast(image_count)).items() if name != "finished"},
    }


def main() -> None:
    """Compute and print the forecasts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    result = {"conversations": CONVERSATIONS, "on": f"{datetime.now(UTC):%Y-%m-%d}", "ways": forecasts()}
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for setup in result["ways"]:
        hours = "within a day per round" if setup["seconds"] is None else f"{setup['seconds'] / 3600:.1f} h"
        strict = ", strict" if setup["strict"] else ""
        print(
            f"{setup['preset']}{strict}, {setup['teacher']}: {setup['requests']:,} requests, "
            f"${setup['cost']:,.0f}, {hours}"
        )


if __name__ == "__main__":
    main()
