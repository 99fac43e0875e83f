"""Tests what a limited run sends to a server, counted there, when replies are large, become larger, or say nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compact_hf.errors import StoppedEarly
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.records import ImageInfo
from compact_hf.reports.table import Table
from compact_hf.runs.journal import Journal
from compact_hf.runs.options import RunLimits
from compact_hf.runs.process import Process, Result
from compact_hf.runs.rate_limit import RateLimits, RetryPolicy
from compact_hf.runs.run import create_budget
from compact_hf.runs.runner import Runner
from compact_hf.runs.shards import Shard
from compact_hf.teachers.base import Request, Role, Teacher
from compact_hf.teachers.openai import OpenAI
from compact_hf.testing.openai import OpenAIServer, content_response
from compact_hf.testing.scripted_model import KEY, ModelRequest

PRICE_IN, PRICE_OUT = 0.75, 3.75  # USD per million tokens
LARGE = 60_000  # output tokens; such a reply costs 0.225 USD


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class Answer(BaseModel):
    answer: str


async def iter_images() -> AsyncGenerator[ImageInfo, None]:
    for number in range(400):
        yield ImageInfo(f"{number:032x}", f"{number}.jpg", 64, 64, "test")


def ask_once(image: ImageInfo) -> Process:
    prompt = "Read this.\n\nIs there a question?"
    yield [Request(image.image_id, "teacher", image.image_id, None, prompt, Answer)]
    return Result("{}", 1)


def run(directory: Path, server: OpenAIServer, limits: RunLimits, *, timeout_s: float = 30.0) -> None:
    """Send a request about each of 400 images, within the limits."""
    teachers: dict[Role, Teacher] = {"teacher": OpenAI("double", url=server.url, timeout_s=timeout_s)}
    prices = limits.prices({"teacher": "openai:double"})
    policy = RetryPolicy(initial_delay_s=0.001, max_delay_s=0.005)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(teachers["teacher"].close)
            journal = stack.enter_context(Journal.open(directory, {"source": "test"}))
            budget = create_budget(journal, limits, teachers, prices)
            rates = RateLimits(limits.concurrency)
            runner = Runner(journal, teachers, rate_limits=rates, budget=budget, retry_policy=policy)
            await runner.run(iter_images(), ask_once)

    asyncio.run(main())


def answer_with(count_tokens: Callable[[int], int], bills: list[float]) -> Callable[[ModelRequest, int], Response]:
    """Return a server's answers, the n-th of which has this number of output tokens; add what each costs to `bills`."""

    def answer(request: ModelRequest, number: int) -> Response:
        body: dict[str, Any] = json.loads(bytes(content_response('{"answer": "no idea"}').body))
        body["usage"]["completion_tokens"] = count_tokens(number)
        bills.append((body["usage"]["prompt_tokens"] * PRICE_IN + count_tokens(number) * PRICE_OUT) / 1e6)
        return JSONResponse(body)

    return answer


@pytest.mark.parametrize(
    ("count_tokens", "most_requests"),
    [
        (lambda number: LARGE, 40),
        (lambda number: 100 if number < 100 else LARGE, 140),
        (lambda number: min(20 * number, LARGE), 400),
    ],
    ids=["large from the start", "large at once", "larger and larger"],
)
def test_64_places_do_not_spend_more_than_twice_the_limit(
    tmp_path: Path, count_tokens: Callable[[int], int], most_requests: int
) -> None:
    bills: list[float] = []
    limits = RunLimits(concurrency=64, price_in=PRICE_IN, price_out=PRICE_OUT, max_cost=5.0)
    with OpenAIServer(latency_s=0.02, fault=answer_with(count_tokens, bills), record_requests=False) as server:
        with pytest.raises(StoppedEarly, match=r"the budget of \$5.00 is used up"):
            run(tmp_path / "run", server, limits)
        assert 4.0 < sum(bills) <= 10.0
        assert len(bills) <= most_requests
        sent = len(bills)
        with pytest.raises(StoppedEarly, match=r"the budget of \$5.00 is used up"):
            run(tmp_path / "run", server, limits)
        assert len(bills) == sent, "resumed, nothing is left to spend"


def test_shards_do_not_spend_more_than_twice_the_limit_together(tmp_path: Path) -> None:
    bills: list[float] = []
    limits = RunLimits(concurrency=64, price_in=PRICE_IN, price_out=PRICE_OUT, max_cost=5.0)
    with OpenAIServer(latency_s=0.02, fault=answer_with(lambda number: LARGE, bills)) as server:
        for index in (1, 2, 1, 2):
            with pytest.raises(StoppedEarly):
                run(tmp_path / str(index), server, limits.for_shard(Shard(index, 2)))
    assert 4.0 < sum(bills) <= 10.0


def test_what_is_billed_and_unreadable_counts_among_the_requests(tmp_path: Path) -> None:
    bills: list[float] = []
    answer = answer_with(lambda number: 100, bills)

    def fault(request: ModelRequest, number: int) -> Response:
        response = answer(request, number)
        return Response(bytes(response.body)[:-9]) if number % 3 == 0 else response

    with OpenAIServer(latency_s=0.01, fault=fault, record_requests=False) as server:
        for limit in (60, 60, 150, 150):
            with pytest.raises(StoppedEarly, match=f"the budget of {limit} requests is used up"):
                run(tmp_path / "run", server, RunLimits(concurrency=64, max_requests=limit))
            assert len(bills) == limit
    with Journal.read(tmp_path / "run") as journal:
        assert sum(usage.requests for usage in journal.usage()) == 150
        assert sum(usage.estimated for usage in journal.usage()) == 50


def test_a_service_that_does_not_state_tokens_is_stopped_by_an_estimate_that_is_called_one(
    tiny: Path, tmp_path: Path
) -> None:
    bills: list[float] = []

    def fault(request: ModelRequest, number: int) -> Response:
        body: dict[str, Any] = json.loads(bytes(server.answer(request).body))
        usage = body.pop("usage")
        bills.append((usage["prompt_tokens"] * PRICE_IN + usage["completion_tokens"] * PRICE_OUT) / 1e6)
        return JSONResponse(body)

    with OpenAIServer(fault=fault) as server:
        options: dict[str, Any] = {"price_in": PRICE_IN, "price_out": PRICE_OUT, "preset": "paper"}
        for _ in range(2):
            with pytest.raises(StoppedEarly, match=r"about \$0.0\d+ spent, because \d+ of \d+ replies do not state"):
                generate(
                    str(tiny),
                    tmp_path / "run",
                    teacher="openai:double",
                    teacher_url=server.url,
                    max_cost=0.02,
                    **options,
                )
    assert 0.002 < sum(bills) <= 0.02
    run_status = status(tmp_path / "run", price_in=PRICE_IN, price_out=PRICE_OUT)
    assert sum(usage.estimated for usage in run_status.spending.values()) == len(bills)
    assert run_status.cost is not None
    assert sum(bills) <= run_status.cost <= 0.02
    (table,) = [part for part in run_status.summary() if isinstance(part, Table) and "tokens in" in part.head]
    assert [str(table.rows[-1][column]).startswith("about ") for column in (3, 4, 5)] == [True] * 3


def test_a_time_out_counts_as_billed(tmp_path: Path) -> None:
    with OpenAIServer(latency_s=3) as server:
        with pytest.raises(StoppedEarly, match="the budget of 3 requests is used up"):
            run(tmp_path / "run", server, RunLimits(concurrency=2, max_requests=3), timeout_s=0.2)
        assert server.request_count == 3
