"""Counts what questions ask for while a dataset is written or validated, for the dataset card.

All figures are measured from the rows. Memory grows only with the number of different answers, which are short texts.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from compact_hf.answers import normalise
from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.methods.row_kind import Record, RowStatistics
from compact_hf.records import digest
from compact_hf.reports.ranking import Extremes, find_extremes

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

_WORD: Final = re.compile(r"\w+")
_YES_NO: Final = ("yes", "no")
# The card shows this many; `ten_share` is named after it.
_TOP_ANSWERS: Final = 10
_TOP_OPENINGS: Final = 5
_FIGURE_NAMES: Final = ("k-distribution", "coverage", "cooccurrence")


@dataclass(slots=True)
class QuestionStatistics(RowStatistics):
    """Counts over rows of questions.

    Attributes:
        combinations (`Counter[tuple[str, ...]]`): capabilities in canonical order -> number of questions that need
            them.
        answers (`Counter[tuple[int, str]]`): (k, normalised answer) -> number of questions.
        first_words (`Counter[str]`): first word, in lower case -> number of questions.
        ascii_count (`int`): number of questions that contain, with their answers, only ASCII characters.
        sources, teachers, verifiers, presets (`set[str]`): the values that occur in the rows.
    """

    title: ClassVar[str] = "COMPACT"
    tags: ClassVar[tuple[str, ...]] = ("arxiv:2504.21850", "visual-instruction-tuning", "compositional")

    combinations: Counter[tuple[str, ...]] = field(default_factory=Counter)
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    first_words: Counter[str] = field(default_factory=Counter)
    ascii_count: int = 0
    sources: set[str] = field(default_factory=set)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """See `RowStatistics.add`."""
        # Counters only, so that two statistics can be added: the files of a release are counted in parallel.
        for turn in record["turns"]:
            combination, question, answer = canonicalize(turn["capabilities"]), turn["question"], turn["answer"]
            self.combinations[combination] += 1
            self.answers[len(combination), normalise(answer)] += 1
            if word := _WORD.search(question):
                self.first_words[word[0].lower()] += 1
            self.ascii_count += question.isascii() and answer.isascii()
        # A card lists every value that occurs, usually one or two.
        for names, column in (
            (self.sources, "source"),
            (self.teachers, "teacher"),
            (self.verifiers, "verifier"),
            (self.presets, "preset_version"),
        ):
            names.add(record[column])

    def merge(self, other: QuestionStatistics) -> None:
        """See `RowStatistics.merge`."""
        self.combinations += other.combinations
        self.answers += other.answers
        self.first_words += other.first_words
        self.ascii_count += other.ascii_count
        self.sources |= other.sources
        self.teachers |= other.teachers
        self.verifiers |= other.verifiers
        self.presets |= other.presets

    @classmethod
    def card_template(cls) -> str:
        """See `RowStatistics.card_template`."""
        # A file of its own beside this module; the package data of the wheel contain it.
        return Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")

    def has_content(self) -> bool:
        """Whether there is any question; see `RowStatistics.has_content`."""
        return bool(self.combinations)

    def figure_names(self) -> tuple[str, ...]:
        """Return the names of the figures; see `RowStatistics.figure_names`.

        There are none without a question, and none about pairs if all questions have k = 1.
        """
        if not self.combinations:
            return ()
        has_pairs = any(len(combination) > 1 for combination in self.combinations)
        return _FIGURE_NAMES if has_pairs else _FIGURE_NAMES[:-1]

    def figures(self) -> dict[str, Plot]:
        """See `RowStatistics.figures`."""
        from compact_hf.reports import dataset_charts

        chart_functions = (
            dataset_charts.plot_k_distribution,
            dataset_charts.plot_coverage,
            dataset_charts.plot_cooccurrence,
        )
        by_name = dict(zip(_FIGURE_NAMES, chart_functions, strict=True))
        return {name: by_name[name](self.combinations) for name in self.figure_names()}

    def figure_digest(self) -> str:
        """See `RowStatistics.figure_digest`."""
        # Sorted, because a counter keeps the order in which keys were first counted.
        return digest(sorted(self.combinations.items()))

    @property
    def is_strict(self) -> bool:
        """Whether all rows passed the strict checks: answers confirmed, and not guessed without the image."""
        return all("+strict" in preset for preset in self.presets)

    @property
    def ks(self) -> list[int]:
        """The ks of the questions, ascending."""
        return sorted(self.questions_by_k)

    @property
    def questions_by_k(self) -> Counter[int]:
        """Number of questions by k."""
        counts: Counter[int] = Counter()
        for combination, count in self.combinations.items():
            counts[len(combination)] += count
        return counts

    @property
    def capabilities(self) -> Counter[tuple[int, str]]:
        """Number of questions by (k, capability that they need)."""
        counts: Counter[tuple[int, str]] = Counter()
        for combination, count in self.combinations.items():
            for name in combination:
                counts[len(combination), name] += count
        return counts

    @property
    def questions_by_capability(self) -> dict[str, int]:
        """Number of questions that need each of the ten capabilities, the most frequent first."""
        by_k = self.capabilities
        counts = {name: sum(by_k[k, name] for k in self.questions_by_k) for name in CAPABILITIES}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def capability_extremes(self) -> Extremes[str] | None:
        """The capabilities that most and fewest questions need; None if all are needed equally often."""
        counts = self.questions_by_capability
        return find_extremes({name: counts[name] for name in CAPABILITIES})

    @property
    def missing_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of capabilities that no question needs together."""
        # At most 45 pairs; combinations are in canonical order, like those of `CAPABILITIES`.
        present = {pair for combination in self.combinations for pair in combinations(combination, 2)}
        return tuple(pair for pair in combinations(CAPABILITIES, 2) if pair not in present)

    @property
    def openings(self) -> tuple[tuple[str, float], ...]:
        """The most frequent first words of questions, each with its share, 0 to 1."""
        total = self.first_words.total()
        return tuple((word, count / total) for word, count in _rank_counts(self.first_words)[:_TOP_OPENINGS])

    def answer_stats(self, k: int | None = None) -> AnswerStats:
        """Return how diverse the answers are.

        Args:
            k (`int`, *optional*): only questions of this k; defaults to all. There must be at least one question.
        """
        counts: Counter[str] = Counter()
        for (answer_k, answer), count in self.answers.items():
            if k in (None, answer_k):
                counts[answer] += count
        return compute_answer_stats(counts)


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """How diverse answers are, after normalisation as for comparing answers (answers.py).

    Attributes:
        questions (`int`): number of answers.
        different (`int`): number of different answers.
        yes_no (`float`): share, 0 to 1, of the answers yes and no.
        most (`str`): the most frequent answer, the first in alphabetical order in a tie.
        most_share, ten_share (`float`): its share, 0 to 1, and the share of the ten most frequent answers together.
    """

    questions: int
    different: int
    yes_no: float
    most: str
    most_share: float
    ten_share: float


def compute_answer_stats(counts: Counter[str]) -> AnswerStats:
    """Return how diverse answers are.

    Args:
        counts (`Counter[str]`): normalised answer -> number of questions; must not be empty.
    """
    total, ranked = counts.total(), _rank_counts(counts)
    return AnswerStats(
        questions=total,
        different=len(counts),
        yes_no=sum(counts[answer] for answer in _YES_NO) / total,
        most=ranked[0][0],
        most_share=ranked[0][1] / total,
        ten_share=sum(count for _, count in ranked[:_TOP_ANSWERS]) / total,
    )


def _rank_counts(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return counts in descending order; ties are in alphabetical order, independent of the order of counting."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
