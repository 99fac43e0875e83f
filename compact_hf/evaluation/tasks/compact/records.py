"""Defines questions with k and capabilities, and the model's predictions for them."""

from __future__ import annotations

from dataclasses import dataclass

from compact_hf.evaluation.questions import Prediction, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactQuestion(Question):
    """A question with the capabilities that it needs.

    Attributes:
        k (`int | None`): number of capabilities that the question needs; None if the dataset does not say.
        capabilities (`tuple[str, ...]`): names of these capabilities.
    """

    k: int | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactPrediction(Prediction):
    """A model's answer to a `CompactQuestion`.

    Attributes:
        k (`int | None`): as in the question.
        capabilities (`tuple[str, ...]`): as in the question.
    """

    k: int | None
    capabilities: tuple[str, ...]
