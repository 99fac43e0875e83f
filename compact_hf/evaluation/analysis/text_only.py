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

from compact_hf.evaluation.analysis.counting import SampledQuestion
from compact_hf.evaluation.scoring import wilson_interval

_OPENING_WORDS: Final = 2


@dataclass(frozen=True, slots=True)
class QuestionType:
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
class TypeBreakdown:
    """Questions parted by their type.

    Attributes:
        mean_entropy (`float`): bits that are left in an answer once the type is known, averaged by frequency.
        most_share (`float`): the share, 0 to 1, of questions whose answer is the most frequent one of their type, as
            is known in hindsight: too high where most types have few questions.
        types (`tuple[QuestionType, ...]`): the most frequent first.
    """

    mean_entropy: float
    most_share: float
    types: tuple[QuestionType, ...]


def group_by_opening(questions: Iterable[SampledQuestion]) -> TypeBreakdown:
    """Part questions by their first two words, in small letters."""
    return _group_by_type(
        questions, lambda question: " ".join(_WORD.findall(question.question[:200].casefold())[:_OPENING_WORDS])
    )


def group_by_combination(questions: Iterable[SampledQuestion]) -> TypeBreakdown:
    """Part questions by the capabilities that they need."""
    return _group_by_type(questions, lambda question: "+".join(question.capabilities))


def entropy(counts: Iterable[int]) -> float:
    """Return the entropy in bits of what occurs so often; 0.0 for nothing."""
    nonzero = [count for count in counts if count]
    total = sum(nonzero)
    # Never -0.0, nor below it by rounding.
    return max(0.0, -sum(count / total * log2(count / total) for count in nonzero))


def _group_by_type(questions: Iterable[SampledQuestion], get_type: Callable[[SampledQuestion], str]) -> TypeBreakdown:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for item in questions:
        if item.answer:
            answers[get_type(item)][item.answer] += 1
    types = sorted((_build_type(name, counts) for name, counts in answers.items()), key=_sort_key)
    total = sum(item.questions for item in types)
    mean_entropy = sum(item.questions * item.entropy for item in types) / total if total else 0.0
    most_share = sum(item.questions * item.most_share for item in types) / total if total else 0.0
    return TypeBreakdown(mean_entropy, most_share, tuple(types))


def _build_type(name: str, counts: Counter[str]) -> QuestionType:
    top_answer = min(counts, key=lambda answer: (-counts[answer], answer))
    total = counts.total()
    return QuestionType(name, total, len(counts), entropy(counts.values()), top_answer, counts[top_answer] / total)


def _sort_key(question_type: QuestionType) -> tuple[int, str]:
    return -question_type.questions, question_type.name


FOLDS: Final = 5
_MAX_FEATURES: Final = 10_000
_MAX_ANSWERS: Final = 1_000
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class BaselineScore:
    """How many of some questions are answered without an image.

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
class TextOnlyBaseline:
    """What the words alone answer, in all and by k, in ascending order."""

    overall: BaselineScore
    by_k: dict[int, BaselineScore]


def score_text_only(questions: Sequence[SampledQuestion]) -> TextOnlyBaseline | None:
    """Return how far a classifier gets that sees no image; None where fewer than `FOLDS` images have answers."""
    with_answers = [question for question in questions if question.answer]
    if len({question.image_hash for question in with_answers}) < FOLDS:
        return None
    correct: dict[int, list[bool]] = defaultdict(list)
    answers: dict[int, Counter[str]] = defaultdict(Counter)
    for question, guess in zip(with_answers, _predict_answers(with_answers), strict=True):
        correct[len(question.capabilities)].append(guess == question.answer)
        answers[len(question.capabilities)][question.answer] += 1
    return TextOnlyBaseline(
        _build_score(correct, answers), {k: _build_score({k: correct[k]}, {k: answers[k]}) for k in sorted(correct)}
    )


def _build_score(correct: dict[int, list[bool]], answers: dict[int, Counter[str]]) -> BaselineScore:
    n, hits = sum(map(len, correct.values())), sum(map(sum, correct.values()))
    majority = sum(max(counts.values()) for counts in answers.values())
    chance = sum(sum(count * count for count in counts.values()) / counts.total() for counts in answers.values())
    return BaselineScore(n, hits, hits / n, *wilson_interval(hits, n), majority / n, chance / n)


def _predict_answers(questions: Sequence[SampledQuestion]) -> list[str]:
    """Return a guess for each question, learnt from the other folds' images."""
    import numpy as np

    candidates = [answer for answer, _ in _sort_by_frequency(Counter(item.answer for item in questions))[:_MAX_ANSWERS]]
    index_by_answer = {answer: index for index, answer in enumerate(candidates)}
    labels = np.array([index_by_answer.get(item.answer, -1) for item in questions])
    # By rank: five parts of the same size.
    _, rank = np.unique(np.array([item.image_hash for item in questions], dtype=np.uint64), return_inverse=True)
    folds = rank % FOLDS
    features, starts = _extract_features(item.question for item in questions)
    shape = int(features.max(initial=0)) + 1, len(candidates)
    question_index = np.repeat(np.arange(len(questions)), np.diff(starts))
    guesses = np.empty(len(questions), dtype=np.int64)
    for test_fold in range(FOLDS):
        train_mask = (folds != test_fold) & (labels >= 0)
        feature_mask = train_mask[question_index]
        weights, prior = _fit_naive_bayes(
            features[feature_mask], labels[question_index[feature_mask]], labels[train_mask], shape
        )
        for item in np.flatnonzero(folds == test_fold):
            question_features = features[starts[item] : starts[item + 1]]
            guesses[item] = (weights[question_features].sum(axis=0) + prior).argmax()
    return [candidates[guess] for guess in guesses]


def _fit_naive_bayes(features: Any, feature_answers: Any, answers: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Return log P(feature | answer), smoothed by one (`float32 (features, answers)`), and log P(answer)."""
    import numpy as np

    pair_counts = np.bincount(features * shape[1] + feature_answers, minlength=shape[0] * shape[1])
    smoothed_counts = pair_counts.reshape(shape).astype(np.float32) + 1
    with np.errstate(divide="ignore"):  # an answer that only the held fold has is never guessed
        prior = np.log(np.bincount(answers, minlength=shape[1]).astype(np.float32))
    return np.log(smoothed_counts) - np.log(smoothed_counts.sum(axis=0)), prior


def _extract_features(questions: Iterable[str]) -> tuple[Any, Any]:
    """Return the numbers of all questions' features one after the other, and where each question's begin.

    Those that several questions have, and of them the `_MAX_FEATURES` most frequent, have a number; each counts once a
    question. What only one has can be no other's sign.
    """
    import numpy as np

    feature_ids: dict[str, int] = {}
    flat_ids, lengths = array("q"), array("q", [0])
    for question in questions:
        question_ids = {feature_ids.setdefault(name, len(feature_ids)) for name in _iter_feature_names(question)}
        flat_ids.extend(sorted(question_ids))
        lengths.append(len(question_ids))
    all_ids, starts = np.frombuffer(flat_ids, dtype=np.int64), np.cumsum(np.frombuffer(lengths, dtype=np.int64))
    frequencies = np.bincount(all_ids, minlength=len(feature_ids))
    frequent = np.argsort(-frequencies, kind="stable")[: min(_MAX_FEATURES, int((frequencies > 1).sum()))]
    new_ids = np.full(len(feature_ids), -1)
    new_ids[frequent] = np.arange(len(frequent))
    all_ids = new_ids[all_ids]
    offsets = np.concatenate([[0], np.cumsum(all_ids >= 0)])
    return all_ids[all_ids >= 0], offsets[starts]


def _iter_feature_names(question: str) -> Iterator[str]:
    words = _WORD.findall(question.casefold())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))
    yield " ".join(["", *words])


def _sort_by_frequency(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
