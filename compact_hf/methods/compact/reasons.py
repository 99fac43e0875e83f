"""Defines why a draft, a question or an image is dropped, by stage; `compact status` counts these reasons."""

from __future__ import annotations

from compact_hf.records import Reason


class GenerationReason(Reason):
    """Why a draft is dropped before it is verified (paper, step 2)."""

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


class VerificationReason(Reason):
    """Why a draft is dropped by the verification (paper, step 3)."""

    DECLINED = "verifier declined"
    MALFORMED = "malformed verdict"
    UNCONFIRMED = "answer not confirmed"
    MORE = "needs more capabilities"
    FEWER = "needs fewer capabilities"
    OTHER = "needs other capabilities"
    BLIND = "answerable without the picture"


class ConversationReason(Reason):
    """Why an image is dropped in a run."""

    TOO_FEW = "too few questions"


class SelectionReason(Reason):
    """Why a question, or an image with all its questions, is not part of a dataset."""

    NEAR_DUPLICATE = "near-duplicate question"
    TOO_FEW = "too few questions"
    SURPLUS = "surplus for balance"
    NOT_SELECTED = "not selected"
