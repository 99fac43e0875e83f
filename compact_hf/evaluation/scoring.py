"""Scoring: predictions in, accuracy by k, capability and pair out, each with n, its 95% interval and a baseline. Pure.

`results.json` of one model is `Results.to_json()`:

    {"schema": 2,
     "model": "student", "dataset": "release (compositional, validation)",
     "matching": "exact",     when an answer counts as right; see below
     "overall": SCORE, "by_k": {"1": SCORE, ...}, "by_capability": {"color": SCORE, ...},
     "by_pair": {"color+shape": SCORE, ...}}

    SCORE = {"n": 120,            questions
             "right": 54,         answered rightly
             "accuracy": 0.45,    right / n, 0 to 1
             "low": 0.364, "high": 0.539,                the 95% Wilson interval of accuracy
             "majority": {"right": 40, "accuracy": 0.333}}   the same questions answered by the majority answer

A question counts once in `overall`, once under its k where that is known, once under each of its capabilities and once
under each pair of them. Keys stand only where n > 0: of `by_k` in ascending order, of the other two in the paper's.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, sqrt
from typing import Any, Final, Literal

from compact_hf.answers import normalise, same_answer
from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.records import RESULTS_SCHEMA, from_json

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
    rule = get_rule(matching)
    return any(rule(prediction, answer) for answer in answers)


def get_rule(matching: str) -> Callable[[str, str], bool]:
    """Return the rule of that name: does this prediction match this right answer?

    Raises:
        UsageError: there is no such rule.
    """
    if matching not in _RULES:
        raise UsageError(
            f"unknown matching {matching!r}; the rules are {' and '.join(_RULES)}{did_you_mean(matching, _RULES)}"
        )
    return _RULES[matching]


def is_relaxed_match(prediction: str, answer: str) -> bool:
    """Whether two answers are the same, or the prediction is a number within 5% of the right one.

    A percentage is the number it stands for (`5%` is 0.05), number words up to twenty are numbers, and nothing but
    nought is near nought. Years are numbers too, as in ChartQA's own figures.
    """
    if same_answer(prediction, answer):
        return True
    predicted, expected = _parse_number(prediction), _parse_number(answer)
    return predicted is not None and expected is not None and abs(predicted - expected) <= TOLERANCE * abs(expected)


def _parse_number(answer: str) -> float | None:
    # As it stands before normalised: normalising takes the point of ".5" for the end of a sentence.
    for text in (_THOUSANDS.sub("", answer.strip()), normalise(answer)):
        if _NUMBER.fullmatch(text):
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
            return number if isfinite(number) else None
    return None


_RULES: Final[dict[str, Callable[[str, str], bool]]] = {"exact": same_answer, "relaxed": is_relaxed_match}


_Z95: Final = 1.959963984540054
_PAIRS: Final = tuple("+".join(pair) for pair in combinations(CAPABILITIES, 2))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A question with the answers that are right and the one the model gave.

    Attributes:
        id (`str`): the question's, unique in its dataset.
        picture (`str`): which image it was written about; questions about one image share it.
        k (`int | None`): how many capabilities it needs; None where the dataset does not say.
        capabilities (`tuple[str, ...]`): which.
        question (`str`): as it was asked, without the request for a short answer.
        answers (`tuple[str, ...]`): the right ones, not normalised; any of them counts, the first is the one shown.
        prediction (`str`): the model's, not normalised.
        right (`bool`): whether it matches one of them by the rule that was chosen.
    """

    id: str
    picture: str
    k: int | None
    capabilities: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    prediction: str
    right: bool


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of some questions, and their share, 0 to 1."""

    right: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Score:
    """`right` of `n` questions, with the 95% Wilson interval `low` to `high` and the majority answer's share."""

    n: int
    right: int
    accuracy: float
    low: float
    high: float
    majority: Share


@dataclass(frozen=True, slots=True)
class Results:
    """The scores of one model on one dataset; see the module for their JSON.

    Attributes:
        model, dataset (`str`): what they are called.
        matching (`str`): the rule by which answers were compared, `exact` or `relaxed`.
        overall (`Score`): of all questions.
        by_k (`dict[int, Score]`): ascending.
        by_capability (`dict[str, Score]`): in the paper's order.
        by_pair (`dict[str, Score]`): `color+shape` -> the questions that need both, in the paper's order.
    """

    model: str
    dataset: str
    matching: Matching
    overall: Score
    by_k: dict[int, Score]
    by_capability: dict[str, Score]
    by_pair: dict[str, Score]

    def to_json(self) -> dict[str, Any]:
        """Return the results as `results.json` has them."""
        return {
            "schema": RESULTS_SCHEMA,
            **asdict(self),
            "by_k": {str(k): asdict(score) for k, score in self.by_k.items()},
        }


def score(predictions: Sequence[Prediction], *, model: str, dataset: str, matching: Matching = "exact") -> Results:
    """Return the accuracies of `predictions`, whatever their order.

    The baseline gives, for each k, the answer that is most frequent among these very predictions' right answers:
    in hindsight, so that by exact matching no constant answer per k does better. A model that has only learnt which
    answers are common can reach it, hardly pass it.

    Args:
        predictions (`Sequence[Prediction]`): judged already.
        model, dataset (`str`): what they are called.
        matching (`str`, *optional*, defaults to `exact`): the rule by which they were judged; the baseline is judged
            by it too.

    Raises:
        EvaluationError: there are no predictions.
        UnknownCapabilityError: a capability is not one of the ten.
        UsageError: there is no such rule.
    """
    if not predictions:
        raise EvaluationError(f"{dataset} gave no questions with known answers; there is nothing to score")
    baseline_hits = _find_baseline_hits(predictions, matching)
    by_k: dict[int | None, list[_Outcome]] = defaultdict(list)
    by_capability: dict[str, list[_Outcome]] = defaultdict(list)
    by_pair: dict[str, list[_Outcome]] = defaultdict(list)
    for prediction, baseline_hit in zip(predictions, baseline_hits, strict=True):
        outcome = (prediction.right, baseline_hit)
        by_k[prediction.k].append(outcome)
        names = canonicalize(prediction.capabilities)
        for name in names:
            by_capability[name].append(outcome)
        for pair in combinations(names, 2):
            by_pair["+".join(pair)].append(outcome)
    return Results(
        model,
        dataset,
        matching,
        overall=_score([outcome for outcomes in by_k.values() for outcome in outcomes]),
        by_k={k: _score(by_k[k]) for k in sorted(key for key in by_k if key is not None)},
        by_capability={name: _score(by_capability[name]) for name in CAPABILITIES if name in by_capability},
        by_pair={pair: _score(by_pair[pair]) for pair in _PAIRS if pair in by_pair},
    )


def read_results(text: str | bytes, *, source: str) -> Results:
    """Return the results whose JSON `to_json` gave.

    Args:
        text (`str | bytes`): the content of a `results.json` of one model.
        source (`str`): what to call it in an error.

    Raises:
        EvaluationError: it is no such JSON, or has another schema.
    """
    from pydantic import ValidationError

    try:
        data = json.loads(text)
    except ValueError as error:
        raise EvaluationError(f"{source} is no JSON ({error}); give what compact evaluate wrote") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != RESULTS_SCHEMA:
        raise EvaluationError(
            f"{source} has schema {schema!r}, this version reads {RESULTS_SCHEMA}; judge the model again: "
            "compact evaluate MODEL DATASET --out DIR"
        )
    try:
        return from_json(Results, text)
    except ValidationError as error:
        detail = error.errors()[0]
        location = ".".join(map(str, detail["loc"]))
        raise EvaluationError(
            f"{source} is not one model's results ({location}: {detail['msg']}); give what compact evaluate wrote"
        ) from error


def majority_answers(reference: Iterable[tuple[int | None, Sequence[str]]]) -> dict[int | None, str]:
    """Return each k's most frequent answer, normalised, among the (k, right answers) pairs; ties go by the alphabet."""
    counts: dict[int | None, Counter[str]] = defaultdict(Counter)
    for k, answers in reference:
        counts[k].update({normalise(answer) for answer in answers})
    return {
        k: min(answer_counts, key=lambda answer: (-answer_counts[answer], answer))
        for k, answer_counts in counts.items()
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share of `right` in `n` > 0 (Wilson 1927), within 0 to 1.

    Unlike the textbook interval it stays inside 0 to 1 and does not shrink to nothing at 0 or n right.

    It takes the n questions for independent draws. Questions about one image are not quite that: where a model
    fails, it tends to fail on all of them. With two or three questions an image that correlate by 0.1 the true
    interval is about 5 to 10% wider (the design effect, 1 + (questions an image - 1) x correlation, under the root).
    `significance.compare`, which says whether two models differ, draws whole images instead.
    """
    share = right / n
    spread = _Z95 * sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    middle = share + _Z95**2 / (2 * n)
    # Rounding may leave the bound beside the exact 0, 1 or share by one part in 10^16.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


_Outcome = tuple[bool, bool]
"""Whether a model's answer is right, and whether the majority answer is."""


def _find_baseline_hits(predictions: Sequence[Prediction], matching: Matching) -> list[bool]:
    """Return for each prediction whether the majority answer of its k would have been right."""
    rule = get_rule(matching)
    majority = majority_answers((prediction.k, prediction.answers) for prediction in predictions)
    return [any(rule(majority[item.k], answer) for answer in item.answers) for item in predictions]


def _score(outcomes: Sequence[_Outcome]) -> Score:
    n = len(outcomes)
    right = sum(correct for correct, _ in outcomes)
    baseline_right = sum(baseline_hit for _, baseline_hit in outcomes)
    low, high = wilson_interval(right, n)
    return Score(n, right, right / n, low, high, Share(baseline_right, baseline_right / n))
