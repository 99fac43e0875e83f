"""Answers questions with a model on a server (`openai:NAME`).

Any server with an OpenAI-compatible API works: vLLM, SGLang, llama.cpp, OpenAI itself. Each question is one request
with its image and the same prompt as for a local model. The runner keeps several requests in flight, respects the
server's rate limits, retries, and journals every reply, so no answer is paid for twice.
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
from compact_hf.runs.interrupt import announce_interrupt, run_async_interruptible
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.runs.options import RunLimits
from compact_hf.runs.process import Process, Result, SessionProgress
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.runs.run import checkpoints, create_budget
from compact_hf.runs.runner import Runner
from compact_hf.teachers.base import EncodedImage, Request, Role, Teacher
from compact_hf.teachers.reader import read_text

SERVER_PREFIX: Final = "openai:"
# Estimated tokens per request for --dry-run: an image of 1,024 pixels with a question in, a few words out.
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
    on_wait: Callable[[str], None] = lambda line: None,
) -> list[Prediction]:
    """Return one prediction per question, in the order of the questions; a refused answer is empty.

    Args:
        model (`str`): `openai:NAME`, with NAME as the server lists it at /v1/models.
        questions (`Sequence[Question]`): the questions; each is asked alone.
        directory (`Path`): directory for the journal; questions that are answered there are not asked again.
        url (`str | None`): URL of the server; if None, OPENAI_BASE_URL, otherwise OpenAI.
        limits (`RunLimits`): concurrency, rate limits and budget.
        task (`EvaluationTask`): builds the prompts and marks the answers.
        max_new_tokens (`int`): maximum length of an answer, in tokens; it does not apply to OpenAI's own models.
        matching (`str`): name of the task's rule that marks the answers.
        on_progress (`Callable[[int], None]`, *optional*): called with the number of answers so far.
        on_failure (`Callable[[str], None]`, *optional*): called with a message when a request failed and will be
            retried.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what is waited for after Ctrl-C.

    Raises:
        UsageError: OpenAI is used without a key, or a limit is invalid.
        TeacherError: the server rejects requests, or cannot be reached.
        StoppedEarly: Ctrl-C, the budget is used up, or questions could not be answered; the same call resumes.
        JournalError: the journal cannot be written.
    """
    from compact_hf.teachers.openai import OpenAI

    teacher = OpenAI(model.removeprefix(SERVER_PREFIX), url=url, max_text_tokens=max_new_tokens)
    teachers: dict[Role, Teacher] = {"teacher": teacher}
    # Hash of the image id -> questions about the image. The hash is the image's id in the journal.
    by_image: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_image[digest(question.image_id)].append(question)
    answered = 0

    def report_progress(progress: SessionProgress, finished: FinishedImage | None) -> None:
        nonlocal answered
        # Called without an image after a failed request; the runner retries it.
        if finished is None:
            on_failure(progress.last_failure)
            return
        answered += finished.accepted
        on_progress(answered)

    async def ask_all(stop: asyncio.Event) -> dict[str, str]:
        nonlocal answered
        # Closed in reverse order: first the checkpoints, then the journal, last the connections.
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(teacher.close)
            # An existing journal of another model or image size raises SettingsMismatchError.
            journal = stack.enter_context(Journal.open(directory, {"model": model, "max_edge": MAX_EDGE}))
            # Answers of earlier calls; `_process` counts each answered question as accepted.
            _, _, answered = journal.counts()
            on_progress(answered)
            runner = Runner(
                journal,
                teachers,
                rate_limits=RateLimits(limits.concurrency, limits.rpm, limits.tpm),
                budget=create_budget(journal, limits, teachers, limits.prices({"teacher": teacher.name})),
                stop=stop,
                on_progress=report_progress,
            )
            await stack.enter_async_context(announce_interrupt(stop, runner.count_in_flight, on_wait))
            await stack.enter_async_context(checkpoints(journal))
            await runner.run(
                _iter_pending_images(by_image, journal.finished_ids()),
                lambda item: _process(task, by_image[item.image_id]),
            )
            # Question id -> answer, from the journal, so those of earlier calls are included.
            return {id: answer for item in journal.outcomes() for id, answer in json.loads(item.body).items()}

    answers = run_async_interruptible(ask_all)
    return [task.mark(question, answers[question.id], matching) for question in questions]


def check_server_options(models: Sequence[str], *, url: str | None, limits: RunLimits) -> None:
    """Check that server options are only given together with a model on a server, and that this model has a name.

    Args:
        models (`Sequence[str]`): the models, as given on the command line.
        url (`str | None`): URL of the server, if given.
        limits (`RunLimits`): limits for requests to the server.

    Raises:
        UsageError: a server option is given for local models only, or a model is `openai:` without a name.
    """
    server_models = [model for model in models if model.startswith(SERVER_PREFIX)]
    if any(not model.removeprefix(SERVER_PREFIX).strip() for model in server_models):
        raise UsageError(
            f"{SERVER_PREFIX} has no model name; give {SERVER_PREFIX}NAME, with NAME as the server lists it"
        )
    names = ["url"] if url is not None else []
    names += [item.name for item in fields(limits) if getattr(limits, item.name) != item.default]
    if names and not server_models:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        raise UsageError(
            f"{flags} can only be used with a model on a server, but {' and '.join(models)} would run locally: omit "
            f"it, or give {SERVER_PREFIX}NAME"
        )


def count_journal_answers(directory: Path) -> int:
    """Return the number of questions that are answered in the journal of a model's directory."""
    if not (directory / FILE_NAME).is_file():
        return 0
    with Journal.read(directory) as journal:
        # (finished images, images with answers, answers)
        return journal.counts()[2]


async def _iter_pending_images(
    by_image: Mapping[str, Sequence[Question]], finished_ids: set[str]
) -> AsyncGenerator[ImageInfo, None]:
    """Yield the images that have questions left; the runner's unit of work is an image with all of its questions."""
    for key, (first, *_) in by_image.items():
        if key not in finished_ids:
            # The runner only uses the id; the size of an image matters to other methods only.
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
                # The journal finds replies by this key, so a question with a new prompt is asked again.
                key=digest(question.id, prompt),
                role="teacher",
                image_id=digest(question.image_id),
                encoded_image=encoded_image,
                prompt=prompt,
                schema=BaseModel,  # an empty schema: the reply is free text
            )
        )
    # The runner sends these requests in parallel, and returns the replies in the same order.
    replies = yield requests
    answers = {question.id: read_text(reply.text) for question, reply in zip(questions, replies, strict=True)}
    return Result(json.dumps(answers), len(answers))
