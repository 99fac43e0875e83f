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
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply, several_prompt, teacher_prompt
from compact_hf.methods.compact.sampling import Combination, draw_combinations, draw_k
from compact_hf.methods.verification import filtered, request, verified
from compact_hf.records import Conversation, Draft, Reject, Task, Turn, from_json, to_json
from compact_hf.runs.process import Process, Result
from compact_hf.teachers.base import Exposure, Reply, Request


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


def outcome_of(body: str) -> Outcome:
    """Return the outcome that a journal holds as JSON."""
    return from_json(Outcome, body)


def converse(image_id: str, exposure: Exposure, *, seed: int, ks: tuple[int, ...], preset: Preset) -> Process:
    """Ask about one image until it has `max_turns` accepted questions or `max_rounds` are over.

    Yields:
        A list of requests; the replies to them, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON, and the number of its turns where they make a conversation.
    """
    k = draw_k(seed, image_id, ks)
    asked: list[Combination] = []
    turns: list[Turn] = []
    rejects: list[Reject] = []
    drafts: list[tuple[str, str]] = []
    models: list[tuple[str, str]] = []
    rounds = 0
    while len(turns) < preset.max_turns and rounds < preset.max_rounds:
        combinations = draw_combinations(seed, image_id, k, asked, preset.combinations_per_request)
        if not combinations:
            break
        rounds += 1
        asked += combinations
        written = yield from _round(Task(image_id, rounds, combinations), exposure, turns, preset)
        for result in written.results:
            # Once more: two of one round may repeat each other.
            if isinstance(result, Turn) and (again := filters.repetition(result.question, turns, preset)):
                result = Reject("generation", again[0], result.question, again[1], result.capabilities)
            if isinstance(result, Turn):
                turns.append(result)
                models.append((written.teacher, written.verifier))
            else:
                rejects.append(result)
            drafts.append((written.key, result.reason if isinstance(result, Reject) else ""))
    conversation = Conversation(image_id, k, tuple(turns)) if len(turns) >= preset.min_turns else None
    if conversation is None:
        detail = f"{len(turns)} accepted in {rounds} rounds, {preset.min_turns} needed"
        rejects.append(Reject("conversation", "too few questions", image_id, detail))
    teachers, verifiers = (", ".join(sorted(set(names))) for names in zip(*models, strict=True)) if models else ("", "")
    outcome = Outcome(k, conversation, tuple(rejects), tuple(drafts), teachers, verifiers)
    return Result(to_json(outcome), len(turns) if conversation is not None else 0)


@dataclass(frozen=True, slots=True)
class _Round:
    """What a round brought: a turn or a reject for each of its combinations, and who wrote and judged them."""

    key: str
    results: list[Turn | Reject]
    teacher: str
    verifier: str


def _round(
    task: Task, exposure: Exposure, turns: list[Turn], preset: Preset
) -> Generator[list[Request], list[Reply], _Round]:
    write = _write(task, exposure)
    (written,) = yield [write]
    read = [filtered(one, turns, preset) for one in filters.read_drafts(written, task.combinations)]
    drafts = [draft for draft in read if isinstance(draft, Draft)]
    judged = yield from verified(task.image_id, exposure, drafts, preset)
    result_of = {draft.capabilities: result for draft, (result, _) in zip(drafts, judged, strict=True)}
    results = [result_of[one.capabilities] if isinstance(one, Draft) else one for one in read]
    return _Round(write.key, results, written.model, ", ".join(sorted({model for _, model in judged})))


def _write(task: Task, exposure: Exposure) -> Request:
    if len(task.combinations) == 1:
        return request("teacher", task.image_id, exposure, teacher_prompt(task.combinations[0]), DraftReply, task)
    return request("teacher", task.image_id, exposure, several_prompt(task.combinations), DraftsReply, task)
