"""Step 3, quality verification: from the verifier's reply to a verdict, and what it means for the draft.

The verifier says what the question needs; only here, in code, is that compared with what was asked for.
"""

from __future__ import annotations

from pydantic import ValidationError

from compact_hf.capabilities import canonical
from compact_hf.records import Draft, Reject, Verdict
from compact_hf.synthesis.compact.prompts import VerdictReply
from compact_hf.teachers.teacher import Reply


def read_verdict(reply: Reply, draft: Draft) -> Verdict | Reject:
    """Return the verdict in a verifier's reply, or a reject: declined, or not the JSON that was asked for."""
    if reply.refused:
        return Reject("verification", "verifier declined", draft.question, reply.refused, draft.capabilities)
    try:
        read = VerdictReply.model_validate_json(reply.text)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        return Reject("verification", "malformed verdict", draft.question, said, draft.capabilities)
    return Verdict(canonical(read.capabilities), " ".join(read.answer.split()))


def drop_reason(draft: Draft, verdict: Verdict) -> tuple[str, str] | None:
    """Return (reason, detail) where a verdict speaks against its draft, None where the draft is accepted.

    It passes only where exactly the k capabilities that were asked for are needed (paper, step 3).
    """
    asked, needed = set(draft.capabilities), set(verdict.capabilities)
    if asked == needed:
        return None
    detail = f"asked for {', '.join(draft.capabilities)}; needs {', '.join(verdict.capabilities) or 'none'}"
    if needed > asked:
        return "needs more capabilities", detail
    if needed < asked:
        return "needs fewer capabilities", detail
    return "needs other capabilities", detail
