"""Step 3, quality verification: filter drafts about one image and compare what the verifier says each one needs.

The verifier says what the question needs; only here, in code, is that compared with what was asked for. Drafts of a
teacher and questions of a dataset are judged in the same way, for every method.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ValidationError

from compact_hf.answers import same_answer
from compact_hf.capabilities import canonical
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.filters import MAX_ANSWER_SIGNS, by_number, read_json, said_of
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    BlindAnswersReply,
    BlindReply,
    NumberedVerdict,
    VerdictReply,
    VerdictsReply,
    blind_prompt,
    blind_several_prompt,
    verifier_prompt,
    verify_several_prompt,
)
from compact_hf.records import Draft, Reject, Task, Turn, Verdict, digest
from compact_hf.teachers.base import Exposure, Reply, Request, Role


def read_verdicts(reply: Reply, drafts: Sequence[Draft]) -> list[Verdict | Reject]:
    """Return what a verifier's reply holds for each draft that it was asked about: a verdict, or a reject.

    A reject says that the verifier declined, or that this verdict or the whole reply is not the JSON asked for.
    """

    def rejects(reason: str, detail: str) -> list[Verdict | Reject]:
        return [Reject("verification", reason, draft.question, detail, draft.capabilities) for draft in drafts]

    if reply.refused:
        return rejects("verifier declined", reply.refused)
    try:
        if len(drafts) == 1:
            return [_verdict(read_json(VerdictReply, reply.text))]
        found = by_number(read_json(VerdictsReply, reply.text).verdicts, len(drafts))
    except ValidationError as error:
        return rejects("malformed verdict", said_of(error))
    return [
        _verdict(verdict)
        if verdict is not None
        else Reject(
            "verification",
            "malformed verdict",
            draft.question,
            f"not one verdict of number {number}",
            draft.capabilities,
        )
        for number, (verdict, draft) in enumerate(zip(found, drafts, strict=True), 1)
    ]


def _verdict(read: VerdictReply | NumberedVerdict) -> Verdict:
    return Verdict(canonical(read.capabilities), " ".join(read.answer.split()))


def drop_reason(draft: Draft, verdict: Verdict, preset: Preset) -> tuple[str, str] | None:
    """Return (reason, detail) where a verdict speaks against its draft, None where it does not.

    A draft passes only where exactly the k capabilities that were asked for are needed (paper, step 3); a strict preset
    also wants the verifier's own answer to be the draft's.
    """
    asked, needed = set(draft.capabilities), set(verdict.capabilities)
    if asked == needed:
        if preset.strict and not same_answer(draft.answer, verdict.answer):
            return "answer not confirmed", f"{draft.answer}; the verifier says {verdict.answer[:MAX_ANSWER_SIGNS]}"
        return None
    detail = f"asked for {', '.join(draft.capabilities)}; needs {', '.join(verdict.capabilities) or 'none'}"
    if needed > asked:
        return "needs more capabilities", detail
    if needed < asked:
        return "needs fewer capabilities", detail
    return "needs other capabilities", detail


def guesses(reply: Reply, turns: Sequence[Turn]) -> list[str]:
    """Return for each turn the answer that was found without the picture where it is the turn's, else nothing.

    No answer at all is a question that cannot be answered blindly: it passes (strict presets).
    """
    if reply.refused:
        return [""] * len(turns)
    try:
        if len(turns) == 1:
            answers = [read_json(BlindReply, reply.text).answer]
        else:
            found = by_number(read_json(BlindAnswersReply, reply.text).answers, len(turns))
            answers = [answer.answer if answer is not None else "" for answer in found]
    except ValidationError:
        return [""] * len(turns)
    return [answer if same_answer(turn.answer, answer) else "" for turn, answer in zip(turns, answers, strict=True)]


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
        for draft, verdict in zip(part, read_verdicts(reply, part), strict=True):
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
        for (at, turn), guess in zip(passed, guesses(blind, [turn for _, turn in passed]), strict=True):
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
    failed = drop_reason(draft, verdict, preset)
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
