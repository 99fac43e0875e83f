"""Normalises and compares short answers, and measures the word overlap of questions.

The normalisation follows the VQA evaluation (Antol et al. 2015): it ignores case, articles, punctuation and hyphens,
and writes number words as digits. In addition, a plural counts as its singular, because "two cats" and "two cat" mean
the same, and the same text is written in one way only: composed characters (NFC), full-width characters as their usual
form, digits of all scripts as 0 to 9, and no spaces beside Chinese or Japanese characters. Other compatibility
characters stay what they are (unlike under NFKC): 10² is not 102.

Plurals are compared by candidates: `caddies` may be the plural of `caddy` or of `caddie`, and matches both. A library
such as inflect is not used: it regards `lens` as the plural of `len`, and needs a millisecond for each comparison. The
metric, which is loaded as a directory, would need it too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

ANSWER_RULES_VERSION: Final = "2"
"""Version of these rules: raised when `same_answer` changes. Version 1 is that of files that do not name a version."""

SHORT_ANSWER_INSTRUCTION: Final = "Answer the question using a single word or phrase."
"""LLaVA-1.5's response format prompt, added to the first turn of a conversation and to questions in evaluation."""

_ARTICLES: Final = frozenset({"a", "an", "the"})
_UNITS: Final = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS: Final = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER_WORDS: Final = frozenset({*_UNITS, *_TENS, "hundred", *_SCALES})
# A number in digits that a scale may follow, with its minus sign and currency: the `-$2.5` of `-$2.5 million`.
_DIGITS: Final = re.compile(r"([^\w\s]{0,2})(\d{1,15})(?:\.(\d{1,6}))?")
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
    plural: singular
    for singular, plurals in {
        "person": "people", "child": "children", "man": "men", "woman": "women",
        "mouse": "mice", "louse": "lice", "goose": "geese", "foot": "feet", "tooth": "teeth", "ox": "oxen oxes",
        "die": "dice", "ad": "ads", "id": "ids", "ev": "evs",
        "quiz": "quizzes", "fez": "fezzes", "topaz": "topazes", "bus": "busses", "gas": "gasses",
        "leaf": "leaves", "knife": "knives", "wife": "wives", "life": "lives", "loaf": "loaves",
        "calf": "calves", "half": "halves", "wolf": "wolves", "shelf": "shelves", "elf": "elves",
        "thief": "thieves", "scarf": "scarves", "hoof": "hooves", "dwarf": "dwarves", "wharf": "wharves",
        "sheaf": "sheaves",
        "cactus": "cacti", "fungus": "fungi", "octopus": "octopi", "oasis": "oases", "crisis": "crises",
        "analysis": "analyses", "thesis": "theses", "vertex": "vertices",
    }.items()
    for plural in plurals.split()
}  # fmt: skip
_ENDS_OF_COMPOUNDS: Final = "|".join(
    plural for plural in _IRREGULAR_PLURALS if plural.endswith(("ves", "children", "people"))
)
# Penknives, schoolchildren and salespeople. Fewer letters before the ending make no compound: olives, relives.
_COMPOUND_PLURAL: Final = re.compile(rf"([^\W\d_]{{3,}}?)({_ENDS_OF_COMPOUNDS})")
# Words in -men that are not plurals of words in -man.
_SINGULARS_IN_MEN: Final = frozenset("specimen stamen abdomen regimen acumen cyclamen bitumen albumen".split())
# Singular words that end in a single s, besides those in -us and -is.
_SINGULARS_IN_S: Final = frozenset(
    "gas canvas atlas christmas xmas texas kansas arkansas vegas dallas thomas douglas lucas nicholas pancreas alias "
    "bias madras chaos cosmos asbestos rhinoceros thermos ethos pathos kudos carlos laos lagos barbados lens mars news "
    "series species rabies mercedes diabetes james charles jones wales hercules moses athens always perhaps sometimes "
    "besides physics mathematics politics economics athletics gymnastics aerobics electronics genetics acoustics "
    "iris trellis mantis ibis hers ours yours theirs mrs gps sms corps".split()
)
# Nouns in -u and -i whose plurals look like the singular words in -us and -is.
_NOUNS_IN_U_OR_I: Final = frozenset(
    "menu emu gnu tutu guru haiku kudu bayou caribou thou subaru ski taxi bikini kiwi zucchini safari khaki panini "
    "martini salami mini rabbi broccoli alibi origami tsunami jacuzzi graffiti chili chilli spaghetti ravioli sushi "
    "samurai bonsai wasabi maxi semi yeti corgi emoji sari tiki roti okapi yogi deli wiki iraqi israeli pakistani audi "
    "ferrari lamborghini maserati ducati".split()
)
# Nouns in -e whose plurals look like those of words without the e, such as shoes (heroes) and cookies (cherries).
_NOUNS_IN_E: Final = frozenset(
    "shoe horseshoe snowshoe toe tiptoe canoe hoe oboe doe foe roe aloe floe throe woe axe pickaxe "
    "ache headache toothache stomachache earache backache mustache moustache cache niche quiche brioche avalanche "
    "cliche porsche creche psyche use fuse muse excuse "
    "cookie movie brownie zombie calorie hoodie selfie rookie smoothie genie birdie magpie bowtie necktie prairie "
    "collie pixie goalie foodie cutie sortie talkie walkie freebie bookie hippie yuppie laddie lassie "
    "veggie doggie junkie pinkie townie barbie sweetie beanie boogie budgie".split()
)

# A comma between a digit and exactly three digits: `1,000ft`.
_THOUSANDS_SEPARATOR: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# The point of `.5`, which begins a number.
_LEADING_POINT: Final = re.compile(r"(?<![\w.])\.(?=\d)")
# Single letters with points between them, as in `U.S.` and `9:00a.m.`, but not in `www.b.com`.
_INITIALS: Final = re.compile(r"(?<![^\W\d]|\.)(?:[^\W\d_]\.)+[^\W\d_]\b")
# The `'s` of `the dog's`, but not of `the 1980's`.
_POSSESSIVE: Final = re.compile(r"(?<=[^\W\d_])'s\b")
# ASCII characters other than letters, digits, %, +, $ and hyphens, but no points and colons inside numbers.
_PUNCTUATION: Final = re.compile(r"(?<!\d)\.|\.(?!\d)|(?<!\d):|:(?!\d)|[^\s\w.:%$+\u0080-\U0010ffff-]|_")
# Letters and digits, with apostrophes inside a word: `don't`. Outside ASCII, symbols were replaced before.
_WORD: Final = re.compile(r"(?:[^\W_]|[^\s\x00-\x7f])+(?:'(?:[^\W_]|[^\s\x00-\x7f])+)*")
# Every hyphen but the minus sign of a number or of an amount such as `-$5` (other symbols were removed before).
_HYPHEN: Final = re.compile(r"(?<=\S)-|-(?![^\w\s.:%+-]?\d)")
_CHINESE_OR_JAPANESE: Final = "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
# The spaces next to these characters, except before a minus sign.
_SPACES: Final = re.compile(rf"(?<={_CHINESE_OR_JAPANESE})\s+(?![\s-])|\s+(?={_CHINESE_OR_JAPANESE})")
_APOSTROPHES: Final = frozenset("‘’ʼ´")
_MINUS: Final = "−"
_WAVE_DASHES: Final = frozenset("〜〰")
# The invisible letters that make the flags of England and Scotland of a black flag.
_EMOJI_TAGS: Final = range(0xE0020, 0xE0080)
_VOWELS: Final = frozenset("aeiouy")


def normalise(answer: str) -> str:
    """Return the normalised form of an answer, to count and group answers.

    The result is in lower case, with single spaces. Articles and punctuation are removed (but punctuation within a
    number is kept), numbers in words become digits, and plurals become singulars. An answer of articles alone keeps
    them, and one of symbols alone (`?`, an arrow, an emoji) keeps these. Normalising twice changes nothing. Answers
    with the same normalised form are the same for `same_answer`.

    >>> normalise("The twenty-one Dogs.")
    '21 dog'
    """
    return " ".join(_find_singulars(word)[0] for word in _split_words(answer))


def same_answer(first: str, second: str) -> bool:
    """Return whether two short answers are the same: word by word equal, or one word the plural of the other.

    The words are those of `normalise`, before plurals become singulars. The order of the two answers does not matter,
    and every answer is the same as itself, except an empty one.
    """
    words, other_words = _split_words(first), _split_words(second)
    return bool(words) and len(words) == len(other_words) and all(map(_is_same_word, words, other_words))


def is_uninformative(answer: str) -> bool:
    """Return whether `answer` says nothing about the image (unknown, none, not visible, n/a, ...; paper, step 2)."""
    normalised = " ".join(re.sub(r"[^\w\s]", " ", _fold(answer).replace("'", "")).split())
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
    first, second = _find_question_words(question), _find_question_words(other_question)
    if not first or not second:
        return 0.0
    return len(first & second) / len(first)


def _find_question_words(question: str) -> set[str]:
    text = question.casefold()
    return set(_WORD.findall(text if text.isascii() else "".join(map(_replace_symbol, text))))


# Words


def _split_words(answer: str) -> list[str]:
    """Return the words of an answer that are compared, with plurals as they are; empty only for a blank answer."""
    text = _fold(answer)
    words = _remove_punctuation(text).split()
    if not words:
        # Symbols alone: they are the answer.
        return text.split()
    words = [word for word in words if word not in _ARTICLES] or words
    if not _NUMBER_WORDS.isdisjoint(words):
        words = list(_write_digits(words))
    if text.isascii():
        return words
    # Composed again: a mark may follow a letter only now that what stood between them is gone.
    return unicodedata.normalize("NFC", _SPACES.sub("", " ".join(words))).split()


def _fold(text: str) -> str:
    """Return a text in lower case with one way of writing each character (see the module's docstring)."""
    if text.isascii():
        return text.lower()
    # Decomposed first, so that every character meets the same rules however it was written.
    lower = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", "".join(map(_fold_character, lower)))


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    # Joiners, marks of direction and variation selectors are invisible.
    if (category == "Cf" and ord(character) not in _EMOJI_TAGS) or "\ufe00" <= character <= "\ufe0f":
        return ""
    if unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")):
        character = unicodedata.normalize("NFKC", character)
    if character in _APOSTROPHES:
        return "'"
    is_hyphen = (category == "Pd" and character not in _WAVE_DASHES) or character == _MINUS
    return "-" if is_hyphen else character


def _remove_punctuation(text: str) -> str:
    """Return a folded text without punctuation: a space where words were separated, nothing for an apostrophe."""
    text = _INITIALS.sub(lambda initials: initials[0].replace(".", ""), text)
    text = _LEADING_POINT.sub("0.", _THOUSANDS_SEPARATOR.sub("", text))
    text = _PUNCTUATION.sub(" ", _POSSESSIVE.sub("", text).replace("'", ""))
    if not text.isascii():
        text = "".join(map(_replace_symbol, text))
    return _HYPHEN.sub(" ", text)


@lru_cache(maxsize=4096)
def _replace_symbol(character: str) -> str:
    """Return a space for a symbol; letters, combining marks, numbers and currencies stay."""
    if character.isascii() or unicodedata.category(character)[0] in "LMN" or unicodedata.category(character) == "Sc":
        return character
    return " "


# Numbers


def _write_digits(words: Sequence[str]) -> Iterator[str]:
    """Yield words with cardinal numbers in digits: `one hundred and five` is 105, `2.5 million` is 2500000.

    Digits are joined with one scale (or `hundred thousand`) only: `3 hundred and five` is 300 and 5.
    """
    position = 0
    while position < len(words):
        if words[position] in _NUMBER_WORDS:
            value, position = _read_cardinal(words, position)
            yield str(value)
            continue
        factor, end = _read_factor(words, position + 1)
        match = _DIGITS.fullmatch(words[position]) if factor > 1 else None
        if match is None:
            yield words[position]
            position += 1
            continue
        sign, whole, fraction = match[1], match[2], match[3] or ""
        value, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
        decimals = f".{rest:0{len(fraction)}}".rstrip("0") if rest else ""
        yield f"{sign}{value}{decimals}"
        position = end


def _read_factor(words: Sequence[str], position: int) -> tuple[int, int]:
    """Return the factor of `hundred`, `thousand` or `hundred thousand` at a position (1 for none), and its end."""
    factor = 1
    for scales in ({"hundred": 100}, _SCALES):
        if position < len(words) and words[position] in scales:
            factor *= scales[words[position]]
            position += 1
    return factor, position


def _read_cardinal(words: Sequence[str], position: int) -> tuple[int, int]:
    """Return the longest cardinal that begins with the number word at a position, and its end.

    Words that do not continue it begin another cardinal: `two three` is 2 and 3. Ordinals are not read.
    """
    total = group = 0  # value of the scales so far, and of the words after the last scale, which is below 1000
    next_scale = 10**15  # scales fall
    previous = ""
    while position < len(words):
        word = words[position]
        if word in _UNITS and (
            not previous
            or (word != "zero" and (previous in ("hundred", "scale") or (previous == "tens" and _UNITS[word] < 10)))
        ):
            group += _UNITS[word]
            previous = "units" if group else word
        elif word in _TENS and previous in ("", "hundred", "scale"):
            group += _TENS[word]
            previous = "tens"
        elif word == "hundred" and (not previous or (previous in ("units", "tens") and group < 100)):
            group = 100 * (group or 1)
            previous = word
        elif _SCALES.get(word, next_scale) < next_scale and previous not in ("scale", "zero"):
            next_scale = _SCALES[word]
            total, group, previous = total + next_scale * (group or 1), 0, "scale"
        elif not (word == "and" and previous in ("hundred", "scale") and _begin_below_100(words[position + 1 :])):
            break
        position += 1
    return total + group, position


def _begin_below_100(words: Sequence[str]) -> bool:
    """Return whether words begin with a cardinal from 1 to 99, such as the five of `one hundred and five`."""
    is_number = bool(words) and words[0] in _UNITS.keys() | _TENS.keys() and words[0] != "zero"
    return is_number and "hundred" not in words[1:3]


# Plurals


@lru_cache(maxsize=1 << 16)
def _find_singulars(word: str) -> tuple[str, ...]:
    """Return the words that a word may be the plural of, the most likely first; only the word itself if it is none."""
    singulars = tuple(
        singular
        for singular in _iter_singulars(word)
        # Not "tens", not "thes", and not what is a plural itself: normalising twice changes nothing.
        if singular not in _NUMBER_WORDS and singular not in _ARTICLES and not any(_iter_singulars(singular))
    )
    return singulars or (word,)


def _iter_singulars(word: str) -> Iterator[str]:
    """Yield what a word may be the plural of by its spelling, the most likely first."""
    if word in _IRREGULAR_PLURALS:
        yield _IRREGULAR_PLURALS[word]
    elif compound := _COMPOUND_PLURAL.fullmatch(word):
        yield compound[1] + _IRREGULAR_PLURALS[compound[2]]
    elif word.endswith("men") and len(word) > 5 and word not in _SINGULARS_IN_MEN:
        yield f"{word[:-2]}an"
    # MP3s, but not 747s and 1980s. An s after a Chinese or Japanese character is no ending.
    elif (
        word.endswith("s")
        and word[0].isalpha()
        and word.isalnum()
        and word[-2:] < "\u2e80"
        and not _is_singular_in_s(word)
    ):
        for singular in _remove_ending(word):
            # Not "yes", "its" or "gas", but "TVs" and "CDs".
            if len(singular) > 2 or (len(singular) == 2 and _VOWELS.isdisjoint(singular)):
                yield singular
        # Axes and bases are also the plurals of axis and basis.
        if word.endswith(("ses", "xes")):
            yield f"{word[:-2]}is"


def _is_singular_in_s(word: str) -> bool:
    """Return whether a word that ends in s is a singular by its spelling or by the lists: glass, bus, iris, lens."""
    if word in _SINGULARS_IN_S or word.endswith("ss"):
        return True
    return word.endswith(("us", "is")) and not word.endswith("eaus") and word[:-1] not in _NOUNS_IN_U_OR_I


def _remove_ending(plural: str) -> tuple[str, ...]:
    """Return a plural without -s, and where it ends in -es or -ies also without these, the most likely first."""
    without_s, without_es = plural[:-1], plural[:-2]
    if plural.endswith("ies"):
        other = f"{plural[:-3]}y"
        is_other_likely = len(plural) > 4
    elif plural.endswith(("xes", "zzes", "tzes", "ches", "shes", "oes")):
        other = without_es
        is_other_likely = True
    elif plural.endswith("ses") and _is_singular_in_s(without_es):
        # Buses and irises, but houses, causes and noises.
        other = without_es
        is_other_likely = other in _SINGULARS_IN_S or not other.endswith(("is", "ous", "aus"))
    else:
        return (without_s,)
    return (other, without_s) if is_other_likely and without_s not in _NOUNS_IN_E else (without_s, other)


def _is_same_word(word: str, other: str) -> bool:
    """Return whether two words are equal, or one may be the plural of the other, or both of the same word."""
    return word == other or not {word, *_find_singulars(word)}.isdisjoint((other, *_find_singulars(other)))
