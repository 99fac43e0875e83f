"""Generates the conversation of one image in rounds of sampling, generation and verification (paper, 3.2 and 3.3).

It takes an image, and returns its conversation, or None if too few questions were accepted, with all rejects. The work
is a generator that yields requests and is sent the replies; it does not depend on time, on a specific teacher, or on
other images. Each round requests as many combinations as the preset puts into one request. The checks are the same for
any number of combinations per request.
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
    """The outcome of an image.

    Attributes:
        k (`int`): the k that was drawn for the image.
        conversation (`Conversation | None`): None if fewer questions than the preset's `min_turns` were accepted.
        rejects (`tuple[Reject, ...]`): in the order in which they occurred.
        drafts (`tuple[tuple[str, str], ...]`): for each requested combination, in order: the key of the teacher's
            reply, and the reason for which the draft was dropped, empty if it was accepted.
        teacher, verifier (`str`): the model versions that wrote and verified the turns.
    """

    k: int
    conversation: Conversation | None
    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...]
    teacher: str
    verifier: str


def parse_outcome(body: str) -> Outcome:
    """Return the outcome that a journal holds as JSON.

    Args:
        body (`str`): the JSON.
    """
    return from_json(Outcome, body)


def generate_conversation(
    image_id: str, encoded_image: EncodedImage, *, seed: int, ks: tuple[int, ...], preset: Preset
) -> Process:
    """Request questions about one image until `max_turns` are accepted or `max_rounds` are over.

    Args:
        image_id (`str`): the id of the image.
        encoded_image (`EncodedImage`): the image as teacher and verifier see it.
        seed (`int`): random seed for k and the combinations.
        ks (`tuple[int, ...]`): k is drawn uniformly from these.
        preset (`Preset`): the preset of the run.

    Yields:
        A list of requests; the list of replies, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON, and the number of turns, 0 if there is no conversation.
    """
    # One k per image: all its questions need the same number of capabilities.
    k = draw_k(seed, image_id, ks)
    previous: list[Combination] = []
    turns: list[Turn] = []
    rejects: list[Reject] = []
    # (key of the teacher's reply, reject reason or ""), and (teacher, verifier) of each accepted turn.
    drafts: list[tuple[str, str]] = []
    models: list[tuple[str, str]] = []
    rounds = 0
    while len(turns) < preset.max_turns and rounds < preset.max_rounds:
        combinations = draw_combinations(seed, image_id, k, previous, preset.combinations_per_request)
        if not combinations:
            break  # all combinations of this k have been requested
        rounds += 1
        previous += combinations
        round_result = yield from _run_round(Task(image_id, rounds, combinations), encoded_image, turns, preset)
        for result in round_result.results:
            # Check again: the filters saw only earlier rounds, but two drafts of one round may repeat each other.
            if isinstance(result, Turn) and (repetition := filters.repetition_reason(result.question, turns, preset)):
                result = Reject("generation", repetition[0], result.question, repetition[1], result.capabilities)
            if isinstance(result, Turn):
                turns.append(result)
                models.append((round_result.teacher, round_result.verifier))
            else:
                rejects.append(result)
            drafts.append((round_result.key, result.reason if isinstance(result, Reject) else ""))
    # A round of several questions may exceed `max_turns`; all are kept, and assembly may choose among them.
    conversation = Conversation(image_id, k, tuple(turns)) if len(turns) >= preset.min_turns else None
    if conversation is None:
        detail = f"{len(turns)} accepted in {rounds} rounds, {preset.min_turns} needed"
        rejects.append(Reject("conversation", ConversationReason.TOO_FEW, image_id, detail))
    teachers, verifiers = (", ".join(sorted(set(names))) for names in zip(*models, strict=True)) if models else ("", "")
    outcome = Outcome(k, conversation, tuple(rejects), tuple(drafts), teachers, verifiers)
    return Result(to_json(outcome), len(turns) if conversation is not None else 0)


@dataclass(frozen=True, slots=True)
class _RoundResult:
    """The result of one round.

    Attributes:
        key (`str`): the key of the teacher's reply.
        results (`list[Turn | Reject]`): one for each combination of the round.
        teacher, verifier (`str`): the model versions that wrote and verified the drafts.
    """

    key: str
    results: list[Turn | Reject]
    teacher: str
    verifier: str


def _run_round(
    task: Task, encoded_image: EncodedImage, turns: list[Turn], preset: Preset
) -> Generator[list[Request], list[Reply], _RoundResult]:
    """Request a draft for each combination of the task, then filter and verify the drafts."""
    # Two waits per round: the teacher's reply, then the verifier's (a third for the blind check of strict presets).
    request = _draft_request(task, encoded_image)
    (reply,) = yield [request]
    # One for each combination of the task, in order: a draft that passed the filters, or a reject.
    candidates = [
        filter_draft(candidate, turns, preset) for candidate in filters.parse_drafts(reply, task.combinations)
    ]
    drafts = [draft for draft in candidates if isinstance(draft, Draft)]
    verifications = yield from verify_drafts(task.image_id, encoded_image, drafts, preset)
    # The results in the order of combinations; within a task each combination is unique.
    result_by_combination = {
        draft.capabilities: result for draft, (result, _) in zip(drafts, verifications, strict=True)
    }
    results = [
        result_by_combination[candidate.capabilities] if isinstance(candidate, Draft) else candidate
        for candidate in candidates
    ]
    return _RoundResult(request.key, results, reply.model, ", ".join(sorted({model for _, model in verifications})))


def _draft_request(task: Task, encoded_image: EncodedImage) -> Request:
    """Return the request to the teacher for the combinations of a task."""
    is_several = len(task.combinations) > 1
    prompt = teacher_several_prompt(task.combinations) if is_several else teacher_prompt(task.combinations[0])
    schema = DraftsReply if is_several else DraftReply
    return make_request("teacher", task.image_id, encoded_image, prompt, schema, task, num_parts=len(task.combinations))
