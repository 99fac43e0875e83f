"""The reasons for which a draft or an image is dropped, by stage: the words under which `compact status` counts them.

Journals hold these words, so they never change; a new one stands here before it is used.
"""

from __future__ import annotations

from enum import StrEnum


class GenerationReason(StrEnum):
    """Why a draft is dropped before anybody verifies it (paper, step 2)."""

    DECLINED = "declined"
    MALFORMED = "malformed reply"
    EMPTY = "empty question or answer"
    LONG_QUESTION = "long question"
    LONG_ANSWER = "long answer"
    CONTROL_CHARACTER = "control character"
    IMAGE_PLACEHOLDER = "image placeholder in the text"
    UNINFORMATIVE = "uninformative answer"
    LOW_CONFIDENCE = "low confidence"
    JOINED_QUESTIONS = "joined questions"
    ANSWER_LEAK = "answer in the question"
    REPETITION = "repeats a question"


class VerificationReason(StrEnum):
    """Why a draft is dropped after the verifier has seen it (paper, step 3)."""

    DECLINED = "verifier declined"
    MALFORMED = "malformed verdict"
    UNCONFIRMED = "answer not confirmed"
    MORE = "needs more capabilities"
    FEWER = "needs fewer capabilities"
    OTHER = "needs other capabilities"
    BLIND = "answerable without the picture"


class ConversationReason(StrEnum):
    """Why an image is dropped."""

    TOO_FEW = "too few questions"
