"""The reasons for which a question of a dataset is not judged, beside defects of its row, which its reader names."""

from __future__ import annotations

from compact_hf.records import Reason


class QuestionReason(Reason):
    """Why a question is not put to the verifier."""

    EMPTY = "empty question"
