"""Says what an error of a service means: one table for all protocols."""

from __future__ import annotations

from typing import Final

from compact_hf.teachers.base import FailureKind

_OVERLOAD_CODES: Final = (429, 503, 529)
# 409 conflict, 425 too early; 499 is the code of nginx and Google for a request that was cancelled on the way.
_TRANSIENT_CODES: Final = (408, 409, 425, 499)


def get_failure_kind(status: int) -> FailureKind:
    """Return the kind of a failure by its HTTP status alone.

    Args:
        status (`int`): the status, 400 or above.
    """
    if status in _OVERLOAD_CODES:
        return FailureKind.OVERLOADED
    if status >= 500 or status in _TRANSIENT_CODES:
        return FailureKind.TRANSIENT
    return FailureKind.REJECTED
