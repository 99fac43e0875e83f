"""The grammar of "the red kite in the background that says TEA": a noun with constraints, written and read.

One table serves both ways: `write` fills its phrases in, `read` matches them. A phrase stands before the noun,
after it, or in the relative clause at the end; phrases that end in another noun come last, so that nothing that
follows can be taken to describe that noun.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from compact_hf.scenes.kinds import (
    ACTIONS,
    ARRANGEMENTS,
    CATEGORIES,
    COLORS,
    KINDS,
    SHAPES,
    VERBS,
    WORDS,
    Category,
    category_of,
)
from compact_hf.scenes.program import Constraint

Form = Literal["before", "after", "clause"]

_FORMS: Final[tuple[Form, ...]] = ("before", "after", "clause")
_LINK: Final = re.compile(r" (?:that|who) ")
_COMMA: Final = re.compile(r"(?:,| and) (?:(?:that|who) )?")

PLURALS: Final = {kind.name: kind.plural for kind in KINDS.values()} | {
    "object": "objects",
    "person": "people",
    "animal": "animals",
}
_NUMBER: Final = {
    "is": ("is", "are"),
    "does": ("does", "do"),
    "looks": ("looks", "look"),
    "says": ("says", "say"),
    "stands": ("stands", "stand"),
    "wears": ("wears", "wear"),
    "it": ("it", "them"),
    "badge": ("badge", "badges"),
    "a_": ("a ", ""),
    "the_": ("the ", ""),
    "their": ("the", "their"),
}
"""Words that follow the noun's number."""
_ACTORS: Final[tuple[Category, ...]] = ("person", "animal")
_ACTIVE: Final = {passive: active for active, passive in VERBS.items()}


def _same(values: Iterable[str]) -> dict[str, str]:
    return {value: value for value in values}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One way to say a constraint.

    Attributes:
        capability (`str`)
        form (`str`): where it stands.
        text (`str`): with `{v}` for the value's words, `{o}` for the other noun, and `{is}` and the like for
            verbs that follow the noun's number.
        words (`Mapping[str, str]`): each value it can say -> the words for it.
        of (`tuple[str, ...]`): the categories of nouns it is idiomatic for.
        together (`bool`): for the shape and the word of one badge, said together, and for nothing else.
    """

    capability: str
    form: Form
    text: str
    words: Mapping[str, str]
    of: tuple[Category, ...] = CATEGORIES
    together: bool = False

    @property
    def has_subject(self) -> bool:
        """Whether it is a clause of which the noun is not the subject: "that nobody would expect"."""
        return self.form == "clause" and (not self.text.startswith("{") or self.text.startswith("{a}"))

    @property
    def has_other(self) -> bool:
        """Whether it names another thing."""
        return "{o}" in self.text

    def says(self, constraint: Constraint) -> bool:
        """Whether it can say `constraint`."""
        return (
            self.capability == constraint.capability
            and constraint.value in self.words
            and self.has_other == bool(constraint.other)
        )

    def fill(self, constraint: Constraint, *, plural: bool) -> str:
        """Return the words for `constraint`."""
        fields = {name: forms[plural] for name, forms in _NUMBER.items()}
        article = "an" if constraint.other[:1] in tuple("aeiou") else "a"
        return self.text.format(v=self.words[constraint.value], o=constraint.other, a=article, **fields)


_SIDES: Final = {"left of": "left", "right of": "right"}
_BESIDE: Final = {"next to": "next to"}
_DEPTHS: Final = _same(("foreground", "background"))
_HALVES: Final = _same(("left half", "right half"))
_ALL_ACTIONS: Final = _same(dict.fromkeys(action for actions in ACTIONS.values() for action in actions))
_PASSIVE: Final = _same(VERBS.values())
_HAPPENS: Final = _same(verb for verb in VERBS if verb != "feeding")

PHRASES: Final = (
    Phrase("shape", "before", "{v}", _same(SHAPES), ("object",)),
    Phrase("color", "before", "{v}", _same(COLORS), ("object", "animal")),
    Phrase(
        "action_recognition", "before", "{v}", _same(("sleeping", "jumping", "sitting", "singing", "waving")), _ACTORS
    ),
    Phrase("color", "after", "in {v}", _same(COLORS), ("person",)),
    Phrase("color", "after", "dressed in {v}", _same(COLORS), ("person",)),
    Phrase("shape", "after", "with {the_}{v} {badge}", _same(SHAPES), _ACTORS),
    Phrase("shape", "after", "with {the_}{v} {badge}", _same(SHAPES), _ACTORS, together=True),
    Phrase("text_recognition", "after", 'bearing "{v}"', _same(WORDS), _ACTORS, together=True),
    Phrase("text_recognition", "after", 'with the word "{v}" on {it}', _same(WORDS), ("object",)),
    Phrase("text_recognition", "after", 'with "{v}" on {their} {badge}', _same(WORDS), _ACTORS),
    Phrase("spatial_recognition", "after", "in the {v}", _DEPTHS | _same(ARRANGEMENTS)),
    Phrase("spatial_recognition", "after", "in the {v} of the picture", _HALVES),
    Phrase("spatial_relationship", "after", "to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "after", "{v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "after", "{v} the {o}", _BESIDE),
    Phrase("shape", "clause", "{is} {v}", _same(SHAPES), ("object",)),
    Phrase("shape", "clause", "{wears} {a_}{v} {badge}", _same(SHAPES), _ACTORS),
    Phrase("color", "clause", "{is} {v}", _same(COLORS), ("object", "animal")),
    Phrase("color", "clause", "{is} dressed in {v}", _same(COLORS), ("person",)),
    Phrase("action_recognition", "clause", "{is} {v}", _ALL_ACTIONS, _ACTORS),
    Phrase("text_recognition", "clause", '{says} "{v}"', _same(WORDS), ("object",)),
    Phrase("text_recognition", "clause", 'the word "{v}" is written on', _same(WORDS), ("object",)),
    Phrase("text_recognition", "clause", '{wears} {a_}{badge} that {says} "{v}"', _same(WORDS), _ACTORS),
    Phrase("scene_understanding", "clause", "{does} not belong in this kind of place", {"odd": ""}),
    Phrase("scene_understanding", "clause", "{is} out of place in these surroundings", {"odd": ""}),
    Phrase("scene_understanding", "clause", "{looks} wrong for a place like this", {"odd": ""}),
    Phrase("scene_understanding", "clause", "nobody would expect in such a place", {"odd": ""}),
    Phrase("object_interaction", "clause", "{is} being {v}", _PASSIVE),
    Phrase("spatial_recognition", "clause", "{is} in the {v}", _DEPTHS),
    Phrase("spatial_recognition", "clause", "{is} part of the {v}", _same(ARRANGEMENTS)),
    Phrase("object_interaction", "clause", "{is} {v} something", _HAPPENS),
    Phrase("object_interaction", "clause", "{is} {v} an animal", {"feeding": "feeding"}),
    Phrase("spatial_recognition", "clause", "{is} in the {v} of the picture", _HALVES),
    Phrase("object_interaction", "clause", "{is} being {v} by {a} {o}", _PASSIVE),
    Phrase("object_interaction", "clause", "{a} {o} is {v}", _ACTIVE),
    Phrase("spatial_relationship", "clause", "{is} to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "clause", "{stands} to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "clause", "{stands} {v} the {o}", _BESIDE),
    Phrase("spatial_relationship", "clause", "{is} {v} the {o}", _BESIDE),
)
"""In the order in which they may follow each other in one noun phrase."""


def write(noun: str, constraints: tuple[Constraint, ...], rng: random.Random, *, plural: bool) -> str:
    """Return a noun phrase in wording drawn by `rng`: "the red kite" or, plural, "red kites".

    No article goes before a plural.
    """
    category = category_of(noun)
    placed = sorted((_drawn(constraint, category, constraints, rng), constraint) for constraint in constraints)
    if any(PHRASES[i].form == "clause" for i, _ in placed):
        placed = sorted((_trailing(i, constraint, category), constraint) for i, constraint in placed)
    said: dict[Form, list[str]] = {form: [] for form in _FORMS}
    linked = any(PHRASES[i].has_subject for i, _ in placed)
    for i, constraint in placed:
        phrase = PHRASES[i]
        text = phrase.fill(constraint, plural=plural)
        if phrase.form == "clause" and (linked or not said["clause"]):
            text = f"{'who' if category == 'person' and not phrase.has_subject else 'that'} {text}"
        said[phrase.form].append(text)
    words = [*said["before"], PLURALS[noun] if plural else noun, *said["after"]]
    if said["clause"]:
        words.append(_listed(said["clause"]))
    return " ".join(words if plural else ["the", *words])


def read(text: str) -> tuple[str, tuple[Constraint, ...]] | None:
    """Return the noun and the constraints that a noun phrase says, in its order; None where it is none of ours."""
    text = text.removeprefix("the ")
    found: list[Constraint] = []
    at = 0
    while (step := _read_one("before", text, at)) is not None and text[step[1] : step[1] + 1] == " ":
        found.append(step[0])
        at = step[1] + 1
    match = _noun().match(text, at)
    if match is None:
        return None
    at = match.end()
    while text.startswith(" ", at) and (step := _read_one("after", text, at + 1)) is not None:
        found.append(step[0])
        at = step[1]
    link = _LINK.match(text, at)
    while link is not None and (step := _read_one("clause", text, link.end())) is not None:
        found.append(step[0])
        at = step[1]
        link = _COMMA.match(text, at)
    return (_singulars()[match[0]], tuple(found)) if at == len(text) else None


def _drawn(constraint: Constraint, category: Category, constraints: tuple[Constraint, ...], rng: random.Random) -> int:
    """Return the index of a phrase for `constraint`, one of several `constraints` on the same noun."""
    badge = {"shape", "text_recognition"}
    together = (
        category != "object" and constraint.capability in badge and badge <= {other.capability for other in constraints}
    )
    return rng.choice([i for i in _fitting(constraint, category) if PHRASES[i].together == together])


def _trailing(i: int, constraint: Constraint, category: Category) -> int:
    """Return a clause instead of the phrase `i` if that ends in a noun of its own, which a clause would describe."""
    phrase = PHRASES[i]
    if phrase.form == "after" and (phrase.has_other or phrase.text.endswith("picture")):
        return max(j for j in _fitting(constraint, category) if PHRASES[j].form == "clause")
    return i


def _fitting(constraint: Constraint, category: Category) -> list[int]:
    return [i for i, phrase in enumerate(PHRASES) if phrase.says(constraint) and category in phrase.of]


def _listed(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _read_one(form: Form, text: str, at: int) -> tuple[Constraint, int] | None:
    for phrase, pattern in _patterns()[form]:
        if match := pattern.match(text, at):
            words = match.groupdict()
            value = next((value for value, said in phrase.words.items() if said == words.get("v", "")), "")
            return Constraint(phrase.capability, value, words.get("o", "")), match.end()
    return None


@cache
def _patterns() -> dict[Form, list[tuple[Phrase, re.Pattern[str]]]]:
    # "is being pushed by a man" has to be tried before "is being pushed".
    phrases = sorted(PHRASES, key=lambda phrase: not phrase.has_other)
    return {form: [(phrase, _pattern(phrase)) for phrase in phrases if phrase.form == form] for form in _FORMS}


@cache
def _noun() -> re.Pattern[str]:
    return re.compile(rf"(?:{_either(_singulars())})(?![\w-])")


@cache
def _singulars() -> dict[str, str]:
    return {plural: noun for noun, plural in PLURALS.items()} | {noun: noun for noun in PLURALS}


def _pattern(phrase: Phrase) -> re.Pattern[str]:
    """Return the phrase as a pattern with groups `v` and `o`, for either number."""
    slots = {name: f"(?:{_either(forms)})" for name, forms in _NUMBER.items()}
    slots |= {"v": f"(?P<v>{_either(phrase.words.values())})", "o": f"(?P<o>{_either(PLURALS)})", "a": "an?"}
    pieces = re.split(r"\{(\w+)\}", phrase.text)
    return re.compile(
        "".join(slots[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)) + r"(?![\w-])"
    )


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
