"""Defines what a page shows about a question that models have answered: its image, labels, answers and outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["differ", "wrong", "right"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("differ", "wrong", "right")


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The answer of a model to a question.

    Attributes:
        model (`str`): name of the model.
        answer (`str`): the answer; may be empty.
        is_correct (`bool`): whether it counts as right.
    """

    model: str
    answer: str
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """A label on an example, such as its k or a capability that it needs.

    Attributes:
        text (`str`): text of the label.
        title (`str`): explanation, shown as a tooltip.
        group (`str`): group of capabilities (one of `capabilities.GROUPS`) that gives the color; may be empty.
        tone (`str`): one of `theme.TONES`. A label with a tone is shown above the question, the others below it.
    """

    text: str
    title: str = ""
    group: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with its image and the answers of all models.

    Attributes:
        image (`bytes | None`): the encoded image; None if the question was asked without one.
        tags (`tuple[Tag, ...]`): labels of the question.
        question (`str`): the question.
        answer (`str`): the right answer.
        model_answers (`tuple[ModelAnswer, ...]`): the answers, in the order of the models.
        caption (`str`): id of the question; never an absolute path.
    """

    image: bytes | None
    tags: tuple[Tag, ...]
    question: str
    answer: str
    model_answers: tuple[ModelAnswer, ...]
    caption: str = ""

    @property
    def outcome(self) -> Outcome:
        return get_outcome([answer.is_correct for answer in self.model_answers])


def get_outcome(correct: Sequence[bool]) -> Outcome:
    """Return `right` if all answers to a question are right, `wrong` if all are wrong, else `differ`.

    Args:
        correct (`Sequence[bool]`): for each model, whether its answer is right.
    """
    return "right" if all(correct) else "differ" if any(correct) else "wrong"
