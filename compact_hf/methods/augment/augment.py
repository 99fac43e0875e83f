"""Rewrites the questions of a dataset so that each needs one more capability (the paper's k + 1).

    compact augment DATASET --out RUN

The run directory is like that of `compact generate`: the same call resumes the run, `compact status` reports on it, and
`compact assemble` makes a dataset of it. First the verifier says what each question of an image needs. Then the teacher
rewrites the questions that need the same number of capabilities. Its drafts must pass COMPACT's filters, and the
verifier must find exactly the requested capabilities.

All questions of a conversation have the same k: one more than most of the image's questions need, the larger one in a
tie. The other questions are rejected. A conversation may have a single accepted question, because datasets such as VQA
often have only one question per image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.images.questions import QuestionRow
from compact_hf.methods.annotate.annotation import collect_questions
from compact_hf.methods.augment.options import METHOD, AugmentOptions
from compact_hf.methods.augment.prompts import (
    OriginalQuestion,
    rewrite_prompt,
    rewrite_several_prompt,
)
from compact_hf.methods.augment.reasons import OriginalReason
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.methods.compact.preset import PAPER, Preset
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply
from compact_hf.methods.compact.reasons import ConversationReason
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.generate import MethodCall
from compact_hf.methods.verification import (
    filter_draft,
    request_verdicts,
    verify_drafts,
)
from compact_hf.records import Conversation, Draft, Reject, Turn, digest, to_json
from compact_hf.runs.options import RunOptions, keywords_of
from compact_hf.runs.process import Process, Result, make_request
from compact_hf.runs.run import RunProgress
from compact_hf.teachers.base import EncodedImage, Reply, Request

PRESET: Final = replace(
    PAPER, name="k-plus-1", version="1", ks=(), combinations_per_request=4, max_rounds=3, min_turns=1
)
"""The filters of the preset `paper`, with four questions of an image per request.

A question is tried with up to three different additional capabilities, one per round.
"""

# One round only: each waits for two batches (teacher and verifier) of up to 24 hours each.
BATCH_PRESET: Final = replace(PRESET, name="k-plus-1-batch", max_rounds=1)


@dataclass(slots=True)
class _ImageState:
    """The intermediate results for the questions of one image."""

    image_id: str
    encoded_image: EncodedImage
    seed: int
    preset: Preset
    # Filled round by round; later rounds compare their drafts with `turns`.
    turns: list[Turn] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    # (key of the teacher's reply, reject reason or ""), one for each rewritten question.
    drafts: list[tuple[str, str]] = field(default_factory=list)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Candidate:
    """A question to rewrite, with the additional capabilities that were tried, one per round, until it was accepted."""

    original: OriginalQuestion
    extras: list[str] = field(default_factory=list)
    is_rewritten: bool = False

    @property
    def combination(self) -> tuple[str, ...]:
        """The capabilities of the current round: those of the original, and the newest additional one."""
        return canonicalize((*self.original.capabilities, self.extras[-1]))


def augment_image(
    image_id: str,
    encoded_image: EncodedImage,
    rows: Sequence[QuestionRow],
    *,
    seed: int,
    ks: Collection[int],
    preset: Preset,
) -> Process:
    """Rewrite the questions about one image.

    Args:
        image_id (`str`): the id of the image.
        encoded_image (`EncodedImage`): the image as teacher and verifier see it.
        rows (`Sequence[QuestionRow]`): the dataset rows about this image.
        seed (`int`): random seed for the additional capabilities.
        ks (`Collection[int]`): the values of k that the teacher supports.
        preset (`Preset`): the preset of the run.

    Yields:
        A list of requests; the list of replies, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON, with k = 0 if no question could be rewritten, and the number of its turns.
    """
    # Step 1: the verifier says what each question needs. Without a verdict or an answer a question cannot be rewritten.
    questions, rejects = collect_questions(rows)
    # The state shares the list `rejects`: both names append to it.
    state = _ImageState(image_id, encoded_image, seed, preset, rejects=rejects)
    verdicts = yield from request_verdicts(image_id, encoded_image, [question.draft for question in questions])
    originals: list[OriginalQuestion] = []
    for question, (verdict, _) in zip(questions, verdicts, strict=True):
        if isinstance(verdict, Reject):
            rejects.append(verdict)
        elif not question.draft.answer:
            rejects.append(Reject("conversation", OriginalReason.NO_ANSWER, question.draft.question))
        else:
            originals.append(OriginalQuestion(question.draft.question, question.draft.answer, verdict.capabilities))
    # Step 2: choose one k for the image.
    k, selected = _select_k(originals, ks, rejects)
    candidates = [_Candidate(question) for question in dict.fromkeys(selected)]  # which keeps the order
    # Duplicate questions are rewritten once.
    rejects += [
        Reject("conversation", OriginalReason.REPETITION, question.question)
        for question, count in Counter(selected).items()
        for _ in range(count - 1)
    ]
    # Step 3: each round tries the questions that are left with another additional capability.
    for round_number in range(1, preset.max_rounds + 1):
        yield from _run_round(round_number, candidates, state)
    rejects += [
        Reject(
            "conversation", OriginalReason.NOT_REWRITTEN, item.original.question, f"{len(item.extras)} drafts dropped"
        )
        for item in candidates
        if not item.is_rewritten
    ]
    # Step 4: the accepted questions are the conversation; without any, the image is dropped.
    turns = tuple(state.turns)
    conversation = Conversation(image_id, k, turns) if len(turns) >= preset.min_turns else None
    if conversation is None:
        rejects.append(
            Reject("conversation", ConversationReason.TOO_FEW, image_id, f"{len(turns)} of {len(questions)} rewritten")
        )
    teacher, verifier = (", ".join(sorted(names)) for names in (state.teachers, state.verifiers))
    outcome = Outcome(k, conversation, tuple(rejects), tuple(state.drafts), teacher, verifier)
    return Result(to_json(outcome), len(turns) if conversation is not None else 0)


def _select_k(
    originals: Sequence[OriginalQuestion], ks: Collection[int], rejects: list[Reject]
) -> tuple[int, list[OriginalQuestion]]:
    """Return the k of the image's new questions, and the original questions that can get it; reject the others."""
    # k of the new question -> number of original questions; only values that the teacher supports.
    counts = Counter(
        k for original in originals if (k := len(original.capabilities) + 1) in ks and k <= len(CAPABILITIES)
    )
    # 0 if no question can be rewritten: then all of them are rejected below.
    best_k = max(counts, key=lambda k: (counts[k], k), default=0)
    for original in originals:
        k = len(original.capabilities) + 1
        if k != best_k:
            reason = OriginalReason.OTHER_K if k in counts else OriginalReason.TOO_MANY_CAPABILITIES
            detail = f"would need {k} with one more capability; the image's questions need {best_k}"
            rejects.append(Reject("conversation", reason, original.question, detail, original.capabilities))
    return best_k, [original for original in originals if len(original.capabilities) + 1 == best_k]


def _run_round(
    round_number: int, candidates: Sequence[_Candidate], state: _ImageState
) -> Generator[list[Request], list[Reply], None]:
    """Rewrite each question that is left once, with an additional capability that was not tried for it before."""
    questions = [item for item in candidates if not item.is_rewritten and _draw_extra(item, candidates, state)]
    size = state.preset.combinations_per_request
    chunks = [questions[start : start + size] for start in range(0, len(questions), size)]
    if not chunks:
        return
    requests = [_rewrite_request(chunk, state, round_number) for chunk in chunks]
    replies = yield requests
    # One for each question, in order: (key of the reply, teacher's model version, draft or reject).
    entries = [
        (request.key, reply.model, filter_draft(draft, state.turns, state.preset))
        for chunk, request, reply in zip(chunks, requests, replies, strict=True)
        for draft in filters.parse_drafts(reply, [question.combination for question in chunk])
    ]
    drafts = [draft for _, _, draft in entries if isinstance(draft, Draft)]
    verdicts = iter((yield from verify_drafts(state.image_id, state.encoded_image, drafts, state.preset)))
    for question, (key, teacher, draft) in zip(questions, entries, strict=True):
        # Only drafts that passed the filters were verified; the others are rejects already.
        result, verifier = next(verdicts) if isinstance(draft, Draft) else (draft, "")
        # Check again: two drafts of one round may repeat each other.
        if isinstance(result, Turn) and (
            repetition := filters.repetition_reason(result.question, state.turns, state.preset)
        ):
            result = Reject("generation", repetition[0], result.question, repetition[1], result.capabilities)
        if isinstance(result, Turn):
            state.turns.append(result)
            state.teachers.add(teacher)
            state.verifiers.add(verifier)
            question.is_rewritten = True
        else:
            state.rejects.append(result)
        state.drafts.append((key, result.reason if isinstance(result, Reject) else ""))


def _draw_extra(question: _Candidate, candidates: Sequence[_Candidate], state: _ImageState) -> bool:
    """Add the next capability to try to a question, preferring those that were requested least for this image.

    Those of questions that were accepted count, too.

    Returns:
        False if all capabilities were tried.
    """
    names = [
        name for name in CAPABILITIES if name not in question.original.capabilities and name not in question.extras
    ]
    if not names:
        return False
    usage = Counter(name for item in candidates for name in item.extras)
    min_usage = min(usage[name] for name in names)
    # Seeded by what is drawn, not by a shared generator: a resumed run draws the same, in any order of images.
    rng = random.Random(digest("further", state.seed, state.image_id, question.original.question, len(question.extras)))
    question.extras.append(rng.choice([name for name in names if usage[name] == min_usage]))
    return True


def _rewrite_request(chunk: Sequence[_Candidate], state: _ImageState, round_number: int) -> Request:
    """Return the request to the teacher to rewrite one or more questions."""
    originals, extras = [question.original for question in chunk], [question.extras[-1] for question in chunk]
    is_several = len(chunk) > 1
    prompt = rewrite_several_prompt(originals, extras) if is_several else rewrite_prompt(originals[0], extras[0])
    task = Task(state.image_id, round_number, tuple(question.combination for question in chunk))
    schema = DraftsReply if is_several else DraftReply
    return make_request("teacher", state.image_id, state.encoded_image, prompt, schema, task, num_parts=len(chunk))


@dataclass(frozen=True, kw_only=True)
class AugmentKeywords(AugmentOptions, RunOptions):
    """The options of `augment`."""


@keywords_of(AugmentKeywords)
def augment(dataset: str, out: str | Path, **options: Any) -> RunProgress:
    """Have a teacher rewrite the questions of a dataset so that each needs one more capability, and have them verified.

    The verifier first says what each question needs, as in `annotate`. For each image, the questions that need the most
    common number of capabilities are rewritten, so that its conversation has one k. This also works in a notebook.
    Ctrl-C lets requests in flight finish and stops; the same call resumes the run.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a directory such as a dataset of this package, or a
            .json or .jsonl file in the format of LLaVA, ShareGPT or TRL.
        out (`str | Path`): the run directory: new, empty, or that of the same run.
        options: the fields of `AugmentOptions` and of `RunOptions`.

    Returns:
        The progress of the run when it ended.

    Raises:
        UsageError: an argument is invalid, or `out` holds another run.
        SourceError: the dataset was not found, or it has no images or no questions.
        TeacherError: the teacher refuses the requests, or cannot be reached.
        JournalError: the run directory cannot be used.
        StoppedEarly: Ctrl-C, the budget, or images that could not be finished; the same call resumes the run.
    """
    return MethodCall.parse(METHOD, options).execute(dataset, Path(out))
