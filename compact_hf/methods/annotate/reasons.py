"""Defines why a question of a dataset is not judged.

Defects of a row of the dataset have reasons of their own, which the reader of rows defines.
"""

from __future__ import annotations

from compact_hf.records import Reason


class QuestionReason(Reason):
    """Why a question is not sent to the verifier."""

    EMPTY = "empty question"
