"""Defines why a finished image of a run gives no row, independently of the method."""

from __future__ import annotations

from compact_hf.records import Reason


class OutcomeReason(Reason):
    """Why the outcome of an image is not used."""

    GONE = "picture is gone"
    EARLIER_RUN = "picture in an earlier run"
