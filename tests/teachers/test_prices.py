"""Tests of prices: they come from genai-prices by name and day, without network; given prices fill its gaps."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from compact_hf.errors import UsageError
from compact_hf.teachers.prices import lookup_price, lookup_prices
from compact_hf.teachers.registry import BACKENDS

# Before and after 2027-01-01, when the prices of the default model double.
NOW = datetime(2026, 11, 22, tzinfo=UTC)
NEXT_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


def price_per_million(teacher: str, timestamp: datetime = NOW) -> tuple[float, float]:
    price = lookup_price(teacher, timestamp=timestamp)
    assert price is not None
    return price.input_per_million, price.output_per_million


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("gemini:gemini-3.8-flash", (0.75, 3.75)),
        ("gemini:gemini-3.5-flash-lite", (0.3, 2.5)),
        ("openai:gpt-4o", (2.5, 10.0)),
        ("scenes", (0.0, 0.0)),
        ("scenes:noise=0.25", (0.0, 0.0)),
        ("local:/models/one", (0.0, 0.0)),
    ],
)
def test_a_teacher_costs_what_is_printed_on_its_price_list(teacher: str, expected: tuple[float, float]) -> None:
    assert price_per_million(teacher) == pytest.approx(expected)


@pytest.mark.parametrize(
    "model", [BACKENDS["gemini"].default_model, "gemini-3.5-flash-lite", "gemini-3.7-flash", "gemini-3.5-flash"]
)
def test_batches_cost_half_whether_or_not_the_list_says_so(model: str) -> None:
    single, batch = price_per_million(f"gemini:{model}"), price_per_million(f"gemini-batch:{model}")
    assert batch == pytest.approx((single[0] / 2, single[1] / 2))


def test_the_price_is_that_of_the_day_of_the_request() -> None:
    assert price_per_million(f"gemini:{BACKENDS['gemini'].default_model}", NEXT_YEAR) == pytest.approx((1.5, 7.5))


@pytest.mark.parametrize("teacher", ["gemini:gemini-99", "openai:Qwen/Qwen3-VL-8B-Instruct", "openai:", "mail:bob"])
def test_a_price_that_nobody_knows_is_none(teacher: str) -> None:
    assert lookup_price(teacher) is None


def test_tokens_are_charged_by_the_million() -> None:
    price = lookup_price("gemini:gemini-3.8-flash", timestamp=NOW)
    assert price is not None
    assert price.cost(2_000_000, 1_000_000) == pytest.approx(2 * 0.75 + 3.75)
    assert price.cost(0, 0) == 0


def test_given_prices_are_for_the_teacher_that_has_none() -> None:
    prices = lookup_prices(
        {"teacher": "gemini:gemini-3.8-flash", "verifier": "openai:mine"}, price_in=0.1, price_out=0.2, timestamp=NOW
    )
    assert prices["teacher"] == lookup_price("gemini:gemini-3.8-flash", timestamp=NOW)
    assert prices["verifier"] is not None
    assert (prices["verifier"].input_per_million, prices["verifier"].output_per_million) == (0.1, 0.2)
    assert prices["verifier"].source == "given"


def test_given_prices_replace_known_ones_but_not_those_of_what_runs_here() -> None:
    prices = lookup_prices(
        {"teacher": "gemini:gemini-3.8-flash", "verifier": "scenes"}, price_in=9, price_out=9, timestamp=NOW
    )
    assert prices["teacher"] is not None
    assert prices["teacher"].cost(1_000_000, 0) == 9
    assert prices["verifier"] is not None
    assert prices["verifier"].cost(1_000_000, 1_000_000) == 0


def test_one_price_alone_and_negative_ones_are_refused() -> None:
    with pytest.raises(UsageError, match="give both"):
        lookup_prices({"teacher": "openai:mine"}, price_in=1.0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="at least 0"):
            lookup_prices({"teacher": "openai:mine"}, price_in=1.0, price_out=wrong)


def test_asking_for_a_price_opens_no_connection_and_starts_no_thread() -> None:
    code = (
        "import socket, sys, threading\n"
        "def refuse(*arguments, **settings): sys.exit('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from compact_hf.teachers.prices import lookup_price\n"
        "assert 'genai_prices' not in sys.modules\n"
        "assert lookup_price('gemini:gemini-3.8-flash') is not None and lookup_price('gemini:gemini-99') is None\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
