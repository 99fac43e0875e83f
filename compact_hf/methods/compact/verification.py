"""Step 3, quality verification: from the verifier's reply to a verdict, and what it means for the draft.

The verifier says what the question needs; only here, in code, is that compared with what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from compact_hf.answers import same_answer
from compact_hf.capabilities import canonical
from compact_hf.methods.compact.filters import MAX_ANSWER_SIGNS
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    BlindAnswersReply,
    BlindReply,
    NumberedVerdict,
    VerdictReply,
    VerdictsReply,
)
from compact_hf.methods.compact.reading import by_number, read_json, said_of
from compact_hf.records import Draft, Reject, Turn, Verdict
from compact_hf.teachers.base import Reply


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
