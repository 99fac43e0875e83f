"""How open the answers are, by type of question: questions with their answers in, entropies in bits out.

A question's type is taken in two ways, because they tell two things. By its opening, the first two words, as papers on
visual question answering do (Antol et al., 2015, figure 3; Goyal et al., 2017, who report how much balancing raised the
entropy of answers, averaged over these types by frequency): what a model can know of the answer before it has seen
anything. It is there for data from any source. By its combination of capabilities: which capabilities have answers that
can be learnt by heart, the question that data made by this package raises. Two words, because one puts `how many` and
`how is` together, and with three most types of a small data set hold too few questions.

The entropy is that of the counts. With few questions of a type it comes out too low, so that it is to be compared
between types and data sets of about the same size.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log2
from typing import Final

from compact_hf.evaluation.analysis.counting import Sampled

_OPENING_WORDS: Final = 2
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Type:
    """The questions of one type that have an answer.

    Attributes:
        name (`str`): the opening, or the capabilities as `color+shape`.
        questions (`int`): how many there are.
        different (`int`): different answers among them, normalised.
        entropy (`float`): of these answers, in bits: 0 where all are the same, log2(different) where all are as common.
        most (`str`): the most frequent answer, by the alphabet where several are.
        most_share (`float`): its share, 0 to 1.
    """

    name: str
    questions: int
    different: int
    entropy: float
    most: str
    most_share: float


@dataclass(frozen=True, slots=True)
class Types:
    """Questions parted by their type.

    Attributes:
        mean_entropy (`float`): bits that are left in an answer once the type is known, averaged by frequency.
        most_share (`float`): the share, 0 to 1, of questions whose answer is the most frequent one of their type, as
            is known in hindsight: too high where most types have few questions.
        types (`tuple[Type, ...]`): the most frequent first.
    """

    mean_entropy: float
    most_share: float
    types: tuple[Type, ...]


def by_opening(questions: Iterable[Sampled]) -> Types:
    """Part questions by their first two words, in small letters."""
    return _parted(questions, lambda one: " ".join(_WORD.findall(one.question[:200].casefold())[:_OPENING_WORDS]))


def by_combination(questions: Iterable[Sampled]) -> Types:
    """Part questions by the capabilities that they need."""
    return _parted(questions, lambda one: "+".join(one.capabilities))


def entropy(counts: Iterable[int]) -> float:
    """Return the entropy in bits of what occurs so often; 0.0 for nothing."""
    there = [count for count in counts if count]
    total = sum(there)
    # Never -0.0, nor below it by rounding.
    return max(0.0, -sum(count / total * log2(count / total) for count in there))


def _parted(questions: Iterable[Sampled], type_of: Callable[[Sampled], str]) -> Types:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for one in questions:
        if one.answer:
            answers[type_of(one)][one.answer] += 1
    types = sorted((_type(name, counts) for name, counts in answers.items()), key=_order)
    total = sum(one.questions for one in types)
    mean = sum(one.questions * one.entropy for one in types) / total if total else 0.0
    most = sum(one.questions * one.most_share for one in types) / total if total else 0.0
    return Types(mean, most, tuple(types))


def _type(name: str, counts: Counter[str]) -> Type:
    most = min(counts, key=lambda answer: (-counts[answer], answer))
    total = counts.total()
    return Type(name, total, len(counts), entropy(counts.values()), most, counts[most] / total)


def _order(one: Type) -> tuple[int, str]:
    return -one.questions, one.name
