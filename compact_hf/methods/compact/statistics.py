"""Count what rows of questions ask for, as they pass by when a dataset is written or checked, for its card.

Everything is measured, nothing is taken from a claim. What grows with the rows are the different answers, short texts.
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

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

_WORD: Final = re.compile(r"\w+")
_YES_NO: Final = ("yes", "no")
_TOP_ANSWERS: Final = 10
_TOP_OPENINGS: Final = 5
_FIGURE_NAMES: Final = ("k-distribution", "coverage", "cooccurrence")


@dataclass(slots=True)
class QuestionStatistics(RowStatistics):
    """What rows of questions ask for.

    Attributes:
        combinations (`Counter[tuple[str, ...]]`): capabilities in their order -> questions that need them.
        answers (`Counter[tuple[int, str]]`): (k, normalised answer) -> questions.
        first_words (`Counter[str]`): first word, in small letters -> questions.
        ascii_count (`int`): questions that are written, with their answers, in ASCII alone.
        sources, teachers, verifiers, presets (`set[str]`): those that the rows name.
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
        for turn in record["turns"]:
            combination, question, answer = canonicalize(turn["capabilities"]), turn["question"], turn["answer"]
            self.combinations[combination] += 1
            self.answers[len(combination), normalise(answer)] += 1
            if word := _WORD.search(question):
                self.first_words[word[0].lower()] += 1
            self.ascii_count += question.isascii() and answer.isascii()
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
        return Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")

    def has_content(self) -> bool:
        """See `RowStatistics.has_content`: not without a question."""
        return bool(self.combinations)

    def figure_names(self) -> tuple[str, ...]:
        """See `RowStatistics.figure_names`: none without a question, and no pairs where k is 1."""
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
        return digest(sorted(self.combinations.items()))

    @property
    def is_strict(self) -> bool:
        """Whether all rows went through the strict checks: answers confirmed, and not to be guessed blindly."""
        return all(preset.endswith("+strict") for preset in self.presets)

    @property
    def ks(self) -> list[int]:
        """The ks of the questions, ascending."""
        return sorted(self.questions_by_k)

    @property
    def questions_by_k(self) -> Counter[int]:
        """K -> number of questions."""
        counts: Counter[int] = Counter()
        for combination, count in self.combinations.items():
            counts[len(combination)] += count
        return counts

    @property
    def capabilities(self) -> Counter[tuple[int, str]]:
        """(k, capability) -> number of questions that need it."""
        counts: Counter[tuple[int, str]] = Counter()
        for combination, count in self.combinations.items():
            for name in combination:
                counts[len(combination), name] += count
        return counts

    @property
    def questions_by_capability(self) -> dict[str, int]:
        """Capability -> number of questions that need it, the most frequent first; all ten are there."""
        by_k = self.capabilities
        counts = {name: sum(by_k[k, name] for k in self.questions_by_k) for name in CAPABILITIES}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def missing_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of capabilities that no question needs together."""
        present = {pair for combination in self.combinations for pair in combinations(combination, 2)}
        return tuple(pair for pair in combinations(CAPABILITIES, 2) if pair not in present)

    @property
    def openings(self) -> tuple[tuple[str, float], ...]:
        """The most frequent first words of questions, each with its share, 0 to 1."""
        total = self.first_words.total()
        return tuple((word, count / total) for word, count in _rank_counts(self.first_words)[:_TOP_OPENINGS])

    def answer_stats(self, k: int | None = None) -> AnswerStats:
        """Return how varied the answers to the questions of one k are, or to all; there must be some."""
        counts: Counter[str] = Counter()
        for (answer_k, answer), count in self.answers.items():
            if k in (None, answer_k):
                counts[answer] += count
        return compute_answer_stats(counts)


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """How varied answers are, all of which were normalised as they are compared (answers.py).

    Attributes:
        questions (`int`): how many answers there are.
        different (`int`): how many different ones.
        yes_no (`float`): the share, 0 to 1, that is yes or no.
        most (`str`): the most frequent answer, by the alphabet where several are.
        most_share, ten_share (`float`): its share, 0 to 1, and that of the ten most frequent ones together.
    """

    questions: int
    different: int
    yes_no: float
    most: str
    most_share: float
    ten_share: float


def compute_answer_stats(counts: Counter[str]) -> AnswerStats:
    """Return how varied answers are.

    Args:
        counts: normalised answer -> how many questions have it; there must be some.
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
    """Return the counts, the highest first; what occurs as often by the alphabet, whatever was counted first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
