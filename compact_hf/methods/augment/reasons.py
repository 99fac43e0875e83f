"""Defines why a question of a dataset is not rewritten.

The reasons for dropping a rewritten question are in compact/reasons.py.
"""

from __future__ import annotations

from compact_hf.records import Reason


class OriginalReason(Reason):
    """Why a question of the dataset is not rewritten."""

    NO_ANSWER = "question without answer"
    OTHER_K = "another k than the picture's"
    TOO_MANY_CAPABILITIES = "no question for so many capabilities"
    REPETITION = "repeats another question"
    NOT_REWRITTEN = "no rewritten question was accepted"
