"""Parses a teacher's reply into drafts and filters them (step 2, conversation generation).

Each check is a small function that returns None if a draft passes, and otherwise the reason and a detail.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from pydantic import ValidationError

from compact_hf.answers import is_uninformative, normalise, word_overlap
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply, NumberedDraft
from compact_hf.methods.compact.reasons import GenerationReason
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import Draft, Reject, Turn
from compact_hf.teachers.base import Reply
from compact_hf.teachers.reader import parse_json_reply

Failure = tuple[GenerationReason, str]
"""The reason for which a draft is dropped, and a detail such as the offending value."""


class _Numbered(Protocol):
    number: int


Item = TypeVar("Item", bound=_Numbered)


def order_by_number(items: Sequence[Item], count: int) -> list[Item | None]:
    """Return numbered items in order; an item is None if its number is missing or occurs more than once.

    Items with numbers that were not requested are ignored.

    Args:
        items (`Sequence[Item]`): the items of a reply, in any order.
        count (`int`): the number of requested items; they are numbered from 1.
    """
    occurrences = Counter(item.number for item in items)
    item_by_number = {item.number: item for item in items}
    return [item_by_number[number] if occurrences[number] == 1 else None for number in range(1, count + 1)]


def describe_validation_error(error: ValidationError) -> str:
    """Return in one line what is wrong with a reply, without quoting the reply.

    Args:
        error (`ValidationError`): the error; only its first problem is described.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'reply'}: {first['msg']}"


# Reconstructed: the paper asks for a word or a short phrase and gives no number. Ten words are a sentence already.
MAX_ANSWER_WORDS: Final = 8
# Characters, chosen for this package like the next limit: they bound what a reply puts into a dataset.
MAX_ANSWER_CHARS: Final = 100
MAX_QUESTION_CHARS: Final = 400
# Control characters such as NUL, and characters that change the direction of the surrounding text.
_CONTROL_CHARS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# A joiner, optionally a preposition, then the beginning of a second question.
_JOINED_QUESTIONS: Final = re.compile(
    r"(?:\band|\bor|[,;?])\s+(?:(?:on|in|at|of|to|with|by|from)\s+)?"
    # Matches "and is it", but not "and is" in "the person who wears pink and is in the background".
    r"(?:what|which|whom|when|why|how|(?:is|are|does|do|did|can)\s+(?:it|he|she|they|there|the|this|that|any)|"
    # These words also begin relative clauses ("the man who ..."), so they count only after punctuation.
    r"(?<=[,;?] )(?:who|whose|where)|(?<=[,;?] and )(?:who|whose|where))\b",
    re.IGNORECASE,
)


def parse_drafts(reply: Reply, combinations: Sequence[Combination]) -> list[Draft | Reject]:
    """Return the drafts in a teacher's reply.

    Args:
        reply (`Reply`): the reply to one request.
        combinations (`Sequence[Combination]`): the combinations of that request, in its order.

    Returns:
        For each combination a draft, or a reject if the teacher declined, or if this draft or the whole reply is not
        the JSON that was requested.
    """

    def reject_all(reason: GenerationReason, subject: str, detail: str) -> list[Draft | Reject]:
        return [Reject("generation", reason, subject, detail, combination) for combination in combinations]

    # The teacher answered, but declined: all combinations of the request are lost, and none is requested again.
    if reply.refused:
        return reject_all(GenerationReason.DECLINED, "", reply.refused)
    try:
        if len(combinations) == 1:
            return [_to_draft(parse_json_reply(DraftReply, reply.text), combinations[0])]
        drafts = order_by_number(parse_json_reply(DraftsReply, reply.text).drafts, len(combinations))
    except ValidationError as error:
        # Malformed JSON is never repaired, because a truncated answer would change. The text is cut for the journal.
        return reject_all(GenerationReason.MALFORMED, reply.text[:200], describe_validation_error(error))
    return [_to_draft_or_reject(number, draft, combinations[number - 1]) for number, draft in enumerate(drafts, 1)]


def repetition_reason(question: str, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    """Check whether a question repeats an accepted question of the same image.

    Args:
        question (`str`): the question.
        turns (`Sequence[Turn]`): the accepted turns of the image.
        preset (`Preset`): the preset of the run; `max_overlap` is the limit.

    Returns:
        The reason and a detail if the question repeats one, otherwise None.
    """
    # Share of the new question's words, not of both: a longer question may contain an accepted one.
    for turn in turns:
        overlap = word_overlap(question, turn.question)
        if overlap > preset.max_overlap:
            return GenerationReason.REPETITION, f"{overlap:.0%} of the words of: {turn.question}"
    return None


def _to_draft_or_reject(number: int, draft: NumberedDraft | None, combination: Combination) -> Draft | Reject:
    """Return the draft with this number, or a reject if it is missing or not supported by the image."""
    if draft is None:
        return Reject(
            "generation", GenerationReason.MALFORMED, "", f"no draft, or several, with number {number}", combination
        )
    if not draft.supported:
        return Reject("generation", GenerationReason.DECLINED, "", "the image does not support it", combination)
    return _to_draft(draft, combination)


def _to_draft(draft_reply: DraftReply | NumberedDraft, combination: Combination) -> Draft:
    """Return the draft in a reply, with whitespace normalised."""
    return Draft(
        " ".join(draft_reply.question.split()),
        " ".join(draft_reply.answer.split()),
        draft_reply.confidence,
        combination,
    )


def draft_reject_reason(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    """Return the reason and a detail of the first check that a draft fails, None if it passes all.

    Args:
        draft (`Draft`): the draft.
        turns (`Sequence[Turn]`): the accepted turns of the image.
        preset (`Preset`): the preset of the run.
    """
    for check in _CHECKS:
        failure = check(draft, turns, preset)
        if failure is not None:
            return failure
    return None


def _check_empty(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    return None if draft.question and draft.answer else (GenerationReason.EMPTY, "")


def _check_uninformative(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    return (GenerationReason.UNINFORMATIVE, draft.answer) if is_uninformative(draft.answer) else None


def _check_length(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    if len(draft.question) > MAX_QUESTION_CHARS:
        return GenerationReason.LONG_QUESTION, f"{len(draft.question)} > {MAX_QUESTION_CHARS} characters"
    if len(draft.answer) > MAX_ANSWER_CHARS or len(draft.answer.split()) > MAX_ANSWER_WORDS:
        return GenerationReason.LONG_ANSWER, draft.answer[:MAX_ANSWER_CHARS]
    return None


def _check_control_chars(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    match = _CONTROL_CHARS.search(draft.question) or _CONTROL_CHARS.search(draft.answer)
    # `repr`, so that the character itself does not get into tables and terminals.
    return (GenerationReason.CONTROL_CHARACTER, repr(match[0])) if match else None


def _check_image_placeholder(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    # Training code replaces <image> in the text by the image, so a literal <image> would break it.
    return (GenerationReason.IMAGE_PLACEHOLDER, "<image>") if "<image>" in f"{draft.question} {draft.answer}" else None


def _check_confidence(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    if draft.confidence < preset.min_confidence:
        return GenerationReason.LOW_CONFIDENCE, f"{draft.confidence} < {preset.min_confidence}"
    return None


def _check_joined_questions(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    # Only if the text begins with a question word: "In this photo, what ..." is one question.
    head, _, tail = draft.question.partition(" ")
    has_question_word = re.match(
        r"(what|which|who|whose|whom|where|when|why|how|is|are|does|do)\b", head, re.IGNORECASE
    )
    match = _JOINED_QUESTIONS.search(tail) if has_question_word else None
    return (GenerationReason.JOINED_QUESTIONS, match[0].strip()) if match else None


def _check_answer_leak(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    # Spaces on both sides, so that only whole words match: "red" is not in "bored".
    answer = normalise(draft.answer)
    # "Is it red or blue?" contains its answer as one of several choices, which is not a leak.
    if f" {answer} " in f" {normalise(draft.question)} " and not re.search(r"\bor\b", draft.question):
        return GenerationReason.ANSWER_LEAK, draft.answer
    return None


def _check_repetition(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    return repetition_reason(draft.question, turns, preset)


# In this order; the first check that fails gives the reason.
_CHECKS: Final[tuple[Callable[[Draft, Sequence[Turn], Preset], Failure | None], ...]] = (
    _check_empty,
    _check_length,
    _check_control_chars,
    _check_image_placeholder,
    _check_uninformative,
    _check_confidence,
    _check_joined_questions,
    _check_answer_leak,
    _check_repetition,
)
