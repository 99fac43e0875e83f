"""Filters and verifies drafts, and compares what they need with what was requested (step 3, quality verification).

The verifier only says which capabilities a question needs; the comparison with the requested ones is done here, in
code. Drafts of a teacher and questions of a dataset are verified in the same way, for every method.
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
from compact_hf.teachers.reader import parse_json_reply


def parse_verdicts(reply: Reply, drafts: Sequence[Draft]) -> list[Verdict | Reject]:
    """Return what a verifier's reply says about each draft.

    Args:
        reply (`Reply`): the verifier's reply to one request.
        drafts (`Sequence[Draft]`): the drafts of that request, in its order.

    Returns:
        For each draft a verdict, or a reject if the verifier declined, or if the verdict or the whole reply is not the
        JSON that was requested.
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
        # Not the JSON that was requested, or a capability that does not exist.
        return reject_all(VerificationReason.MALFORMED, describe_validation_error(error))
    # One verdict that is missing or ambiguous loses only its own draft.
    return [
        _to_verdict(verdict)
        if verdict is not None
        else Reject(
            "verification",
            VerificationReason.MALFORMED,
            draft.question,
            f"no verdict, or several, with number {number}",
            draft.capabilities,
        )
        for number, (verdict, draft) in enumerate(zip(numbered_verdicts, drafts, strict=True), 1)
    ]


def _to_verdict(verdict_reply: VerdictReply | NumberedVerdict) -> Verdict:
    """Return the verdict of a reply, with the capabilities in canonical order and whitespace normalised."""
    return Verdict(canonicalize(verdict_reply.capabilities), " ".join(verdict_reply.answer.split()))


def verdict_reject_reason(draft: Draft, verdict: Verdict, preset: Preset) -> tuple[VerificationReason, str] | None:
    """Compare a verdict with its draft.

    A draft passes only if the verifier finds exactly the k requested capabilities (paper, step 3). A strict preset also
    requires that the verifier's own answer agrees with the draft's.

    Args:
        draft (`Draft`): the draft.
        verdict (`Verdict`): the verifier's verdict on its question.
        preset (`Preset`): the preset of the run.

    Returns:
        The reason and a detail if the verdict contradicts the draft, None if it agrees.
    """
    requested, needed = set(draft.capabilities), set(verdict.capabilities)
    if requested == needed:
        if preset.strict and not same_answer(draft.answer, verdict.answer):
            return (
                VerificationReason.UNCONFIRMED,
                f"{draft.answer}; the verifier answers {verdict.answer[:MAX_ANSWER_CHARS]}",
            )
        return None
    detail = f"requested {', '.join(draft.capabilities)}; needs {', '.join(verdict.capabilities) or 'none'}"
    # Comparisons of sets: a proper superset, a proper subset, or neither.
    if needed > requested:
        return VerificationReason.MORE, detail
    if needed < requested:
        return VerificationReason.FEWER, detail
    return VerificationReason.OTHER, detail


def parse_blind_answers(reply: Reply, turns: Sequence[Turn]) -> list[str]:
    """Return the answers that a model guessed correctly without seeing the image (strict presets).

    Args:
        reply (`Reply`): the reply to one request.
        turns (`Sequence[Turn]`): the turns of that request, in its order.

    Returns:
        For each turn the answer if it equals the turn's, otherwise an empty string. If the model gives no answer, the
        question cannot be answered without the image, so it passes.
    """
    # Unlike above, a refusal is good news here: the question could not be answered without the image.
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
"""Number of questions verified per request: they share one upload of the image, and a bad reply loses only these."""


def request_verdicts(
    image_id: str, encoded_image: EncodedImage, drafts: Sequence[Draft]
) -> Generator[list[Request], list[Reply], list[tuple[Verdict | Reject, str]]]:
    """Ask the verifier what each draft needs.

    Identical questions are sent only once. All requests are sent together.

    Args:
        image_id (`str`): the id of the image.
        encoded_image (`EncodedImage`): the image as the verifier sees it.
        drafts (`Sequence[Draft]`): the questions.

    Yields:
        A list of requests; the list of replies, in the same order, must be sent back.

    Returns:
        For each draft the verdict or a reject, and the model version that gave it.
    """
    # Several drafts may have the same question, so verdicts are stored by question.
    # The last draft with a question represents all of them: the verifier sees only the question.
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
    """Verify the drafts about one image (paper, step 3).

    A draft passes only if exactly its capabilities are needed. A strict preset also checks its answer.

    Args:
        image_id (`str`): the id of the image.
        encoded_image (`EncodedImage`): the image as the verifier sees it.
        drafts (`Sequence[Draft]`): the drafts, which passed the filters.
        preset (`Preset`): the preset of the run.

    Yields:
        A list of requests; the list of replies, in the same order, must be sent back.

    Returns:
        For each draft the accepted turn or a reject, and the model version that verified it.
    """
    results: list[tuple[Turn | Reject, str]] = []
    for draft, (verdict, model) in zip(
        drafts, (yield from request_verdicts(image_id, encoded_image, drafts)), strict=True
    ):
        results.append((_apply_verdict(draft, verdict, preset), model))
    accepted = [(index, turn) for index, (turn, _) in enumerate(results) if isinstance(turn, Turn)]
    if preset.strict and accepted:
        # Second check of strict presets: a question that can be answered without the image is dropped.
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
    """Return the draft if it passes the filters, otherwise a reject (paper, step 3).

    Args:
        draft (`Draft | Reject`): the draft; a reject is returned unchanged.
        turns (`Sequence[Turn]`): the accepted turns of the image, which the draft must not repeat.
        preset (`Preset`): the preset of the run.
    """
    if isinstance(draft, Reject):
        return draft
    failure = filters.draft_reject_reason(draft, turns, preset)
    if failure is None:
        return draft
    # Cut, because a reply may contain a question of any length, and the journal stores the reject.
    question = draft.question[: filters.MAX_QUESTION_CHARS]
    return Reject("generation", failure[0], question, failure[1], draft.capabilities)


def verification_prompts_version() -> str:
    """Return a digest of all prompts of the verifier, 12 hex digits."""
    # Prompts with empty questions: the fixed parts. The chunk size counts too, as it decides the requests.
    single = verifier_prompt(""), blind_prompt("")
    return digest(*single, verifier_several_prompt([""]), blind_several_prompt([""]), QUESTIONS_PER_REQUEST, length=12)


def _apply_verdict(draft: Draft, verdict: Verdict | Reject, preset: Preset) -> Turn | Reject:
    """Return the turn that a draft becomes, or the reject."""
    if isinstance(verdict, Reject):
        # The reject may be that of another draft with the same question, which requested other capabilities.
        return replace(verdict, capabilities=draft.capabilities)
    failure = verdict_reject_reason(draft, verdict, preset)
    if failure:
        return Reject("verification", failure[0], draft.question, failure[1], draft.capabilities)
    return Turn(draft.question, draft.answer, draft.capabilities, verdict.capabilities, draft.confidence)


def _verification_request(image_id: str, questions: Sequence[str], encoded_image: EncodedImage) -> Request:
    """Return the request to verify one or more questions."""
    if len(questions) == 1:
        return _ask_verifier(image_id, questions, encoded_image, verifier_prompt(questions[0]), VerdictReply)
    return _ask_verifier(image_id, questions, encoded_image, verifier_several_prompt(questions), VerdictsReply)


def _blind_request(image_id: str, questions: Sequence[str]) -> Request:
    """Return the request to answer one or more questions without the image."""
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
