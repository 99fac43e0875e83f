"""Computes text-only baselines: the accuracy of a classifier that does not see the image, and the entropy of answers.

The classifier is naive Bayes over the words of a question, its pairs of adjacent words, and the question as a whole. It
is cross-validated by image: a question is never predicted by a model that was trained on questions about the same
image. Accuracy above that of the majority answer is due to the wording. It is a lower bound, since a language model may
predict better. A linear classifier would need a library of 100 MB and is hardly better: on 10,000 questions about drawn
scenes, naive Bayes has an accuracy of 26.3% and scikit-learn's ridge classifier on words and pairs 27.3%; the most
frequent answer per first two words, chosen in hindsight, has 21.6%.

Entropies of answers are in bits, by type of question. A type is either the opening of the question, its first two words
(Antol et al., 2015, figure 3; Goyal et al., 2017), or its combination of capabilities. Low entropy means that a model
can guess answers of this type without the image. Two words are used because a single word does not distinguish
`how many` from `how is`, and with three words most types of a small dataset have too few questions. The entropy is
computed from the observed counts. It is underestimated for types with few questions, so only compare types and datasets
of about the same size.
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
    """Statistics of the questions of one type that have an answer.

    Attributes:
        name (`str`): the opening, or the capabilities as `color+shape`.
        questions (`int`): number of questions.
        different (`int`): number of distinct answers, normalised.
        entropy (`float`): entropy of the answers in bits: 0 if all are equal, log2(different) if all are equally
            frequent.
        most (`str`): the most frequent answer; of several, the alphabetically first.
        most_share (`float`): share of this answer, 0 to 1.
    """

    name: str
    questions: int
    different: int
    entropy: float
    most: str
    most_share: float


@dataclass(frozen=True, slots=True)
class TypeBreakdown:
    """Questions grouped by type.

    Attributes:
        mean_entropy (`float`): entropy of the answer given the type, in bits: the mean over types, weighted by their
            number of questions.
        most_share (`float`): share of questions, 0 to 1, whose answer is the most frequent one of their type. The
            answer is chosen in hindsight, so the share is overestimated if most types have few questions.
        types (`tuple[QuestionType, ...]`): the types, the most frequent first.
    """

    mean_entropy: float
    most_share: float
    types: tuple[QuestionType, ...]


def group_by_opening(questions: Iterable[SampledQuestion]) -> TypeBreakdown:
    """Group questions by their first two words, ignoring case."""
    # Only the beginning of the text is searched for words: a text can be very long.
    return _group_by_type(
        questions, lambda question: " ".join(_WORD.findall(question.question[:200].casefold())[:_OPENING_WORDS])
    )


def group_by_combination(questions: Iterable[SampledQuestion]) -> TypeBreakdown:
    """Group questions by the capabilities that they need."""
    return _group_by_type(questions, lambda question: "+".join(question.capabilities))


def entropy(counts: Iterable[int]) -> float:
    """Return the entropy in bits of a distribution given by counts; 0.0 if there are none."""
    nonzero = [count for count in counts if count]
    total = sum(nonzero)
    # Avoids -0.0, and negative values from rounding.
    return max(0.0, -sum(count / total * log2(count / total) for count in nonzero))


def _group_by_type(questions: Iterable[SampledQuestion], get_type: Callable[[SampledQuestion], str]) -> TypeBreakdown:
    """Count the answers of each type of question; questions without an answer are left out."""
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
# These bound the weights to 10,000 x 1,000 floats, 40 MB.
_MAX_FEATURES: Final = 10_000
_MAX_ANSWERS: Final = 1_000
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class BaselineScore:
    """Accuracy of baselines that do not see the image.

    Attributes:
        n (`int`): number of questions that have an answer.
        right (`int`): number of questions that the classifier answers correctly.
        accuracy (`float`): right / n, 0 to 1.
        low (`float`): lower end of the 95% Wilson interval of the accuracy.
        high (`float`): upper end of this interval.
        majority (`float`): accuracy of the most frequent answer of each k, chosen in hindsight.
        chance (`float`): expected accuracy of answers drawn at random with the frequencies of each k.
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
    """Scores of the text-only baselines: overall, and k -> score in ascending order of k."""

    overall: BaselineScore
    by_k: dict[int, BaselineScore]


def score_text_only(questions: Sequence[SampledQuestion]) -> TextOnlyBaseline | None:
    """Return the accuracy of a classifier without access to images; None if fewer than `FOLDS` images have answers."""
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
    # A guess drawn with the shares p is right with probability sum(p^2), so for n questions sum(count^2) / n are right.
    chance = sum(sum(count * count for count in counts.values()) / counts.total() for counts in answers.values())
    return BaselineScore(n, hits, hits / n, *wilson_interval(hits, n), majority / n, chance / n)


def _predict_answers(questions: Sequence[SampledQuestion]) -> list[str]:
    """Return the predicted answer to each question, from a classifier trained on the images of the other folds."""
    import numpy as np

    candidates = [answer for answer, _ in _sort_by_frequency(Counter(item.answer for item in questions))[:_MAX_ANSWERS]]
    index_by_answer = {answer: index for index, answer in enumerate(candidates)}
    # (questions,): index of the answer; -1 for a rare answer, which is neither learned nor predicted.
    labels = np.array([index_by_answer.get(item.answer, -1) for item in questions])
    # Folds are assigned by the rank of the image hash, so that they have about the same number of images.
    _, rank = np.unique(np.array([item.image_hash for item in questions], dtype=np.uint64), return_inverse=True)
    folds = rank % FOLDS
    features, starts = _extract_features(item.question for item in questions)
    shape = int(features.max(initial=0)) + 1, len(candidates)  # (features, answers)
    # (occurrences of features,): the question that each occurrence is in.
    question_index = np.repeat(np.arange(len(questions)), np.diff(starts))
    guesses = np.empty(len(questions), dtype=np.int64)
    # Every question is predicted once, by the classifier that was trained without the fold of its image.
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
    """Return log P(feature | answer) with add-one smoothing, `(features, answers)`, and log P(answer), `(answers,)`."""
    import numpy as np

    # A pair (feature, answer) is one number, so that all pairs are counted in one call.
    pair_counts = np.bincount(features * shape[1] + feature_answers, minlength=shape[0] * shape[1])
    smoothed_counts = pair_counts.reshape(shape).astype(np.float32) + 1
    with np.errstate(divide="ignore"):  # log(0) for an answer that only the held-out fold has: it is never predicted
        prior = np.log(np.bincount(answers, minlength=shape[1]).astype(np.float32))
    return np.log(smoothed_counts) - np.log(smoothed_counts.sum(axis=0)), prior


def _extract_features(questions: Iterable[str]) -> tuple[Any, Any]:
    """Return the feature ids of all questions in one array, and the offsets at which each question's ids begin.

    Only features of at least two questions are used, and of these the `_MAX_FEATURES` most frequent; a feature of a
    single question cannot help to predict another. A feature counts once per question.
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
    # Old id -> new id, -1 for features that are dropped.
    new_ids = np.full(len(feature_ids), -1)
    new_ids[frequent] = np.arange(len(frequent))
    all_ids = new_ids[all_ids]
    # Position in the old array -> position in the array without dropped features.
    offsets = np.concatenate([[0], np.cumsum(all_ids >= 0)])
    return all_ids[all_ids >= 0], offsets[starts]


def _iter_feature_names(question: str) -> Iterator[str]:
    words = _WORD.findall(question.casefold())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))
    # The whole question; the leading space distinguishes it from a question's word or pair.
    yield " ".join(["", *words])


def _sort_by_frequency(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
