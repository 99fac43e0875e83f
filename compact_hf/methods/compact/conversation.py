"""The rounds of one image: sample, generate, verify, until it has its questions (paper, sections 3.2 and 3.3).

In: an image. Out: its conversation, or nothing, and every reject on the way. A generator that yields requests and is
sent replies; it knows no clock, no teacher and no other image. A round asks for as many combinations as the preset puts
into one request, and what passes has passed the same checks, however many were asked for together.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from compact_hf.methods.compact import filters
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply, teacher_prompt, teacher_several_prompt
from compact_hf.methods.compact.reasons import ConversationReason
from compact_hf.methods.compact.sampling import Combination, draw_combinations, draw_k
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.verification import filter_draft, verify_drafts
from compact_hf.records import Conversation, Draft, Reject, Turn, from_json, to_json
from compact_hf.runs.process import Process, Result, make_request
from compact_hf.teachers.base import EncodedImage, Reply, Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes:
        k (`int`): the k that was drawn for it.
        conversation (`Conversation | None`): None where fewer than the preset's `min_turns` were accepted.
        rejects (`tuple[Reject, ...]`): in the order in which they came.
        drafts (`tuple[tuple[str, str], ...]`): for each combination that was asked for, in order, the key of the
            teacher's reply and the reason for which the draft was dropped, empty where it became a turn.
        teacher, verifier (`str`): the model versions that wrote and judged the turns.
    """

    k: int
    conversation: Conversation | None
    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...]
    teacher: str
    verifier: str


def parse_outcome(body: str) -> Outcome:
    """Return the outcome that a journal holds as JSON."""
    return from_json(Outcome, body)


def generate_conversation(
    image_id: str, encoded_image: EncodedImage, *, seed: int, ks: tuple[int, ...], preset: Preset
) -> Process:
    """Ask about one image until it has `max_turns` accepted questions or `max_rounds` are over.

    Yields:
        A list of requests; the replies to them, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON, and the number of its turns where they make a conversation.
    """
    k = draw_k(seed, image_id, ks)
    previous: list[Combination] = []
    turns: list[Turn] = []
    rejects: list[Reject] = []
    drafts: list[tuple[str, str]] = []
    models: list[tuple[str, str]] = []
    rounds = 0
    while len(turns) < preset.max_turns and rounds < preset.max_rounds:
        combinations = draw_combinations(seed, image_id, k, previous, preset.combinations_per_request)
        if not combinations:
            break
        rounds += 1
        previous += combinations
        round_result = yield from _run_round(Task(image_id, rounds, combinations), encoded_image, turns, preset)
        for result in round_result.results:
            # Once more: two of one round may repeat each other.
            if isinstance(result, Turn) and (repetition := filters.repetition_reason(result.question, turns, preset)):
                result = Reject("generation", repetition[0], result.question, repetition[1], result.capabilities)
            if isinstance(result, Turn):
                turns.append(result)
                models.append((round_result.teacher, round_result.verifier))
            else:
                rejects.append(result)
            drafts.append((round_result.key, result.reason if isinstance(result, Reject) else ""))
    conversation = Conversation(image_id, k, tuple(turns)) if len(turns) >= preset.min_turns else None
    if conversation is None:
        detail = f"{len(turns)} accepted in {rounds} rounds, {preset.min_turns} needed"
        rejects.append(Reject("conversation", ConversationReason.TOO_FEW, image_id, detail))
    teachers, verifiers = (", ".join(sorted(set(names))) for names in zip(*models, strict=True)) if models else ("", "")
    outcome = Outcome(k, conversation, tuple(rejects), tuple(drafts), teachers, verifiers)
    return Result(to_json(outcome), len(turns) if conversation is not None else 0)


@dataclass(frozen=True, slots=True)
class _RoundResult:
    """What a round brought: a turn or a reject for each of its combinations, and who wrote and judged them."""

    key: str
    results: list[Turn | Reject]
    teacher: str
    verifier: str


def _run_round(
    task: Task, encoded_image: EncodedImage, turns: list[Turn], preset: Preset
) -> Generator[list[Request], list[Reply], _RoundResult]:
    request = _draft_request(task, encoded_image)
    (reply,) = yield [request]
    candidates = [
        filter_draft(candidate, turns, preset) for candidate in filters.parse_drafts(reply, task.combinations)
    ]
    drafts = [draft for draft in candidates if isinstance(draft, Draft)]
    verifications = yield from verify_drafts(task.image_id, encoded_image, drafts, preset)
    result_by_combination = {
        draft.capabilities: result for draft, (result, _) in zip(drafts, verifications, strict=True)
    }
    results = [
        result_by_combination[candidate.capabilities] if isinstance(candidate, Draft) else candidate
        for candidate in candidates
    ]
    return _RoundResult(request.key, results, reply.model, ", ".join(sorted({model for _, model in verifications})))


def _draft_request(task: Task, encoded_image: EncodedImage) -> Request:
    is_several = len(task.combinations) > 1
    prompt = teacher_several_prompt(task.combinations) if is_several else teacher_prompt(task.combinations[0])
    schema = DraftsReply if is_several else DraftReply
    return make_request("teacher", task.image_id, encoded_image, prompt, schema, task, num_parts=len(task.combinations))
