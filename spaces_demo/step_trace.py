"""Makes one question about an image and yields the result of each step: draft, filters, verification, comparison.

The steps are those of the package (conversation.py) for one round of one combination: the same prompts, filters,
verifier and comparison, with strict checks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import TeacherUnavailableError
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods import verification
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.prompts import DraftReply, teacher_prompt
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.verification import filter_draft, verify_drafts
from compact_hf.records import Draft, Reject, Turn, Verdict
from compact_hf.reports.theme import get_label
from compact_hf.runs.process import make_request
from compact_hf.teachers.base import EncodedImage, Failure, Reply, Request, Teacher

# Strict: the answers are compared too, and an accepted question is asked once more without the image.
PRESET: Final = replace(PAPER, strict=True)


@dataclass(frozen=True, slots=True)
class CapabilityMatch:
    """A capability that was requested, or that the verifier found, or both.

    Attributes:
        capability (`str`): its label.
        is_requested (`bool`): whether it was requested.
        is_verified (`bool`): whether the verifier found that the question needs it.
    """

    capability: str
    is_requested: bool
    is_verified: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The result of a step, for visitors.

    Attributes:
        title (`str`): what the step does.
        state (`str`): `said` (without a check), `passed` or `failed`.
        message (`str`): the result in a sentence.
        facts (`tuple[tuple[str, str], ...]`): pairs of name and value.
        matches (`tuple[CapabilityMatch, ...]`): the compared capabilities, if the step compares them.
        prompt (`str`): the prompt that was sent, if the step sent one.
    """

    title: str
    state: Literal["said", "passed", "failed"]
    message: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    matches: tuple[CapabilityMatch, ...] = ()
    prompt: str = ""


async def iter_steps(teacher: Teacher, data: bytes, ref: str, combination: tuple[str, ...]) -> AsyncIterator[Step]:
    """Yield the result of each step. The last one says whether the question was accepted, or why it was dropped.

    Args:
        teacher (`Teacher`): writes the question, and verifies it without seeing the requested capabilities.
        data (`bytes`): the encoded image.
        ref (`str`): the reference of the image; `scene:SEED` for the scenes teacher.
        combination (`tuple[str, ...]`): the requested capabilities, in the paper's order.

    Raises:
        TeacherError: the teacher refuses permanently.
        TeacherUnavailableError: the teacher does not answer.
    """
    encoded_image = EncodedImage(lambda: data, ref=ref, max_edge=PRESET.max_edge)
    image_id = compute_image_id(data)
    draft_request = make_request(
        "teacher", image_id, encoded_image, teacher_prompt(combination), DraftReply, Task(image_id, 1, (combination,))
    )
    draft_reply = await _ask(teacher, draft_request)
    # One combination was requested, so there is one draft, or one reject.
    (draft,) = filters.parse_drafts(draft_reply, (combination,))
    yield _draft_step(draft, draft_reply.model, draft_request.prompt)
    filtered_draft = filter_draft(draft, (), PRESET)
    if isinstance(filtered_draft, Reject):
        # A reply without a valid draft was shown as the failure of step 1.
        if isinstance(draft, Draft):
            yield Step("2. Filters", "failed", f"Rejected by a filter: {filtered_draft.reason}.")
        yield _final_step(filtered_draft)
        return
    yield Step(
        "2. Filters", "passed", "The question asks one thing, has a short answer, does not reveal it, and so on."
    )
    # The generator yields lists of requests, is sent the replies, and returns turns or rejects at its end.
    process = verify_drafts(image_id, encoded_image, [filtered_draft], PRESET)
    # First the request for a verdict, then, if the question was accepted, the one without the image.
    requests = next(process)
    while True:
        reply = await _ask(teacher, requests[0])
        for step in _verification_steps(filtered_draft, reply, requests[0]):
            yield step
        try:
            requests = process.send([reply])
        except StopIteration as stop:
            ((result, _),) = stop.value
            yield _final_step(result)
            return


def _draft_step(draft: Draft | Reject, model: str, prompt: str) -> Step:
    title = "1. The teacher writes"
    if isinstance(draft, Reject):
        return Step(title, "failed", f"There is no question: {draft.detail or draft.reason}.", prompt=prompt)
    facts = (("Question", draft.question), ("Answer", draft.answer), ("Confidence", f"{draft.confidence}%"))
    return Step(title, "said", f"Written by {model}.", facts, prompt=prompt)


def _verification_steps(draft: Draft, reply: Reply, verifier_request: Request) -> tuple[Step, ...]:
    # Only the blind check has no image.
    if verifier_request.encoded_image is None:
        blind_title = "5. The verifier answers without the image"
        (blind_answer,) = verification.parse_blind_answers(reply, [_to_turn(draft)])
        message = (
            f"The verifier guesses {blind_answer}: the image is not needed."
            if blind_answer
            else "The verifier cannot answer: the image is needed."
        )
        return (Step(blind_title, "failed" if blind_answer else "passed", message, prompt=verifier_request.prompt),)
    title = "3. The verifier reads the question"
    (verdict,) = verification.parse_verdicts(reply, [draft])
    if isinstance(verdict, Reject):
        return (
            Step(title, "failed", f"No verdict: {verdict.detail or verdict.reason}.", prompt=verifier_request.prompt),
        )
    facts = (
        ("Needed", ", ".join(map(get_label, verdict.capabilities)) or "none of the ten capabilities"),
        ("Its own answer", verdict.answer),
    )
    message = f"Verified by {reply.model}, which sees neither the chosen capabilities nor the teacher's answer."
    return Step(title, "said", message, facts, prompt=verifier_request.prompt), _comparison_step(draft, verdict)


def _comparison_step(draft: Draft, verdict: Verdict) -> Step:
    matches = tuple(
        CapabilityMatch(get_label(name), name in draft.capabilities, name in verdict.capabilities)
        for name in CAPABILITIES
        if name in draft.capabilities or name in verdict.capabilities
    )
    failure = verification.verdict_reject_reason(draft, verdict, PRESET)
    message = (
        "The same capabilities, and the same answer." if failure is None else f"Not equal: {failure[0]} ({failure[1]})."
    )
    return Step("4. The code compares", "failed" if failure else "passed", message, matches=matches)


def _final_step(result: Turn | Reject) -> Step:
    if isinstance(result, Turn):
        return Step("Accepted", "passed", f"A question of k = {len(result.capabilities)} for the dataset.")
    return Step(
        "Dropped", "failed", f"Reason: {result.reason}. In a run, the draft is stored and counted by its reason."
    )


def _to_turn(draft: Draft) -> Turn:
    return Turn(draft.question, draft.answer, draft.capabilities, draft.capabilities, draft.confidence)


async def _ask(teacher: Teacher, teacher_request: Request) -> Reply:
    async def iter_request() -> AsyncIterator[Request]:
        yield teacher_request

    await teacher.prepare(teacher_request)
    # The stream of requests has one item, so the first reply is the result.
    async for reply in teacher.ask(iter_request()):
        if isinstance(reply, Failure):
            raise reply.error or TeacherUnavailableError(reply.message)
        return reply
    raise TeacherUnavailableError("the teacher returned no reply")
