"""Helpers that send requests to the batch teacher without a dispatcher, with short waiting times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini_batch.scheduler import BatchTiming
from compact_hf.teachers.gemini_batch.store import JOBS_DIRECTORY
from compact_hf.teachers.gemini_batch.teacher import GeminiBatch
from compact_hf.testing.gemini import GeminiServer
from tests.teachers.asking import draft_request

QUICK = BatchTiming(initial_poll_s=0.02, max_poll_s=0.05, settle_s=0.02, max_outage_s=5.0)


def batch_teacher(run_directory: Path, server: GeminiServer, **options: Any) -> GeminiBatch:
    return GeminiBatch(state_dir=run_directory, url=server.url, **{"timing": QUICK, **options})


def draft_requests(count: int) -> list[Request]:
    return [draft_request(("color", "counting"), ref=f"{number}.jpg") for number in range(count)]


def ask_some(teacher: GeminiBatch, requests: Sequence[Request], count: int) -> list[Reply | Failure]:
    """Send all requests, read `count` results, and close the teacher."""

    async def stream() -> AsyncGenerator[Request, None]:
        for request in requests:
            yield request

    async def main() -> list[Reply | Failure]:
        answers = teacher.ask(stream())
        received = [await anext(answers) for _ in range(count)]
        await answers.aclose()
        await teacher.close()
        return received

    return asyncio.run(main())


def list_job_file_kinds(run_directory: Path) -> list[str]:
    """Return the suffixes of the job files in a run directory."""
    return (
        sorted(path.name.partition(".")[2] for path in (run_directory / JOBS_DIRECTORY).iterdir())
        if (run_directory / JOBS_DIRECTORY).exists()
        else []
    )
