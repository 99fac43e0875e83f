"""A question with its k and capabilities, and a model's answer to it."""

from __future__ import annotations

from dataclasses import dataclass

from compact_hf.evaluation.questions import Prediction, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactQuestion(Question):
    """A question that needs some of the ten capabilities.

    Attributes:
        k (`int | None`): how many capabilities it needs; None where the dataset does not say.
        capabilities (`tuple[str, ...]`): which.
    """

    k: int | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactPrediction(Prediction):
    """A model's answer to a `CompactQuestion`; k and capabilities are the question's."""

    k: int | None
    capabilities: tuple[str, ...]
