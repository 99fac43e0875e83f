"""The reasons for which an image that a run has finished gives no row, whatever the method."""

from __future__ import annotations

from compact_hf.records import Reason


class OutcomeReason(Reason):
    """Why what became of an image is not used."""

    GONE = "picture is gone"
    EARLIER_RUN = "picture in an earlier run"
