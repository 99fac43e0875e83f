"""Predicting with a model behind a server: `openai:NAME` and questions in, its answers out, judged.

Any server that speaks OpenAI's protocol will do: vLLM, SGLang, llama.cpp's, OpenAI itself. Each question is one request
with its image and the same words as for a model that runs here; the engine keeps several in flight, waits where the
server says so, tries again, and journals every reply: what was answered is never paid for twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from compact_hf.errors import UsageError
from compact_hf.evaluation.questions import Prediction, Question
from compact_hf.evaluation.task import EvaluationTask
from compact_hf.images.source import MAX_EDGE
from compact_hf.records import ImageInfo, digest
from compact_hf.runs.interrupt import run_async_interruptible
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.runs.options import RunLimits
from compact_hf.runs.process import Process, Result, SessionProgress
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.runs.run import checkpoints, create_budget
from compact_hf.runs.runner import Runner
from compact_hf.teachers.base import EncodedImage, Request

SERVER_PREFIX: Final = "openai:"
# What a request is taken to cost before any was answered: an image of 1,024 pixels and a question, a few words.
TOKENS_PER_REQUEST: Final = (1_100, 10)


def ask_server(
    model: str,
    questions: Sequence[Question],
    directory: Path,
    *,
    url: str | None,
    limits: RunLimits,
    task: EvaluationTask,
    max_new_tokens: int,
    matching: str,
    on_progress: Callable[[int], None] = lambda answered: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> list[Prediction]:
    """Return one prediction for each question, in their order; an answer that was refused is empty.

    Args:
        model (`str`): `openai:NAME`, as the server lists NAME at /v1/models.
        questions (`Sequence[Question]`): each is asked alone.
        directory (`Path`): for the journal; what an earlier call journalled there is not asked again.
        url (`str`, *optional*, defaults to OPENAI_BASE_URL, else OpenAI itself): the server.
        limits (`RunLimits`): requests in flight, rates and budget.
        task (`EvaluationTask`): makes prompts of questions, and marks answers.
        max_new_tokens (`int`): where an answer is cut, but for OpenAI's own models.
        matching (`str`): by which of the task's rules.
        on_progress, on_failure (*optional*): called with the number answered so far, and with what failed and is tried
            again.

    Raises:
        UsageError: OpenAI is to be asked without a key, or a term cannot be kept.
        TeacherError: the server refuses, or cannot be reached.
        StoppedEarly: Ctrl-C, a budget, or questions that could not be answered; the same call goes on.
        JournalError: the journal cannot be written.
    """
    from compact_hf.teachers.openai import OpenAI

    teacher = OpenAI(model.removeprefix(SERVER_PREFIX), url=url, max_text_tokens=max_new_tokens)
    by_image: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_image[digest(question.image_id)].append(question)
    answered = 0

    def report_progress(progress: SessionProgress, finished: FinishedImage | None) -> None:
        nonlocal answered
        if finished is None:
            on_failure(progress.last_failure)
            return
        answered += finished.accepted
        on_progress(answered)

    async def ask_all(stop: asyncio.Event) -> dict[str, str]:
        nonlocal answered
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(teacher.close)
            journal = stack.enter_context(Journal.open(directory, {"model": model, "max_edge": MAX_EDGE}))
            _, _, answered = journal.counts()
            on_progress(answered)
            runner = Runner(
                journal,
                {"teacher": teacher},
                rate_limits=RateLimits(limits.concurrency, limits.rpm, limits.tpm),
                budget=create_budget(journal, limits, limits.prices({"teacher": teacher.name})),
                stop=stop,
                on_progress=report_progress,
            )
            await stack.enter_async_context(checkpoints(journal))
            await runner.run(
                _iter_pending_images(by_image, journal.finished_ids()),
                lambda item: _process(task, by_image[item.image_id]),
            )
            return {id: answer for item in journal.outcomes() for id, answer in json.loads(item.body).items()}

    answers = run_async_interruptible(ask_all)
    return [task.mark(question, answers[question.id], matching) for question in questions]


def check_server_options(models: Sequence[str], *, url: str | None, limits: RunLimits) -> None:
    """Refuse what only servers understand if no model is behind one, and a server's model without a name.

    Args:
        models (`Sequence[str]`): as they were given.
        url (`str | None`), limits (`RunLimits`): as they were given.

    Raises:
        UsageError: one of them is given to models that run here, or a model is `openai:` alone.
    """
    server_models = [model for model in models if model.startswith(SERVER_PREFIX)]
    if any(not model.removeprefix(SERVER_PREFIX).strip() for model in server_models):
        raise UsageError(f"{SERVER_PREFIX} names no model; give {SERVER_PREFIX}NAME, as the server lists NAME")
    names = ["url"] if url is not None else []
    names += [item.name for item in fields(limits) if getattr(limits, item.name) != item.default]
    if names and not server_models:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        raise UsageError(
            f"{flags} can only be given for a model behind a server, and {' and '.join(models)} would run here: leave "
            f"it out, or give {SERVER_PREFIX}NAME"
        )


def count_journal_answers(directory: Path) -> int:
    """Return how many questions the journal in a model's folder has answers to."""
    if not (directory / FILE_NAME).is_file():
        return 0
    with Journal.read(directory) as journal:
        return journal.counts()[2]


async def _iter_pending_images(
    by_image: Mapping[str, Sequence[Question]], finished_ids: set[str]
) -> AsyncGenerator[ImageInfo, None]:
    for key, (first, *_) in by_image.items():
        if key not in finished_ids:
            # Of an image the engine knows the id; its size is for those who draw by it.
            yield ImageInfo(image_id=key, ref=first.image_id, width=0, height=0, image_source="")


def _process(task: EvaluationTask, questions: Sequence[Question]) -> Process:
    """Ask all questions about one image."""
    first = questions[0]
    encoded_image = first.read_image and EncodedImage(first.read_image, ref=first.image_id, max_edge=MAX_EDGE)
    requests = []
    for question in questions:
        prompt = task.get_prompt(question)
        requests.append(
            Request(
                key=digest(question.id, prompt),
                role="teacher",
                image_id=digest(question.image_id),
                encoded_image=encoded_image,
                prompt=prompt,
                schema=BaseModel,  # free text has none
            )
        )
    replies = yield requests
    answers = {question.id: reply.text.strip() for question, reply in zip(questions, replies, strict=True)}
    return Result(json.dumps(answers), len(answers))
