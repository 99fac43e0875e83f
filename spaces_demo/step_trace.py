"""One question on its way, step by step: a picture, a combination and a teacher in, what each step finds out.

It is the package's own way (conversation.py) for one round of one combination: the same prompts, filters, verifier and
comparison, with strict checks; here somebody may watch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import TeacherUnavailableError
from compact_hf.images.inspection import image_id_of
from compact_hf.methods import verification
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.prompts import DraftReply, teacher_prompt
from compact_hf.methods.verification import filtered, request, verified
from compact_hf.records import Draft, Reject, Task, Turn, Verdict
from compact_hf.reports.theme import spoken
from compact_hf.teachers.base import Exposure, Failure, Reply, Request, Teacher

PRESET: Final = replace(PAPER, strict=True)


@dataclass(frozen=True, slots=True)
class Compared:
    """A capability that was asked for or found: in both, or in one alone."""

    capability: str
    asked: bool
    found: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What a step found.

    Attributes:
        title (`str`): who does what.
        state (`str`): `said`, `passed` or `failed`.
        told (`str`): a sentence.
        facts (`tuple[tuple[str, str], ...]`): name and value.
        compared (`tuple[Compared, ...]`): where capabilities are compared.
        prompt (`str`): what was asked, word for word.
    """

    title: str
    state: Literal["said", "passed", "failed"]
    told: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    compared: tuple[Compared, ...] = ()
    prompt: str = ""


async def steps(teacher: Teacher, data: bytes, ref: str, combination: tuple[str, ...]) -> AsyncIterator[Step]:
    """Yield what each step finds, the last one being the end: accepted, or dropped and why.

    Args:
        teacher (`Teacher`): writes, and verifies without being told what was asked for.
        data (`bytes`): the picture.
        ref (`str`): `scene:SEED` for the scenes teacher.
        combination (`tuple[str, ...]`): in the paper's order.

    Raises:
        TeacherError: the teacher refuses for good.
        TeacherUnavailableError: it gives no answer.
    """
    exposure = Exposure(lambda: data, ref=ref, max_edge=PRESET.max_edge)
    image_id = image_id_of(data)
    write = request(
        "teacher", image_id, exposure, teacher_prompt(combination), DraftReply, Task(image_id, 1, (combination,))
    )
    written = await _answered(teacher, write)
    (read,) = filters.read_drafts(written, (combination,))
    yield _drafted(read, written.model, write.prompt)
    checked = filtered(read, (), PRESET)
    if isinstance(checked, Reject):
        if isinstance(read, Draft):
            yield Step("2. Filters", "failed", f"It fails one: {checked.reason}.")
        yield _end(checked)
        return
    yield Step(
        "2. Filters", "passed", "It has a short answer, asks one thing, does not give its answer away, and so on."
    )
    process = verified(image_id, exposure, [checked], PRESET)
    asked = next(process)
    while True:
        reply = await _answered(teacher, asked[0])
        for step in _judged(checked, reply, asked[0]):
            yield step
        try:
            asked = process.send([reply])
        except StopIteration as ended:
            ((result, _),) = ended.value
            yield _end(result)
            return


def _drafted(read: Draft | Reject, model: str, prompt: str) -> Step:
    title = "1. The teacher writes"
    if isinstance(read, Reject):
        return Step(title, "failed", f"It gave no question: {read.detail or read.reason}.", prompt=prompt)
    facts = (("Question", read.question), ("Answer", read.answer), ("Confidence", f"{read.confidence}%"))
    return Step(title, "said", f"By {model}.", facts, prompt=prompt)


def _judged(draft: Draft, reply: Reply, asked: Request) -> tuple[Step, ...]:
    if asked.exposure is None:
        blind = "5. The verifier answers without the picture"
        (guess,) = verification.guesses(reply, [_turn(draft)])
        told = f"It guesses {guess}: the picture is not needed." if guess else "It cannot: the picture is needed."
        return (Step(blind, "failed" if guess else "passed", told, prompt=asked.prompt),)
    title = "3. The verifier reads the question"
    (verdict,) = verification.read_verdicts(reply, [draft])
    if isinstance(verdict, Reject):
        return (Step(title, "failed", f"No verdict: {verdict.detail or verdict.reason}.", prompt=asked.prompt),)
    facts = (
        ("Needs", ", ".join(map(spoken, verdict.capabilities)) or "none of the ten"),
        ("Its own answer", verdict.answer),
    )
    told = f"By {reply.model}, which was told neither the capabilities nor the answer."
    return Step(title, "said", told, facts, prompt=asked.prompt), _compared(draft, verdict)


def _compared(draft: Draft, verdict: Verdict) -> Step:
    compared = tuple(
        Compared(spoken(name), name in draft.capabilities, name in verdict.capabilities)
        for name in CAPABILITIES
        if name in draft.capabilities or name in verdict.capabilities
    )
    failed = verification.drop_reason(draft, verdict, PRESET)
    told = "The same capabilities, and the same answer." if failed is None else f"No: {failed[0]} ({failed[1]})."
    return Step("4. The code compares", "failed" if failed else "passed", told, compared=compared)


def _end(result: Turn | Reject) -> Step:
    if isinstance(result, Turn):
        return Step("Accepted", "passed", f"A question of k = {len(result.capabilities)} for the data set.")
    return Step("Dropped", "failed", f"Reason: {result.reason}. It is counted under that, and kept to be looked at.")


def _turn(draft: Draft) -> Turn:
    return Turn(draft.question, draft.answer, draft.capabilities, draft.capabilities, draft.confidence)


async def _answered(teacher: Teacher, asked: Request) -> Reply:
    async def one() -> AsyncIterator[Request]:
        yield asked

    await teacher.prepare(asked)
    async for answer in teacher.ask(one()):
        if isinstance(answer, Failure):
            raise TeacherUnavailableError(answer.message)
        return answer
    raise TeacherUnavailableError("there was no answer")
