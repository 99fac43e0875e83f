"""Computes scores from predictions: a headline score with its interval, and scores of parts of the questions. No I/O.

`results.json` of one model is `Results.to_json()`. For every task it begins with

    {"schema": 3,
     "task": "compact", "task_version": "1",
     "model": "student", "dataset": "release (compositional, validation)",
     "matching": "exact",     the rule that decides whether an answer is right
     "matching_version": "2",      version of this rule; results without it are of version 1
     "headline": {"metric": "accuracy", "n": 120, "value": 0.45, "low": 0.364, "high": 0.539},     with its 95% interval

If answers are right or wrong (`AccuracyResults`), these follow:

     "overall": SCORE, "by_type": {"counting": SCORE, ...}, ...}     one `by_...` per grouping of the questions

    SCORE = {"n": 120,            number of questions
             "right": 54,         number of right answers
             "accuracy": 0.45,    right / n, 0 to 1
             "low": 0.364, "high": 0.539,                95% Wilson interval of the accuracy
             "majority": {"right": 40, "accuracy": 0.333}}   score of the majority answer on the same questions

Parts without questions are omitted. Schema 2, written by version 0.1.0, has no `task`, `task_version` and `headline`;
it was only written for the task `compact`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Final

from compact_hf.answers import ANSWER_RULES_VERSION, normalise, same_answer
from compact_hf.errors import EvaluationError
from compact_hf.evaluation.questions import Prediction
from compact_hf.records import FIRST_RULE_VERSION, RESULTS_SCHEMA
from compact_hf.reports.page_parts import Fact
from compact_hf.reports.score_charts import Interval, ScoreRow, compare_with_majority
from compact_hf.reports.table import Table


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that decides whether an answer is right.

    Attributes:
        matches (`Callable[[str, str], bool]`): (prediction, right answer) -> whether they match.
        text (`str`): a sentence that describes the rule on the page.
        version (`str`, *optional*, defaults to `"1"`): must be raised when the same answers would be marked otherwise.
            Answers that were marked by different versions are not compared.
    """

    matches: Callable[[str, str], bool]
    text: str
    version: str = FIRST_RULE_VERSION

    def is_right(self, prediction: str, answers: Sequence[str]) -> bool:
        """Return whether a model's answer matches any of the right answers. None of them has to be normalised."""
        return any(self.matches(prediction, answer) for answer in answers)


TOLERANCE: Final = 0.05
"""Relative error up to which `relaxed` accepts a number (ChartQA's relaxed accuracy, Masry et al. 2022)."""

# A whole answer, normalised, such as `3`, `-1.5`, `0.5` or `5%`.
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d+)?%?")


def is_relaxed_match(prediction: str, answer: str) -> bool:
    """Return whether two answers are the same, or the prediction is a number within 5% of the right number.

    A percentage is converted (`5%` is 0.05), numbers in words are numbers, and only zero is within 5% of zero.
    Years are treated as numbers too, as in the scores that ChartQA reports.
    """
    if same_answer(prediction, answer):
        return True
    predicted, expected = _parse_number(prediction), _parse_number(answer)
    return predicted is not None and expected is not None and abs(predicted - expected) <= TOLERANCE * abs(expected)


def _parse_number(answer: str) -> float | None:
    text = normalise(answer)
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    # More than about 300 digits become infinity.
    return number if isfinite(number) else None


_EXACT_TEXT: Final = (
    "An answer counts as right if it equals one of the right answers, ignoring case, articles, punctuation, hyphens, "
    "plurals and whether a number is written as a word"
)
SHORT_ANSWER_RULES: Final[Mapping[str, Rule]] = {
    "exact": Rule(same_answer, f"{_EXACT_TEXT}.", ANSWER_RULES_VERSION),
    "relaxed": Rule(
        is_relaxed_match,
        f"{_EXACT_TEXT}; or if it is a number within {TOLERANCE:.0%} of a right one.",
        ANSWER_RULES_VERSION,
    ),
}
"""Name -> rule, for any task with short answers."""

_Z95: Final = 1.959963984540054  # the 97.5th percentile of the standard normal distribution


@dataclass(frozen=True, slots=True)
class Share:
    """A number of right answers, and their share of all questions, 0 to 1.

    Attributes:
        right (`int`): number of right answers.
        accuracy (`float`): their share, 0 to 1.
    """

    right: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracy on some questions.

    Attributes:
        n (`int`): number of questions.
        right (`int`): number of right answers.
        accuracy (`float`): right / n, 0 to 1.
        low (`float`): lower end of the 95% Wilson interval of the accuracy.
        high (`float`): upper end of the interval.
        majority (`Share`): score of the majority answer on the same questions.
    """

    n: int
    right: int
    accuracy: float
    low: float
    high: float
    majority: Share


@dataclass(frozen=True, slots=True)
class Headline:
    """The single number that summarizes how well a model does on a task.

    Attributes:
        metric (`str`): name of the metric, such as `accuracy` or `F1`.
        n (`int`): number of questions.
        value (`float`): value of the metric; 1 is 100%.
        low (`float`): lower end of the 95% interval.
        high (`float`): upper end of the 95% interval.
    """

    metric: str
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results(ABC):
    """The scores of one model on one dataset. A task whose score is not an accuracy derives its own class.

    Attributes:
        task (`str`): name of the task.
        task_version (`str`): version of the task.
        model (`str`): display name of the model.
        dataset (`str`): display name of the dataset.
        matching (`str`): name of the rule that compared the answers; empty if the task has no rules.
        matching_version (`str`, *optional*, defaults to empty): version of this rule; empty if the task has no rules.
    """

    task: str
    task_version: str
    model: str
    dataset: str
    matching: str
    matching_version: str = ""

    @property
    @abstractmethod
    def headline(self) -> Headline:
        """The headline score."""

    @abstractmethod
    def table(self) -> Table:
        """Return all scores as a table for the terminal."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Return the values of results.json that follow the headline, as JSON values."""

    def remark(self) -> str:
        """Return the remark that the page shows after the interval of the headline; empty for none."""
        return ""

    def baselines(self) -> tuple[Fact, ...]:
        """Return the baselines that the page shows next to the headlines of the models."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return the contents of results.json."""
        return {
            "schema": RESULTS_SCHEMA,
            "task": self.task,
            "task_version": self.task_version,
            "model": self.model,
            "dataset": self.dataset,
            "matching": self.matching,
            "matching_version": self.matching_version,
            "headline": asdict(self.headline),
            **self.details(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResults(Results):
    """The share of right answers, on all questions and on parts of them.

    Attributes:
        overall (`Score`): score on all questions.
        parts (`dict[str, dict[str, Score]]`): grouping -> part -> score on its questions.
    """

    overall: Score
    parts: dict[str, dict[str, Score]]

    @property
    def headline(self) -> Headline:
        """The accuracy on all questions."""
        score = self.overall
        return Headline("accuracy", score.n, score.accuracy, score.low, score.high)

    def rows(self) -> Iterator[tuple[str, Score]]:
        """Yield (label, score) for all questions and for each part."""
        yield "all", self.overall
        for scores in self.parts.values():
            yield from scores.items()

    def table(self) -> Table:
        """Return a table with n, the accuracy, its interval and the accuracy of the majority answer in each row."""
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
        """Return `overall`, and a `by_...` for each grouping."""
        by_part = {
            f"by_{grouping}": {label: asdict(score) for label, score in scores.items()}
            for grouping, scores in self.parts.items()
        }
        return {"overall": asdict(self.overall), **by_part}

    def remark(self) -> str:
        """Return how the accuracy compares with that of the majority answer."""
        score = self.overall
        interval = Interval(score.accuracy, score.low, score.high)
        return f"{compare_with_majority(interval, score.majority.accuracy)} the majority answer"

    def baselines(self) -> tuple[Fact, ...]:
        """Return the accuracy of the majority answer."""
        note = "always giving the most frequent right answer, chosen in hindsight"
        return (Fact("majority answer", f"{self.overall.majority.accuracy:.1%}", note),)


def score_answers(
    predictions: Sequence[Prediction],
    rule: Rule,
    *,
    get_stratum: Callable[[Any], Hashable],
    get_parts: Callable[[Any], Iterable[tuple[str, str]]],
) -> tuple[Score, dict[str, dict[str, Score]]]:
    """Return the score of all `predictions` and of each part of them. Their order does not matter.

    The baseline is the majority answer: for each stratum, the most frequent right answer of these same questions. It is
    chosen in hindsight, so under exact matching no other constant answer per stratum scores higher. A model that has
    only learned which answers are common can reach this baseline but hardly exceed it.

    Args:
        predictions (`Sequence[Prediction]`): predictions that are marked as right or wrong.
        rule (`Rule`): the rule that marked them; it is also applied to the baseline.
        get_stratum (`Callable[[Any], Hashable]`): prediction -> stratum whose majority answer is its baseline.
        get_parts (`Callable[[Any], Iterable[tuple[str, str]]]`): prediction -> (grouping, part) for each part that it
            is counted in.

    Returns:
        `tuple[Score, dict[str, dict[str, Score]]]`: the overall score, and grouping -> part -> score, both sorted by
        name.

    Raises:
        EvaluationError: there are no predictions.
    """
    if not predictions:
        raise EvaluationError("no question was answered; there is nothing to score")
    # Stratum -> majority answer, from all questions; the scores of parts use the same answers.
    majority = majority_answers((get_stratum(prediction), prediction.answers) for prediction in predictions)
    overall: list[_Outcome] = []
    # Grouping -> part -> outcomes. A question can be in several parts of a grouping, such as its capabilities.
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
    """Return one row of a plot: the scores of all models on the same questions."""
    intervals = tuple(Interval(score.accuracy, score.low, score.high) for score in scores)
    return ScoreRow(label, scores[0].n, scores[0].majority.accuracy, intervals)


def majority_answers(reference: Iterable[tuple[Hashable, Sequence[str]]]) -> dict[Hashable, str]:
    """Return stratum -> most frequent answer, normalised, from (stratum, right answers) pairs.

    Of equally frequent answers the alphabetically first one is returned.
    """
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for stratum, answers in reference:
        # A set: two right answers that are equal after normalising count once per question.
        counts[stratum].update({normalise(answer) for answer in answers})
    return {
        stratum: min(answer_counts, key=lambda answer: (-answer_counts[answer], answer))
        for stratum, answer_counts in counts.items()
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of the share `right` / `n`, with n > 0 (Wilson 1927).

    Unlike the normal approximation, it stays within 0 to 1 and has a positive width at 0 or n right answers.

    It assumes that the n questions are independent. Questions about one image are not quite independent, because a
    model that misreads an image tends to fail on all of its questions. With two or three questions per image and a
    correlation of 0.1, the true interval is about 5 to 10% wider: by the square root of the design effect,
    1 + (questions per image - 1) x correlation. `significance.compare` resamples whole images instead.
    """
    share = right / n
    # Half width and center of the interval, both multiplied by `scale`.
    spread = _Z95 * sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    middle = share + _Z95**2 / (2 * n)
    # Because of rounding, a bound may miss the exact 0, 1 or share by one part in 10^16.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


_Outcome = tuple[bool, bool]
"""Whether the model's answer is right, and whether the majority answer is right."""


def _score(outcomes: Sequence[_Outcome]) -> Score:
    """Return the score of some outcomes, of which there must be at least one."""
    n = len(outcomes)
    right = sum(correct for correct, _ in outcomes)
    baseline_right = sum(baseline_hit for _, baseline_hit in outcomes)
    low, high = wilson_interval(right, n)
    return Score(n, right, right / n, low, high, Share(baseline_right, baseline_right / n))
