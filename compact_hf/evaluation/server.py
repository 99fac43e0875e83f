"""Predicting with a model behind a server: `openai:NAME` and questions in, its answers out, judged.

Any server that speaks OpenAI's protocol will do: vLLM, SGLang, llama.cpp's, OpenAI itself. Each question is one request
with its picture and the same words as for a model that runs here; the engine keeps several in flight, waits where the
server says so, tries again, and journals every reply: what was answered is never paid for twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from compact_hf.evaluation.inference import prompt_of
from compact_hf.evaluation.predict import judged
from compact_hf.evaluation.questions import Question
from compact_hf.evaluation.scoring import Matching, Prediction
from compact_hf.images.codec import MAX_EDGE
from compact_hf.records import Picture, digest
from compact_hf.runs.interrupt import run_to_end
from compact_hf.runs.journal import FILE_NAME, Finished, Journal
from compact_hf.runs.process import Process, Progress, Result
from compact_hf.runs.rate_limit import Limits
from compact_hf.runs.run import Terms, budget_of, checkpoints
from compact_hf.runs.runner import Runner
from compact_hf.teachers.base import Exposure, Request

SERVER: Final = "openai:"
# What a request is taken to cost before any was answered: a picture of 1,024 pixels and a question, a few words.
TOKENS: Final = (1_100, 10)


def ask_server(
    model: str,
    questions: Sequence[Question],
    folder: Path,
    *,
    url: str | None,
    terms: Terms,
    max_new_tokens: int,
    matching: Matching,
    on_progress: Callable[[int], None] = lambda answered: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> list[Prediction]:
    """Return one prediction for each question, in their order; an answer that was refused is empty.

    Args:
        model (`str`): `openai:NAME`, as the server lists NAME at /v1/models.
        questions (`Sequence[Question]`): each is asked alone.
        folder (`Path`): for the journal; what an earlier call journalled there is not asked again.
        url (`str`, *optional*, defaults to OPENAI_BASE_URL, else OpenAI itself): the server.
        terms (`Terms`): requests in flight, rates and budget.
        max_new_tokens (`int`): where an answer is cut, but for OpenAI's own models.
        matching (`str`): when an answer is right.
        on_progress, on_failure (*optional*): called with the number answered so far, and with what failed and is tried
            again.

    Raises:
        UsageError: OpenAI is to be asked without a key, or a term cannot be kept.
        TeacherError: the server refuses, or cannot be reached.
        StoppedEarly: Ctrl-C, a budget, or questions that could not be answered; the same call goes on.
        JournalError: the journal cannot be written.
    """
    from compact_hf.teachers.openai import OpenAI

    teacher = OpenAI(model.removeprefix(SERVER), url=url, free_tokens=max_new_tokens)
    by_picture: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_picture[digest(question.picture)].append(question)
    answered = 0

    def told(progress: Progress, finished: Finished | None) -> None:
        nonlocal answered
        if finished is None:
            on_failure(progress.last_failure)
            return
        answered += finished.accepted
        on_progress(answered)

    async def go(stop: asyncio.Event) -> dict[str, str]:
        nonlocal answered
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(teacher.close)
            journal = opened.enter_context(Journal.open(folder, {"model": model, "max_edge": MAX_EDGE}))
            _, _, answered = journal.counts()
            on_progress(answered)
            runner = Runner(
                journal,
                {"teacher": teacher},
                limits=Limits(terms.concurrency, terms.rpm, terms.tpm),
                budget=budget_of(journal, terms, terms.prices({"teacher": teacher.name})),
                stop=stop,
                on_progress=told,
            )
            await opened.enter_async_context(checkpoints(journal))
            await runner.run(
                _to_ask(by_picture, journal.finished_ids()), lambda one: _process(by_picture[one.image_id])
            )
            return {id: answer for one in journal.outcomes() for id, answer in json.loads(one.body).items()}

    answers = run_to_end(go)
    return [judged(question, answers[question.id], matching) for question in questions]


def answered_in(folder: Path) -> int:
    """Return how many questions the journal in a model's folder has answers to."""
    if not (folder / FILE_NAME).is_file():
        return 0
    with Journal.read(folder) as journal:
        return journal.counts()[2]


async def _to_ask(by_picture: Mapping[str, Sequence[Question]], done: set[str]) -> AsyncGenerator[Picture, None]:
    for key, (first, *_) in by_picture.items():
        if key not in done:
            # Of a picture the engine knows the id; its size is for those who draw by it.
            yield Picture(image_id=key, ref=first.picture, width=0, height=0, image_source="")


def _process(questions: Sequence[Question]) -> Process:
    """Ask all questions about one picture."""
    first = questions[0]
    exposure = Exposure(first.read_picture, ref=first.picture, max_edge=MAX_EDGE)
    requests = []
    for question in questions:
        prompt = prompt_of(question.question)
        requests.append(
            Request(
                key=digest(question.id, prompt),
                role="teacher",
                image_id=digest(question.picture),
                exposure=exposure,
                prompt=prompt,
                schema=BaseModel,  # free text has none
                subject=(question.question,),
            )
        )
    replies = yield requests
    answers = {question.id: reply.text.strip() for question, reply in zip(questions, replies, strict=True)}
    return Result(json.dumps(answers), len(answers))
