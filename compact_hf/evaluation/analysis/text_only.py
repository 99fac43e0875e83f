"""Text-only baselines: how far a question's words alone lead to its answer, and how open the answers are.

The classifier is naive Bayes over the words of a question, its pairs of neighbouring words, and the question as a
whole; cross-validated by image, so that no question is guessed by one that was learnt from about the same image. What
it gets right beyond the majority answer, the wording gives away. That is a lower bound: a language model may guess
better. It is not a linear classifier, which would bring a library of 100 MB: of 10,000 questions about drawn scenes
this one guesses 26.3%, scikit-learn's ridge classifier of words and pairs 27.3%, and the most frequent answer to a
question's first two words, known in hindsight, 21.6%.

Answer entropies are in bits, by type of question. A type is a question's opening, its first two words (Antol et al.,
2015, figure 3; Goyal et al., 2017): what a model can know of the answer before it has seen anything. Or it is its
combination of capabilities: which capabilities have answers that can be learnt by heart. Two words, because one puts
`how many` and `how is` together, and with three most types of a small dataset hold too few questions. The entropy is
that of the counts. With few questions of a type it comes out too low, so compare it between types and datasets of about
the same size.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2
from typing import Any, Final

from compact_hf.evaluation.analysis.counting import Sampled
from compact_hf.evaluation.scoring import wilson

_OPENING_WORDS: Final = 2


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


FOLDS: Final = 5
_MAX_FEATURES: Final = 10_000
_MAX_ANSWERS: Final = 1_000
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Guessed:
    """How many of some questions are answered without a picture.

    Attributes:
        n, right (`int`): questions that have an answer, and those that the classifier guessed.
        accuracy (`float`): right / n, 0 to 1.
        low, high (`float`): its 95% Wilson interval.
        majority (`float`): the share that the most frequent answer of each k gets right, known in hindsight.
        chance (`float`): the share that is right where answers are drawn as often as they occur for each k.
    """

    n: int
    right: int
    accuracy: float
    low: float
    high: float
    majority: float
    chance: float


@dataclass(frozen=True, slots=True)
class Blind:
    """What the words alone answer, in all and by k, in ascending order."""

    overall: Guessed
    by_k: dict[int, Guessed]


def blind(questions: Sequence[Sampled]) -> Blind | None:
    """Return how far a classifier gets that sees no picture; None where fewer than `FOLDS` pictures have answers."""
    answered = [one for one in questions if one.answer]
    if len({one.picture for one in answered}) < FOLDS:
        return None
    right: dict[int, list[bool]] = defaultdict(list)
    answers: dict[int, Counter[str]] = defaultdict(Counter)
    for one, guess in zip(answered, _guesses(answered), strict=True):
        right[len(one.capabilities)].append(guess == one.answer)
        answers[len(one.capabilities)][one.answer] += 1
    return Blind(_guessed(right, answers), {k: _guessed({k: right[k]}, {k: answers[k]}) for k in sorted(right)})


def _guessed(right: dict[int, list[bool]], answers: dict[int, Counter[str]]) -> Guessed:
    n, hits = sum(map(len, right.values())), sum(map(sum, right.values()))
    majority = sum(max(counts.values()) for counts in answers.values())
    chance = sum(sum(count * count for count in counts.values()) / counts.total() for counts in answers.values())
    return Guessed(n, hits, hits / n, *wilson(hits, n), majority / n, chance / n)


def _guesses(questions: Sequence[Sampled]) -> list[str]:
    """Return a guess for each question, learnt from the other folds' pictures."""
    import numpy as np

    names = [answer for answer, _ in _ranked(Counter(one.answer for one in questions))[:_MAX_ANSWERS]]
    places = {answer: place for place, answer in enumerate(names)}
    known = np.array([places.get(one.answer, -1) for one in questions])
    # By rank: five parts of the same size.
    _, rank = np.unique(np.array([one.picture for one in questions], dtype=np.uint64), return_inverse=True)
    fold = rank % FOLDS
    features, starts = _features(one.question for one in questions)
    count = int(features.max(initial=0)) + 1, len(names)
    owner = np.repeat(np.arange(len(questions)), np.diff(starts))
    guesses = np.empty(len(questions), dtype=np.int64)
    for held in range(FOLDS):
        learnt = (fold != held) & (known >= 0)
        seen = learnt[owner]
        weights, prior = _learnt(features[seen], known[owner[seen]], known[learnt], count)
        for one in np.flatnonzero(fold == held):
            words = features[starts[one] : starts[one + 1]]
            guesses[one] = (weights[words].sum(axis=0) + prior).argmax()
    return [names[guess] for guess in guesses]


def _learnt(features: Any, with_answer: Any, answers: Any, count: tuple[int, int]) -> tuple[Any, Any]:
    """Return log P(feature | answer), smoothed by one (`float32 (features, answers)`), and log P(answer)."""
    import numpy as np

    cells = np.bincount(features * count[1] + with_answer, minlength=count[0] * count[1])
    times = cells.reshape(count).astype(np.float32) + 1
    with np.errstate(divide="ignore"):  # an answer that only the held fold has is never guessed
        prior = np.log(np.bincount(answers, minlength=count[1]).astype(np.float32))
    return np.log(times) - np.log(times.sum(axis=0)), prior


def _features(questions: Iterable[str]) -> tuple[Any, Any]:
    """Return the numbers of all questions' features one after the other, and where each question's begin.

    Those that several questions have, and of them the `_MAX_FEATURES` most frequent, have a number; each counts once a
    question. What only one has can be no other's sign.
    """
    import numpy as np

    numbers: dict[str, int] = {}
    found, lengths = array("q"), array("q", [0])
    for question in questions:
        of_question = {numbers.setdefault(name, len(numbers)) for name in _named(question)}
        found.extend(sorted(of_question))
        lengths.append(len(of_question))
    every, starts = np.frombuffer(found, dtype=np.int64), np.cumsum(np.frombuffer(lengths, dtype=np.int64))
    times = np.bincount(every, minlength=len(numbers))
    frequent = np.argsort(-times, kind="stable")[: min(_MAX_FEATURES, int((times > 1).sum()))]
    number = np.full(len(numbers), -1)
    number[frequent] = np.arange(len(frequent))
    every = number[every]
    kept = np.concatenate([[0], np.cumsum(every >= 0)])
    return every[every >= 0], kept[starts]


def _named(question: str) -> Iterator[str]:
    words = _WORD.findall(question.casefold())
    yield from words
    yield from (f"{one} {other}" for one, other in pairwise(words))
    yield " ".join(["", *words])


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
