"""Defines the reasons why a row is excluded from a release, independent of its method."""

from __future__ import annotations

from compact_hf.records import Reason


class AssemblyReason(Reason):
    """Why a row is excluded. Cards contain these words, so those of a reason never change."""

    EXCLUDED_ID = "excluded by id"
    EXCLUDED_IMAGE = "picture of an excluded data set"
    BOTH_SPLITS = "images of both splits"
    LIKE_VALIDATION = "picture is like one in the validation split"


class InstructionReason(Reason):
    """Why a row of the instruction file is skipped, in addition to `RowReason` and `ImageReason`."""

    REPETITION = "repeats another row"
    NO_IMAGE = "names no picture for its <image>"
    VALIDATION_IMAGE = "picture is in the validation split"
