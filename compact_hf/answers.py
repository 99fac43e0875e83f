"""Normalises and compares short answers, and measures the word overlap of questions.

The normalisation follows the VQA evaluation (Antol et al. 2015): it ignores case, articles and punctuation, and writes
number words as digits. In addition it maps plurals to singulars, because "two cats" and "two cat" mean the same.
"""

from __future__ import annotations

import re
from typing import Final

SHORT_ANSWER_INSTRUCTION: Final = "Answer the question using a single word or phrase."
"""LLaVA-1.5's response format prompt, added to the first turn of a conversation and to questions in evaluation."""

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBER_WORDS: Final = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
}
# "none" is not mapped to "0": it is rejected as uninformative, so a teacher that means zero has to write zero.
_UNINFORMATIVE_ANSWERS: Final = frozenset(
    "unknown none nothing unclear unsure uncertain unanswerable undetermined na nil null unidentifiable "
    "unreadable illegible".split()
) | {
    "not visible",
    "not applicable",
    "not available",
    "not sure",
    "not clear",
    "not known",
    "not present",
    "not shown",
    "not specified",
    "not given",
    "not in image",
    "not in picture",
    "cannot tell",
    "cannot be determined",
    "cannot determine",
    "cannot say",
    "cant tell",
    "cant say",
    "cant determine",
    "can not tell",
    "do not know",
    "dont know",
    "i do not know",
    "i dont know",
    "no idea",
    "no answer",
    "no text",
    "impossible to tell",
    "hard to tell",
    "it is unclear",
    "n a",
}
_IRREGULAR_PLURALS: Final = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "persons": "person",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "wolves": "wolf",
    "shelves": "shelf",
    "loaves": "loaf",
    "scarves": "scarf",
}
_PLURAL: Final = re.compile(r"\ws$")
# Endings of singular words: glass, bus, tennis, gas, chaos.
_SINGULAR_ENDINGS: Final = ("ss", "us", "is", "as", "os")
# A comma between a digit and exactly three digits: `1,000`.
_THOUSANDS_SEPARATOR: Final = re.compile(r"(?<=\d)[,](?=\d{3}\b)")
# Everything but: points and colons inside numbers, hyphens that join words or begin a number, %, + and currencies.
_PUNCTUATION: Final = re.compile(r"(?<!\d)\.|\.(?!\d)|[^\w\s.:%$€£+-]|(?<!\w)-(?!\d)|-(?!\w)|(?<!\d):|:(?!\d)")
# The `'s` of `the dog's`.
_POSSESSIVE: Final = re.compile(r"(?<=\w)'s\b")
# Letters and digits, with apostrophes inside a word: `don't`.
_WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def normalise(answer: str) -> str:
    """Return the normalised form of an answer, for comparison.

    The result is in lower case, with single spaces. Articles and punctuation are removed (but punctuation within a
    number is kept), number words up to twenty become digits, and plurals become singulars. The result is empty only if
    the answer has no letter and no digit; an answer of articles alone keeps them. Normalising twice changes nothing.

    >>> normalise("The two Dogs.")
    '2 dog'
    """
    text = _THOUSANDS_SEPARATOR.sub("", answer.strip().casefold().replace("’", "'").replace("_", " "))
    text = _POSSESSIVE.sub("", text).replace("'", "")
    words = _PUNCTUATION.sub(" ", text).split()
    content_words = [word for word in words if word not in _ARTICLES] or words
    singulars = (_singularize(word) for word in content_words)
    return " ".join(_NUMBER_WORDS.get(word, word) for word in singulars)


def same_answer(first: str, second: str) -> bool:
    """Return whether two short answers are equal after `normalise`. An empty answer is not equal to any answer."""
    normalised = normalise(first)
    return bool(normalised) and normalised == normalise(second)


def is_uninformative(answer: str) -> bool:
    """Return whether `answer` says nothing about the image (unknown, none, not visible, n/a, ...; paper, step 2)."""
    normalised = " ".join(re.sub(r"[^\w\s]", " ", answer.casefold().replace("'", "").replace("’", "")).split())
    return (
        not normalised
        or normalised in _UNINFORMATIVE_ANSWERS
        or normalised.removeprefix("it is ") in _UNINFORMATIVE_ANSWERS
    )


def word_overlap(question: str, other_question: str) -> float:
    """Return the fraction, 0 to 1, of the words of `question` that also occur in `other_question`.

    Words are compared as sets, in lower case. The result is 0.0 if one of the questions has no words. In the paper
    (step 3), a new question is a repeat if it shares more than 0.6 of its words with an accepted question about the
    same image.
    """
    first = {word.casefold() for word in _WORD.findall(question)}
    second = {word.casefold() for word in _WORD.findall(other_question)}
    if not first or not second:
        return 0.0
    return len(first & second) / len(first)


def _singularize(word: str) -> str:
    """Return the singular of a word by spelling rules and a list of irregular plurals."""
    # Short words such as `yes` are no plurals; irregular plurals are looked up below.
    if len(word) <= 3 or not _PLURAL.search(word) or word.endswith(_SINGULAR_ENDINGS) or word in _IRREGULAR_PLURALS:
        singular = word
    elif word.endswith("ies") and len(word) > 4:
        singular = word[:-3] + "y"
    elif word.endswith(("ches", "shes", "sses", "xes", "zzes")):
        singular = word[:-2]
    else:
        singular = word[:-1]
    # "thes" must not become the article "the": normalising a second time would remove it.
    return word if singular in _ARTICLES else _IRREGULAR_PLURALS.get(singular, singular)
