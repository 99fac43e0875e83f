"""When an answer counts as right: a model's answer and the right ones in, yes or no out. Pure.

    exact      the same after `answers.normalise`
    relaxed    that, or a number within 5% of a right one: the relaxed accuracy of ChartQA

Where a question has several right answers, any of them counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final, Literal

from compact_hf.answers import normalise, same_answer
from compact_hf.errors import UsageError, did_you_mean

Matching = Literal["exact", "relaxed"]

TOLERANCE: Final = 0.05
"""How far from the right number, as a share of it, `relaxed` still takes a number (Masry et al. 2022)."""

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)%?")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def is_right(prediction: str, answers: Sequence[str], matching: Matching = "exact") -> bool:
    """Return whether a model's answer matches any of the right ones.

    Args:
        prediction (`str`): the model's, as it stands.
        answers (`Sequence[str]`): the right ones, as they stand.
        matching (`str`, *optional*, defaults to `exact`): `exact` or `relaxed`.

    Raises:
        UsageError: there is no such rule.
    """
    rule = rule_of(matching)
    return any(rule(prediction, answer) for answer in answers)


def rule_of(matching: str) -> Callable[[str, str], bool]:
    """Return the rule of that name: does this prediction match this right answer?

    Raises:
        UsageError: there is no such rule.
    """
    if matching not in _RULES:
        raise UsageError(
            f"unknown matching {matching!r}; the rules are {' and '.join(_RULES)}{did_you_mean(matching, _RULES)}"
        )
    return _RULES[matching]


def relaxed(prediction: str, answer: str) -> bool:
    """Whether two answers are the same, or the prediction is a number within 5% of the right one.

    A percentage is the number it stands for (`5%` is 0.05), number words up to twenty are numbers, and nothing but
    nought is near nought. Years are numbers too, as in ChartQA's own figures.
    """
    if same_answer(prediction, answer):
        return True
    given, right = _number(prediction), _number(answer)
    return given is not None and right is not None and abs(given - right) <= TOLERANCE * abs(right)


def _number(answer: str) -> float | None:
    # As it stands before normalised: normalising takes the point of ".5" for the end of a sentence.
    for text in (_THOUSANDS.sub("", answer.strip()), normalise(answer)):
        if _NUMBER.fullmatch(text):
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
            return number if isfinite(number) else None
    return None


_RULES: Final[dict[str, Callable[[str, str], bool]]] = {"exact": same_answer, "relaxed": relaxed}
