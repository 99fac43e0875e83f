"""Step 2, conversation generation: from the teacher's reply to a draft, or a reject with its reason.

A reply is read only if it is the JSON that was asked for, alone or in one Markdown fence. Each check is a small filter:
it returns None if a draft passes, and the reason if it does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from compact_hf.answers import is_uninformative, normalise, word_overlap
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply, NumberedDraft
from compact_hf.methods.compact.reasons import GenerationReason
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import Draft, Reject, Turn
from compact_hf.teachers.base import Reply

Failure = tuple[GenerationReason, str]
"""The check that a draft fails, and what was got."""
ReplyModel = TypeVar("ReplyModel", bound=BaseModel)


class _Numbered(Protocol):
    number: int


Item = TypeVar("Item", bound=_Numbered)

_FENCE: Final = "```"


def parse_json_reply(schema: type[ReplyModel], text: str) -> ReplyModel:
    """Return what the text says in the form of `schema`.

    Raises:
        pydantic.ValidationError: it is not that.
    """
    # Small local models like to fence their JSON. Both ends must be there: JSON that was cut is never repaired.
    first, _, rest = text.strip().partition("\n")
    if first.rstrip().lower() in (_FENCE, f"{_FENCE}json") and rest.endswith(_FENCE):
        text = rest.removesuffix(_FENCE)
    return schema.model_validate_json(text)


def order_by_number(items: Sequence[Item], count: int) -> list[Item | None]:
    """Return the items numbered 1 to `count` in that order, None for each that is missing or there twice.

    Numbers that were not asked for are passed over: whatever carries one answers nothing.
    """
    occurrences = Counter(item.number for item in items)
    item_by_number = {item.number: item for item in items}
    return [item_by_number[number] if occurrences[number] == 1 else None for number in range(1, count + 1)]


def describe_validation_error(error: ValidationError) -> str:
    """Return in one line what is wrong with a reply, without quoting it."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'reply'}: {first['msg']}"


# RECIPE: a word or a short phrase. The paper gives no number; ten words are a sentence already.
MAX_ANSWER_WORDS: Final = 8
MAX_ANSWER_CHARS: Final = 100
MAX_QUESTION_CHARS: Final = 400
# NUL and its like, and what turns the direction of the text around it.
_CONTROL_CHARS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_JOINED_QUESTIONS: Final = re.compile(
    r"(?:\band|\bor|[,;?])\s+(?:(?:on|in|at|of|to|with|by|from)\s+)?"
    # "and is it", but not the "and is" of "the person who wears pink and is in the background".
    r"(?:what|which|whom|when|why|how|(?:is|are|does|do|did|can)\s+(?:it|he|she|they|there|the|this|that|any)|"
    r"(?<=[,;?] )(?:who|whose|where)|(?<=[,;?] and )(?:who|whose|where))\b",
    re.IGNORECASE,
)


def parse_drafts(reply: Reply, combinations: Sequence[Combination]) -> list[Draft | Reject]:
    """Return what a teacher's reply holds for each combination: a draft, or a reject.

    A reject says that the teacher declined, or that this draft or the whole reply is not the JSON that was asked for.
    """

    def reject_all(reason: GenerationReason, subject: str, detail: str) -> list[Draft | Reject]:
        return [Reject("generation", reason, subject, detail, combination) for combination in combinations]

    if reply.refused:
        return reject_all(GenerationReason.DECLINED, "", reply.refused)
    try:
        if len(combinations) == 1:
            return [_to_draft(parse_json_reply(DraftReply, reply.text), combinations[0])]
        drafts = order_by_number(parse_json_reply(DraftsReply, reply.text).drafts, len(combinations))
    except ValidationError as error:
        return reject_all(GenerationReason.MALFORMED, reply.text[:200], describe_validation_error(error))
    return [_to_draft_or_reject(number, draft, combinations[number - 1]) for number, draft in enumerate(drafts, 1)]


def repetition_reason(question: str, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    """Return (reason, detail) where a question repeats one of the image's accepted ones, None where it does not."""
    for turn in turns:
        overlap = word_overlap(question, turn.question)
        if overlap > preset.max_overlap:
            return GenerationReason.REPETITION, f"{overlap:.0%} of the words of: {turn.question}"
    return None


def _to_draft_or_reject(number: int, draft: NumberedDraft | None, combination: Combination) -> Draft | Reject:
    if draft is None:
        return Reject("generation", GenerationReason.MALFORMED, "", f"not one draft of number {number}", combination)
    if not draft.supported:
        return Reject("generation", GenerationReason.DECLINED, "", "the picture does not support it", combination)
    return _to_draft(draft, combination)


def _to_draft(draft_reply: DraftReply | NumberedDraft, combination: Combination) -> Draft:
    return Draft(
        " ".join(draft_reply.question.split()),
        " ".join(draft_reply.answer.split()),
        draft_reply.confidence,
        combination,
    )


def draft_reject_reason(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    """Return (reason, detail) for the first check that the draft fails, None where it passes all."""
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
        return GenerationReason.LONG_QUESTION, f"{len(draft.question)} > {MAX_QUESTION_CHARS} signs"
    if len(draft.answer) > MAX_ANSWER_CHARS or len(draft.answer.split()) > MAX_ANSWER_WORDS:
        return GenerationReason.LONG_ANSWER, draft.answer[:MAX_ANSWER_CHARS]
    return None


def _check_control_chars(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    match = _CONTROL_CHARS.search(draft.question) or _CONTROL_CHARS.search(draft.answer)
    return (GenerationReason.CONTROL_CHARACTER, repr(match[0])) if match else None


def _check_image_placeholder(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    # Trainers put the image where the text says <image>: a literal one would break them.
    return (GenerationReason.IMAGE_PLACEHOLDER, "<image>") if "<image>" in f"{draft.question} {draft.answer}" else None


def _check_confidence(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    if draft.confidence < preset.min_confidence:
        return GenerationReason.LOW_CONFIDENCE, f"{draft.confidence} < {preset.min_confidence}"
    return None


def _check_joined_questions(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    # Not before the first few words: "In the picture, what ..." is one question.
    head, _, tail = draft.question.partition(" ")
    has_question_word = re.match(
        r"(what|which|who|whose|whom|where|when|why|how|is|are|does|do)\b", head, re.IGNORECASE
    )
    match = _JOINED_QUESTIONS.search(tail) if has_question_word else None
    return (GenerationReason.JOINED_QUESTIONS, match[0].strip()) if match else None


def _check_answer_leak(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    answer = normalise(draft.answer)
    # "Is it red or blue?" offers its answer among others; that is a choice, not a leak.
    if f" {answer} " in f" {normalise(draft.question)} " and not re.search(r"\bor\b", draft.question):
        return GenerationReason.ANSWER_LEAK, draft.answer
    return None


def _check_repetition(draft: Draft, turns: Sequence[Turn], preset: Preset) -> Failure | None:
    return repetition_reason(draft.question, turns, preset)


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
