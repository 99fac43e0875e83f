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
from compact_hf.capabilities import canonicalize
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.filters import (
    MAX_ANSWER_CHARS,
    describe_validation_error,
    order_by_number,
    parse_json_reply,
)
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
    verifier_several_prompt,
)
from compact_hf.methods.compact.reasons import VerificationReason
from compact_hf.methods.compact.truth import Questions
from compact_hf.records import Draft, Reject, Turn, Verdict, digest
from compact_hf.runs.process import make_request
from compact_hf.teachers.base import EncodedImage, Reply, Request


def parse_verdicts(reply: Reply, drafts: Sequence[Draft]) -> list[Verdict | Reject]:
    """Return what a verifier's reply holds for each draft that it was asked about: a verdict, or a reject.

    A reject says that the verifier declined, or that this verdict or the whole reply is not the JSON asked for.
    """

    def reject_all(reason: VerificationReason, detail: str) -> list[Verdict | Reject]:
        return [Reject("verification", reason, draft.question, detail, draft.capabilities) for draft in drafts]

    if reply.refused:
        return reject_all(VerificationReason.DECLINED, reply.refused)
    try:
        if len(drafts) == 1:
            return [_to_verdict(parse_json_reply(VerdictReply, reply.text))]
        numbered_verdicts = order_by_number(parse_json_reply(VerdictsReply, reply.text).verdicts, len(drafts))
    except ValidationError as error:
        return reject_all(VerificationReason.MALFORMED, describe_validation_error(error))
    return [
        _to_verdict(verdict)
        if verdict is not None
        else Reject(
            "verification",
            VerificationReason.MALFORMED,
            draft.question,
            f"not one verdict of number {number}",
            draft.capabilities,
        )
        for number, (verdict, draft) in enumerate(zip(numbered_verdicts, drafts, strict=True), 1)
    ]


def _to_verdict(verdict_reply: VerdictReply | NumberedVerdict) -> Verdict:
    return Verdict(canonicalize(verdict_reply.capabilities), " ".join(verdict_reply.answer.split()))


def verdict_reject_reason(draft: Draft, verdict: Verdict, preset: Preset) -> tuple[VerificationReason, str] | None:
    """Return (reason, detail) where a verdict speaks against its draft, None where it does not.

    A draft passes only where exactly the k capabilities that were asked for are needed (paper, step 3); a strict preset
    also wants the verifier's own answer to be the draft's.
    """
    requested, needed = set(draft.capabilities), set(verdict.capabilities)
    if requested == needed:
        if preset.strict and not same_answer(draft.answer, verdict.answer):
            return (
                VerificationReason.UNCONFIRMED,
                f"{draft.answer}; the verifier says {verdict.answer[:MAX_ANSWER_CHARS]}",
            )
        return None
    detail = f"asked for {', '.join(draft.capabilities)}; needs {', '.join(verdict.capabilities) or 'none'}"
    if needed > requested:
        return VerificationReason.MORE, detail
    if needed < requested:
        return VerificationReason.FEWER, detail
    return VerificationReason.OTHER, detail


def parse_blind_answers(reply: Reply, turns: Sequence[Turn]) -> list[str]:
    """Return for each turn the answer that was found without the image where it is the turn's, else nothing.

    No answer at all is a question that cannot be answered blindly: it passes (strict presets).
    """
    if reply.refused:
        return [""] * len(turns)
    try:
        if len(turns) == 1:
            answers = [parse_json_reply(BlindReply, reply.text).answer]
        else:
            numbered_answers = order_by_number(parse_json_reply(BlindAnswersReply, reply.text).answers, len(turns))
            answers = [answer.answer if answer is not None else "" for answer in numbered_answers]
    except ValidationError:
        return [""] * len(turns)
    return [answer if same_answer(turn.answer, answer) else "" for turn, answer in zip(turns, answers, strict=True)]


QUESTIONS_PER_REQUEST: Final = 8
"""Questions judged in one request: they share one upload of the image, and one bad reply costs no more than these."""


def request_verdicts(
    image_id: str, encoded_image: EncodedImage, drafts: Sequence[Draft]
) -> Generator[list[Request], list[Reply], list[tuple[Verdict | Reject, str]]]:
    """Return what the verifier says of each draft, and the model that said it.

    What is asked in the same words is asked once, and all requests go out together.
    """
    unique_drafts = list({draft.question: draft for draft in drafts}.values())
    chunks = [
        unique_drafts[start : start + QUESTIONS_PER_REQUEST]
        for start in range(0, len(unique_drafts), QUESTIONS_PER_REQUEST)
    ]
    if not chunks:
        return []
    replies = yield [
        _verification_request(image_id, [draft.question for draft in chunk], encoded_image) for chunk in chunks
    ]
    verdicts: dict[str, tuple[Verdict | Reject, str]] = {}
    for chunk, reply in zip(chunks, replies, strict=True):
        for draft, verdict in zip(chunk, parse_verdicts(reply, chunk), strict=True):
            verdicts[draft.question] = verdict, reply.model
    return [verdicts[draft.question] for draft in drafts]


def verify_drafts(
    image_id: str, encoded_image: EncodedImage, drafts: Sequence[Draft], preset: Preset
) -> Generator[list[Request], list[Reply], list[tuple[Turn | Reject, str]]]:
    """Return the turn that each draft became, or the reject, and the model that judged it (paper, step 3).

    A draft passes where exactly its capabilities are needed; a strict preset checks its answer besides.
    """
    results: list[tuple[Turn | Reject, str]] = []
    for draft, (verdict, model) in zip(
        drafts, (yield from request_verdicts(image_id, encoded_image, drafts)), strict=True
    ):
        results.append((_apply_verdict(draft, verdict, preset), model))
    accepted = [(index, turn) for index, (turn, _) in enumerate(results) if isinstance(turn, Turn)]
    if preset.strict and accepted:
        (blind_reply,) = yield [_blind_request(image_id, [turn.question for _, turn in accepted])]
        for (index, turn), guess in zip(
            accepted, parse_blind_answers(blind_reply, [turn for _, turn in accepted]), strict=True
        ):
            if guess:
                reason = VerificationReason.BLIND
                reject = Reject("verification", reason, turn.question, guess, turn.capabilities)
                results[index] = reject, results[index][1]
    return results


def filter_draft(draft: Draft | Reject, turns: Sequence[Turn], preset: Preset) -> Draft | Reject:
    """Return the draft where it passes the filters beside these accepted turns, or a reject (paper, step 3)."""
    if isinstance(draft, Reject):
        return draft
    failure = filters.draft_reject_reason(draft, turns, preset)
    if failure is None:
        return draft
    question = draft.question[: filters.MAX_QUESTION_CHARS]
    return Reject("generation", failure[0], question, failure[1], draft.capabilities)


def verification_prompts_version() -> str:
    """Return a digest, 12 hex digits, of all that the verifier is asked here."""
    single = verifier_prompt(""), blind_prompt("")
    return digest(*single, verifier_several_prompt([""]), blind_several_prompt([""]), QUESTIONS_PER_REQUEST, length=12)


def _apply_verdict(draft: Draft, verdict: Verdict | Reject, preset: Preset) -> Turn | Reject:
    if isinstance(verdict, Reject):
        return replace(verdict, capabilities=draft.capabilities)
    failure = verdict_reject_reason(draft, verdict, preset)
    if failure:
        return Reject("verification", failure[0], draft.question, failure[1], draft.capabilities)
    return Turn(draft.question, draft.answer, draft.capabilities, verdict.capabilities, draft.confidence)


def _verification_request(image_id: str, questions: Sequence[str], encoded_image: EncodedImage) -> Request:
    if len(questions) == 1:
        return _ask_verifier(image_id, questions, encoded_image, verifier_prompt(questions[0]), VerdictReply)
    return _ask_verifier(image_id, questions, encoded_image, verifier_several_prompt(questions), VerdictsReply)


def _blind_request(image_id: str, questions: Sequence[str]) -> Request:
    if len(questions) == 1:
        return _ask_verifier(image_id, questions, None, blind_prompt(questions[0]), BlindReply)
    return _ask_verifier(image_id, questions, None, blind_several_prompt(questions), BlindAnswersReply)


def _ask_verifier(
    image_id: str,
    questions: Sequence[str],
    encoded_image: EncodedImage | None,
    prompt: str,
    schema: type[BaseModel],
) -> Request:
    subject = Questions(tuple(questions))
    return make_request("verifier", image_id, encoded_image, prompt, schema, subject, num_parts=len(questions))
