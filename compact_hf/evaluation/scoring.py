"""Scoring: predictions in, a headline score with its interval out, and scores of parts of the questions. Pure.

`results.json` of one model is `Results.to_json()`. Every task's begins with

    {"schema": 3,
     "task": "compact", "task_version": "1",
     "model": "student", "dataset": "release (compositional, validation)",
     "matching": "exact",     the rule by which an answer counts as right
     "headline": {"metric": "accuracy", "n": 120, "value": 0.45, "low": 0.364, "high": 0.539},     with its 95% interval

and where answers are right or wrong (`AccuracyResults`) goes on with

     "overall": SCORE, "by_type": {"counting": SCORE, ...}, ...}     one `by_...` for each way to part the questions

    SCORE = {"n": 120,            questions
             "right": 54,         answered rightly
             "accuracy": 0.45,    right / n, 0 to 1
             "low": 0.364, "high": 0.539,                the 95% Wilson interval of accuracy
             "majority": {"right": 40, "accuracy": 0.333}}   the same questions answered by the majority answer

Labels stand only where n > 0. Schema 2, which version 0.1.0 wrote, lacks `task`, `task_version` and `headline`: all of
it is of the task `compact`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Final

from compact_hf.answers import normalise, same_answer
from compact_hf.errors import EvaluationError
from compact_hf.evaluation.questions import Prediction
from compact_hf.records import RESULTS_SCHEMA
from compact_hf.reports.demo_page import Fact
from compact_hf.reports.score_charts import Interval, ScoreRow, compare_with_majority
from compact_hf.reports.table import Table


@dataclass(frozen=True, slots=True)
class Rule:
    """When an answer counts as right.

    Attributes:
        matches (`Callable[[str, str], bool]`): (prediction, right answer) -> whether it matches that one.
        text (`str`): a sentence that says so, for the page.
    """

    matches: Callable[[str, str], bool]
    text: str

    def is_right(self, prediction: str, answers: Sequence[str]) -> bool:
        """Return whether a model's answer matches any of the right ones, each as it stands."""
        return any(self.matches(prediction, answer) for answer in answers)


TOLERANCE: Final = 0.05
"""How far from the right number, as a share of it, `relaxed` still takes a number (Masry et al. 2022)."""

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)%?")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


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


_EXACT_TEXT: Final = (
    "An answer counts as right where it is the same as a right one, once case, articles, punctuation, number words and "
    "plurals are evened out"
)
SHORT_ANSWER_RULES: Final[Mapping[str, Rule]] = {
    "exact": Rule(same_answer, f"{_EXACT_TEXT}."),
    "relaxed": Rule(is_relaxed_match, f"{_EXACT_TEXT}; or where it is a number within {TOLERANCE:.0%} of a right one."),
}
"""Name -> rule, of any task with short answers."""

_Z95: Final = 1.959963984540054


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
class Headline:
    """The one number by which a task judges a model.

    Attributes:
        metric (`str`): its name, such as `accuracy` or `F1`.
        n (`int`): questions.
        value (`float`): 1 is 100%.
        low, high (`float`): its 95% interval.
    """

    metric: str
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(ABC):
    """The scores of one model on one dataset; a task that does not count right answers has a class of its own.

    Attributes:
        task, task_version (`str`): by what they were judged.
        model, dataset (`str`): what they are called.
        matching (`str`): the rule by which answers were compared; empty where the task has none.
    """

    task: str
    task_version: str
    model: str
    dataset: str
    matching: str

    @property
    @abstractmethod
    def headline(self) -> Headline:
        """The one number by which the model is judged."""

    @abstractmethod
    def table(self) -> Table:
        """Return all numbers as a table for a terminal."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Return what results.json has beside the headline, as JSON values."""

    def remark(self) -> str:
        """Return what the page says beside the headline's interval."""
        return ""

    def baselines(self) -> tuple[Fact, ...]:
        """Return what the page shows beside the models' headlines."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return the results as `results.json` has them."""
        return {
            "schema": RESULTS_SCHEMA,
            "task": self.task,
            "task_version": self.task_version,
            "model": self.model,
            "dataset": self.dataset,
            "matching": self.matching,
            "headline": asdict(self.headline),
            **self.details(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResults(Results):
    """The share of right answers.

    Attributes:
        overall (`Score`): of all questions.
        parts (`dict[str, dict[str, Score]]`): grouping -> part -> the score of its questions.
    """

    overall: Score
    parts: dict[str, dict[str, Score]]

    @property
    def headline(self) -> Headline:
        """The accuracy of all questions."""
        score = self.overall
        return Headline("accuracy", score.n, score.accuracy, score.low, score.high)

    def rows(self) -> Iterator[tuple[str, Score]]:
        """Yield (label, score) for all questions and for each part."""
        yield "all", self.overall
        for scores in self.parts.values():
            yield from scores.items()

    def table(self) -> Table:
        """Return the rows with n, accuracy, its interval and the majority answer's accuracy."""
        return Table(
            ("questions", "n", "accuracy", "95% interval", "majority answer"),
            [
                (
                    label,
                    score.n,
                    f"{score.accuracy:.3f}",
                    f"{score.low:.3f} to {score.high:.3f}",
                    f"{score.majority.accuracy:.3f}",
                )
                for label, score in self.rows()
            ],
        )

    def details(self) -> dict[str, Any]:
        """Return `overall` and one `by_...` for each grouping."""
        by_part = {
            f"by_{grouping}": {label: asdict(score) for label, score in scores.items()}
            for grouping, scores in self.parts.items()
        }
        return {"overall": asdict(self.overall), **by_part}

    def remark(self) -> str:
        """Return how the accuracy stands to the majority answer's."""
        score = self.overall
        interval = Interval(score.accuracy, score.low, score.high)
        return compare_with_majority(interval, score.majority.accuracy).replace("it", "the majority answer")

    def baselines(self) -> tuple[Fact, ...]:
        """Return the majority answer's accuracy."""
        note = "the most frequent right answer, known in hindsight"
        return (Fact("majority answer", f"{self.overall.majority.accuracy:.1%}", note),)


def score_answers(
    predictions: Sequence[Prediction],
    rule: Rule,
    *,
    get_stratum: Callable[[Any], Hashable],
    get_parts: Callable[[Any], Iterable[tuple[str, str]]],
) -> tuple[Score, dict[str, dict[str, Score]]]:
    """Return the score of all `predictions` and of each part of them, whatever their order.

    The baseline gives, for each stratum, the answer that is most frequent among these very predictions' right answers:
    in hindsight, so that by exact matching no constant answer per stratum does better. A model that has only learnt
    which answers are common can reach it, hardly pass it.

    Args:
        predictions (`Sequence[Prediction]`): judged already.
        rule (`Rule`): by which they were judged; the baseline is judged by it too.
        get_stratum: prediction -> the stratum whose majority answer is its baseline.
        get_parts: prediction -> (grouping, part) of each part that it is counted under.

    Returns:
        The score of all, and grouping -> part -> score, both sorted by name.

    Raises:
        EvaluationError: there are no predictions.
    """
    if not predictions:
        raise EvaluationError("no question was answered; there is nothing to score")
    majority = majority_answers((get_stratum(prediction), prediction.answers) for prediction in predictions)
    overall: list[_Outcome] = []
    groups: dict[str, dict[str, list[_Outcome]]] = defaultdict(lambda: defaultdict(list))
    for prediction in predictions:
        outcome = prediction.right, rule.is_right(majority[get_stratum(prediction)], prediction.answers)
        overall.append(outcome)
        for grouping, part in get_parts(prediction):
            groups[grouping][part].append(outcome)
    return _score(overall), {
        grouping: {part: _score(parts[part]) for part in sorted(parts)} for grouping, parts in sorted(groups.items())
    }


def build_score_row(label: str, *scores: Score) -> ScoreRow:
    """Return one line of a plot from each model's score of the same questions."""
    intervals = tuple(Interval(score.accuracy, score.low, score.high) for score in scores)
    return ScoreRow(label, scores[0].n, scores[0].majority.accuracy, intervals)


def majority_answers(reference: Iterable[tuple[Hashable, Sequence[str]]]) -> dict[Hashable, str]:
    """Return each stratum's most frequent answer, normalised, among the (stratum, right answers) pairs.

    Ties go by the alphabet.
    """
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for stratum, answers in reference:
        counts[stratum].update({normalise(answer) for answer in answers})
    return {
        stratum: min(answer_counts, key=lambda answer: (-answer_counts[answer], answer))
        for stratum, answer_counts in counts.items()
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


def _score(outcomes: Sequence[_Outcome]) -> Score:
    n = len(outcomes)
    right = sum(correct for correct, _ in outcomes)
    baseline_right = sum(baseline_hit for _, baseline_hit in outcomes)
    low, high = wilson_interval(right, n)
    return Score(n, right, right / n, low, high, Share(baseline_right, baseline_right / n))
