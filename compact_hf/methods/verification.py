"""Checking drafts about one picture: the filters, then what the verifier finds them to need (paper, step 3).

In: drafts, of a teacher or of a data set. Out: a turn, a verdict or a reject for each. Whatever wrote a question, and
for whichever method, it is judged in the same way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Final

from pydantic import BaseModel

from compact_hf.methods.compact import filters, verification
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    BlindAnswersReply,
    BlindReply,
    VerdictReply,
    VerdictsReply,
    blind_prompt,
    blind_several_prompt,
    verifier_prompt,
    verify_several_prompt,
)
from compact_hf.records import Draft, Reject, Task, Turn, Verdict, digest
from compact_hf.teachers.base import Exposure, Reply, Request, Role

QUESTIONS_PER_REQUEST: Final = 8
"""Questions judged in one request: they share one upload of the picture, and one bad reply costs no more than these."""


def judged(
    image_id: str, exposure: Exposure, drafts: Sequence[Draft]
) -> Generator[list[Request], list[Reply], list[tuple[Verdict | Reject, str]]]:
    """Return what the verifier says of each draft, and the model that said it.

    What is asked in the same words is asked once, and all requests go out together.
    """
    different = list({draft.question: draft for draft in drafts}.values())
    parts = [different[at : at + QUESTIONS_PER_REQUEST] for at in range(0, len(different), QUESTIONS_PER_REQUEST)]
    if not parts:
        return []
    replies = yield [_judge(image_id, [draft.question for draft in part], exposure) for part in parts]
    said: dict[str, tuple[Verdict | Reject, str]] = {}
    for part, reply in zip(parts, replies, strict=True):
        for draft, verdict in zip(part, verification.read_verdicts(reply, part), strict=True):
            said[draft.question] = verdict, reply.model
    return [said[draft.question] for draft in drafts]


def verified(
    image_id: str, exposure: Exposure, drafts: Sequence[Draft], preset: Preset
) -> Generator[list[Request], list[Reply], list[tuple[Turn | Reject, str]]]:
    """Return the turn that each draft became, or the reject, and the model that judged it (paper, step 3).

    A draft passes where exactly its capabilities are needed; a strict preset checks its answer besides.
    """
    found: list[tuple[Turn | Reject, str]] = []
    for draft, (verdict, model) in zip(drafts, (yield from judged(image_id, exposure, drafts)), strict=True):
        found.append((_turn(draft, verdict, preset), model))
    passed = [(at, turn) for at, (turn, _) in enumerate(found) if isinstance(turn, Turn)]
    if preset.strict and passed:
        (blind,) = yield [_ask_blindly(image_id, [turn.question for _, turn in passed])]
        for (at, turn), guess in zip(passed, verification.guesses(blind, [turn for _, turn in passed]), strict=True):
            if guess:
                reason = "answerable without the picture"
                reject = Reject("verification", reason, turn.question, guess, turn.capabilities)
                found[at] = reject, found[at][1]
    return found


def filtered(draft: Draft | Reject, turns: Sequence[Turn], preset: Preset) -> Draft | Reject:
    """Return the draft where it passes the filters beside these accepted turns, or a reject (paper, step 3)."""
    if isinstance(draft, Reject):
        return draft
    failed = filters.drop_reason(draft, turns, preset)
    if failed is None:
        return draft
    question = draft.question[: filters.MAX_QUESTION_SIGNS]
    return Reject("generation", failed[0], question, failed[1], draft.capabilities)


def judging_version() -> str:
    """Return a digest, 12 hex digits, of all that the verifier is asked here."""
    single = verifier_prompt(""), blind_prompt("")
    return digest(*single, verify_several_prompt([""]), blind_several_prompt([""]), QUESTIONS_PER_REQUEST, length=12)


def request(
    role: Role,
    image_id: str,
    exposure: Exposure | None,
    prompt: str,
    schema: type[BaseModel],
    subject: Task | tuple[str, ...],
) -> Request:
    """Return a request whose key is that of its prompt about its picture."""
    # The run's identity fixes teacher, model and picture size; within a run the prompt about a picture is all there is.
    return Request(digest(role, image_id, prompt), role, image_id, exposure, prompt, schema, subject)


def _turn(draft: Draft, verdict: Verdict | Reject, preset: Preset) -> Turn | Reject:
    if isinstance(verdict, Reject):
        return replace(verdict, capabilities=draft.capabilities)
    failed = verification.drop_reason(draft, verdict, preset)
    if failed:
        return Reject("verification", failed[0], draft.question, failed[1], draft.capabilities)
    return Turn(draft.question, draft.answer, draft.capabilities, verdict.capabilities, draft.confidence)


def _judge(image_id: str, questions: Sequence[str], exposure: Exposure) -> Request:
    if len(questions) == 1:
        return request("verifier", image_id, exposure, verifier_prompt(questions[0]), VerdictReply, tuple(questions))
    return request("verifier", image_id, exposure, verify_several_prompt(questions), VerdictsReply, tuple(questions))


def _ask_blindly(image_id: str, questions: Sequence[str]) -> Request:
    if len(questions) == 1:
        return request("verifier", image_id, None, blind_prompt(questions[0]), BlindReply, tuple(questions))
    return request("verifier", image_id, None, blind_several_prompt(questions), BlindAnswersReply, tuple(questions))
