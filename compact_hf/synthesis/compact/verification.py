"""Step 3, quality verification: from the verifier's reply to a verdict, and what it means for the draft.

The verifier says what the question needs; only here, in code, is that compared with what was asked for.
"""

from __future__ import annotations

from pydantic import ValidationError

from compact_hf.answers import same_answer
from compact_hf.capabilities import canonical
from compact_hf.records import Draft, Reject, Verdict
from compact_hf.synthesis.compact.generation import MAX_ANSWER_SIGNS
from compact_hf.synthesis.compact.preset import Preset
from compact_hf.synthesis.compact.prompts import BlindReply, VerdictReply
from compact_hf.synthesis.compact.reading import read_json
from compact_hf.teachers.teacher import Reply


def read_verdict(reply: Reply, draft: Draft) -> Verdict | Reject:
    """Return the verdict in a verifier's reply, or a reject: declined, or not the JSON that was asked for."""
    if reply.refused:
        return Reject("verification", "verifier declined", draft.question, reply.refused, draft.capabilities)
    try:
        read = read_json(VerdictReply, reply.text)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        return Reject("verification", "malformed verdict", draft.question, said, draft.capabilities)
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


def guessed(reply: Reply, draft: Draft) -> tuple[str, str] | None:
    """Return (reason, detail) where the answer was found without the picture, None where it was not (strict presets).

    No answer at all is a question that cannot be answered blindly: it passes.
    """
    if reply.refused:
        return None
    try:
        answer = read_json(BlindReply, reply.text).answer
    except ValidationError:
        return None
    return ("answerable without the picture", answer) if same_answer(draft.answer, answer) else None
