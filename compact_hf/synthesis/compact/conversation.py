"""The rounds of one image: sample, generate, verify, until it has its questions (paper, sections 3.2 and 3.3).

In: an image. Out: its conversation, or nothing, and every reject on the way. A generator that yields requests and is
sent replies; it knows no clock, no teacher and no other image.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pydantic import BaseModel

from compact_hf.records import Conversation, Draft, Reject, Task, Turn, digest, from_json, to_json
from compact_hf.synthesis.compact import generation, verification
from compact_hf.synthesis.compact.preset import Preset
from compact_hf.synthesis.compact.prompts import (
    BlindReply,
    DraftReply,
    VerdictReply,
    blind_prompt,
    teacher_prompt,
    verifier_prompt,
)
from compact_hf.synthesis.compact.sampling import Combination, draw_combination, draw_k
from compact_hf.teachers.teacher import Exposure, Reply, Request, Role


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes:
        k (`int`): the k that was drawn for it.
        conversation (`Conversation | None`): None where fewer than the preset's `min_turns` were accepted.
        rejects (`tuple[Reject, ...]`): in the order in which they came.
        drafts (`tuple[tuple[str, str], ...]`): for each round the key of the teacher's reply and the reason for which
            it was dropped, empty where it became a turn.
        teacher, verifier (`str`): the model versions that wrote and judged the turns.
    """

    k: int
    conversation: Conversation | None
    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...]
    teacher: str
    verifier: str


def outcome_of(body: str) -> Outcome:
    """Return the outcome that a journal holds as JSON."""
    return from_json(Outcome, body)


def converse(
    image_id: str, exposure: Exposure, *, seed: int, ks: tuple[int, ...], preset: Preset
) -> Generator[list[Request], list[Reply], str]:
    """Ask about one image until it has `max_turns` accepted questions or `max_rounds` are over.

    Yields:
        A list of requests; the replies to them, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON.
    """
    k = draw_k(seed, image_id, ks)
    asked: list[Combination] = []
    turns: list[Turn] = []
    rejects: list[Reject] = []
    drafts: list[tuple[str, str]] = []
    models: list[tuple[str, str]] = []
    while len(turns) < preset.max_turns and len(asked) < preset.max_rounds:
        combination = draw_combination(seed, image_id, k, asked)
        if combination is None:
            break
        asked.append(combination)
        write = _write(Task(image_id, len(asked), (combination,)), exposure)
        (written,) = yield [write]
        result: Draft | Turn | Reject = _draft(written, combination, turns, preset)
        if isinstance(result, Draft):
            (judged,) = yield [_judge(image_id, result.question, exposure)]
            draft, result = result, _turn(result, judged, preset)
            if preset.strict and isinstance(result, Turn):
                (blind,) = yield [_ask_blindly(image_id, draft.question)]
                if guess := verification.guessed(blind, draft):
                    result = Reject("verification", guess[0], draft.question, guess[1], combination)
            if isinstance(result, Turn):
                turns.append(result)
                models.append((written.model, judged.model))
        if isinstance(result, Reject):
            rejects.append(result)
        drafts.append((write.key, result.reason if isinstance(result, Reject) else ""))
    conversation = Conversation(image_id, k, tuple(turns)) if len(turns) >= preset.min_turns else None
    if conversation is None:
        detail = f"{len(turns)} accepted in {len(asked)} rounds, {preset.min_turns} needed"
        rejects.append(Reject("conversation", "too few questions", image_id, detail))
    teachers, verifiers = (", ".join(sorted(set(names))) for names in zip(*models, strict=True)) if models else ("", "")
    return to_json(Outcome(k, conversation, tuple(rejects), tuple(drafts), teachers, verifiers))


def _write(task: Task, exposure: Exposure) -> Request:
    prompt = teacher_prompt(task.combinations[0])
    return _request("teacher", task.image_id, exposure, prompt, DraftReply, task)


def _judge(image_id: str, question: str, exposure: Exposure) -> Request:
    return _request("verifier", image_id, exposure, verifier_prompt(question), VerdictReply, question)


def _ask_blindly(image_id: str, question: str) -> Request:
    return _request("verifier", image_id, None, blind_prompt(question), BlindReply, question)


def _request(
    role: Role, image_id: str, exposure: Exposure | None, prompt: str, schema: type[BaseModel], subject: Task | str
) -> Request:
    # The run's identity fixes teacher, model and picture size; within a run the prompt about a picture is all there is.
    return Request(digest(role, image_id, prompt), role, image_id, exposure, prompt, schema, subject)


def _draft(reply: Reply, combination: Combination, turns: list[Turn], preset: Preset) -> Draft | Reject:
    draft = generation.read_draft(reply, combination)
    if isinstance(draft, Reject):
        return draft
    failed = generation.drop_reason(draft, turns, preset)
    if failed is None:
        return draft
    return Reject("generation", failed[0], draft.question[: generation.MAX_QUESTION_SIGNS], failed[1], combination)


def _turn(draft: Draft, reply: Reply, preset: Preset) -> Turn | Reject:
    verdict = verification.read_verdict(reply, draft)
    if isinstance(verdict, Reject):
        return verdict
    failed = verification.drop_reason(draft, verdict, preset)
    if failed:
        return Reject("verification", failed[0], draft.question, failed[1], draft.capabilities)
    return Turn(draft.question, draft.answer, draft.capabilities, verdict.capabilities, draft.confidence)
