"""Writes and parses noun phrases with constraints, such as "the red kite in the background that says TEA".

`write_phrase` and `read_phrase` use the same table, `PHRASES`. A phrase is placed before the noun, after it, or in the
relative clauses at the end. Phrases that end in another noun come last, so that no later phrase can be read as a
description of that noun.
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
    get_category,
)
from compact_hf.scenes.program import Constraint

Position = Literal["before", "after", "clause"]

_POSITIONS: Final[tuple[Position, ...]] = ("before", "after", "clause")
# Before the first relative clause: " that " or " who ".
_FIRST_CLAUSE: Final = re.compile(r" (?:that|who) ")
# Before each further clause: ", ", " and " or " and that ".
_NEXT_CLAUSE: Final = re.compile(r"(?:,| and) (?:(?:that|who) )?")

PLURALS: Final = {kind.name: kind.plural for kind in KINDS.values()} | {
    "object": "objects",
    "person": "people",
    "animal": "animals",
}
_NUMBER_FORMS: Final = {
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
"""Words that agree with the number of the noun: slot -> (singular, plural)."""
_ACTORS: Final[tuple[Category, ...]] = ("person", "animal")
_ACTIVE_BY_PASSIVE: Final = {passive: active for active, passive in VERBS.items()}


def _identity(values: Iterable[str]) -> dict[str, str]:
    return {value: value for value in values}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One wording of a constraint.

    Attributes:
        capability (`str`): the capability of the constraint.
        position (`str`): `before` or `after` the noun, or `clause` for a relative clause.
        text (`str`): the wording, with `{v}` for the value, `{o}` for the other noun, `{a}` for its article, and the
            slots of `_NUMBER_FORMS` such as `{is}`.
        words (`Mapping[str, str]`): each value that the phrase can express -> its words.
        categories (`tuple[str, ...]`, *optional*, defaults to all): the categories of nouns for which the wording is
            idiomatic.
        is_joint (`bool`, *optional*, defaults to False): whether the phrase is only used if both the shape and the word
            of the same badge are constraints.
    """

    capability: str
    position: Position
    text: str
    words: Mapping[str, str]
    categories: tuple[Category, ...] = CATEGORIES
    is_joint: bool = False

    @property
    def has_own_subject(self) -> bool:
        """Whether it is a clause with its own subject instead of the noun, such as "that a man is pushing"."""
        # A clause that begins with a verb, a slot such as {is}, has the noun as its subject. {a} begins a subject.
        return self.position == "clause" and (not self.text.startswith("{") or self.text.startswith("{a}"))

    @property
    def has_other_noun(self) -> bool:
        """Whether it mentions another thing."""
        return "{o}" in self.text

    def can_express(self, constraint: Constraint) -> bool:
        """Return whether the phrase can express `constraint`."""
        return (
            self.capability == constraint.capability
            and constraint.value in self.words
            and self.has_other_noun == bool(constraint.other_noun)
        )

    def fill(self, constraint: Constraint, *, plural: bool) -> str:
        """Return the text of the phrase for a constraint, in the singular or plural."""
        # plural is an index here: False selects the singular, True the plural.
        fields = {name: forms[plural] for name, forms in _NUMBER_FORMS.items()}
        article = "an" if constraint.other_noun[:1] in tuple("aeiou") else "a"
        return self.text.format(v=self.words[constraint.value], o=constraint.other_noun, a=article, **fields)


_SIDES: Final = {"left of": "left", "right of": "right"}
_NEXT_TO: Final = {"next to": "next to"}
_DEPTHS: Final = _identity(("foreground", "background"))
_HALVES: Final = _identity(("left half", "right half"))
_ALL_ACTIONS: Final = _identity(dict.fromkeys(action for actions in ACTIONS.values() for action in actions))
_PASSIVE_VERBS: Final = _identity(VERBS.values())
# Only animals are fed, so this verb has a phrase of its own, "feeding an animal".
_VERBS_WITH_SOMETHING: Final = _identity(verb for verb in VERBS if verb != "feeding")

PHRASES: Final = (
    Phrase("shape", "before", "{v}", _identity(SHAPES), ("object",)),
    Phrase("color", "before", "{v}", _identity(COLORS), ("object", "animal")),
    Phrase(
        "action_recognition",
        "before",
        "{v}",
        _identity(("sleeping", "jumping", "sitting", "singing", "waving")),
        _ACTORS,
    ),
    Phrase("color", "after", "in {v}", _identity(COLORS), ("person",)),
    Phrase("color", "after", "dressed in {v}", _identity(COLORS), ("person",)),
    Phrase("shape", "after", "with {the_}{v} {badge}", _identity(SHAPES), _ACTORS),
    Phrase("shape", "after", "with {the_}{v} {badge}", _identity(SHAPES), _ACTORS, is_joint=True),
    Phrase("text_recognition", "after", 'bearing "{v}"', _identity(WORDS), _ACTORS, is_joint=True),
    Phrase("text_recognition", "after", 'with the word "{v}" on {it}', _identity(WORDS), ("object",)),
    Phrase("text_recognition", "after", 'with "{v}" on {their} {badge}', _identity(WORDS), _ACTORS),
    Phrase("spatial_recognition", "after", "in the {v}", _DEPTHS | _identity(ARRANGEMENTS)),
    Phrase("spatial_recognition", "after", "in the {v} of the picture", _HALVES),
    Phrase("spatial_relationship", "after", "to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "after", "{v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "after", "{v} the {o}", _NEXT_TO),
    Phrase("shape", "clause", "{is} {v}", _identity(SHAPES), ("object",)),
    Phrase("shape", "clause", "{wears} {a_}{v} {badge}", _identity(SHAPES), _ACTORS),
    Phrase("color", "clause", "{is} {v}", _identity(COLORS), ("object", "animal")),
    Phrase("color", "clause", "{is} dressed in {v}", _identity(COLORS), ("person",)),
    Phrase("action_recognition", "clause", "{is} {v}", _ALL_ACTIONS, _ACTORS),
    Phrase("text_recognition", "clause", '{says} "{v}"', _identity(WORDS), ("object",)),
    Phrase("text_recognition", "clause", 'the word "{v}" is written on', _identity(WORDS), ("object",)),
    Phrase("text_recognition", "clause", '{wears} {a_}{badge} that {says} "{v}"', _identity(WORDS), _ACTORS),
    Phrase("scene_understanding", "clause", "{does} not belong in this kind of place", {"odd": ""}),
    Phrase("scene_understanding", "clause", "{is} out of place in these surroundings", {"odd": ""}),
    Phrase("scene_understanding", "clause", "{looks} wrong for a place like this", {"odd": ""}),
    Phrase("scene_understanding", "clause", "nobody would expect in such a place", {"odd": ""}),
    Phrase("object_interaction", "clause", "{is} being {v}", _PASSIVE_VERBS),
    Phrase("spatial_recognition", "clause", "{is} in the {v}", _DEPTHS),
    Phrase("spatial_recognition", "clause", "{is} part of the {v}", _identity(ARRANGEMENTS)),
    Phrase("object_interaction", "clause", "{is} {v} something", _VERBS_WITH_SOMETHING),
    Phrase("object_interaction", "clause", "{is} {v} an animal", {"feeding": "feeding"}),
    Phrase("spatial_recognition", "clause", "{is} in the {v} of the picture", _HALVES),
    Phrase("object_interaction", "clause", "{is} being {v} by {a} {o}", _PASSIVE_VERBS),
    Phrase("object_interaction", "clause", "{a} {o} is {v}", _ACTIVE_BY_PASSIVE),
    Phrase("spatial_relationship", "clause", "{is} to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "clause", "{stands} to the {v} of the {o}", _SIDES),
    Phrase("spatial_relationship", "clause", "{stands} {v} the {o}", _NEXT_TO),
    Phrase("spatial_relationship", "clause", "{is} {v} the {o}", _NEXT_TO),
)
"""All phrases, in the order in which they may follow each other in a noun phrase."""


def write_phrase(noun: str, constraints: tuple[Constraint, ...], rng: random.Random, *, plural: bool) -> str:
    """Return a noun phrase in a random wording: "the red kite", or "red kites" (without article) in the plural.

    Args:
        noun (`str`): the name of a kind or category, in the singular.
        constraints (`tuple[Constraint, ...]`): the constraints to express, in any order.
        rng (`random.Random`): draws the wording.
        plural (`bool`): whether to write the plural.
    """
    category = get_category(noun)
    # Pairs (index in PHRASES, constraint): sorting them gives the order in which phrases may follow each other.
    indexed = sorted((_draw_phrase(constraint, category, constraints, rng), constraint) for constraint in constraints)
    if any(PHRASES[i].position == "clause" for i, _ in indexed):
        indexed = sorted((_to_clause(i, constraint, category), constraint) for i, constraint in indexed)
    texts: dict[Position, list[str]] = {position: [] for position in _POSITIONS}
    # Clauses with different subjects each get a pronoun: "that is red and that a man is pushing".
    repeat_pronoun = any(PHRASES[i].has_own_subject for i, _ in indexed)
    for i, constraint in indexed:
        phrase = PHRASES[i]
        text = phrase.fill(constraint, plural=plural)
        if phrase.position == "clause" and (repeat_pronoun or not texts["clause"]):
            text = f"{'who' if category == 'person' and not phrase.has_own_subject else 'that'} {text}"
        texts[phrase.position].append(text)
    words = [*texts["before"], PLURALS[noun] if plural else noun, *texts["after"]]
    if texts["clause"]:
        words.append(_join_clauses(texts["clause"]))
    return " ".join(words if plural else ["the", *words])


def read_phrase(text: str) -> tuple[str, tuple[Constraint, ...]] | None:
    """Parse a noun phrase.

    Args:
        text (`str`): a phrase as `write_phrase` writes it.

    Returns:
        The noun in the singular and the constraints in the order of the text, or None if it is another text.
    """
    text = text.removeprefix("the ")
    constraints: list[Constraint] = []
    pos = 0
    # Phrases before the noun, each followed by a space.
    while (result := _read_constraint("before", text, pos)) is not None and text[result[1] : result[1] + 1] == " ":
        constraints.append(result[0])
        pos = result[1] + 1
    match = _noun_pattern().match(text, pos)
    if match is None:
        return None
    pos = match.end()
    while text.startswith(" ", pos) and (result := _read_constraint("after", text, pos + 1)) is not None:
        constraints.append(result[0])
        pos = result[1]
    # Relative clauses, until no link follows.
    link = _FIRST_CLAUSE.match(text, pos)
    while link is not None and (result := _read_constraint("clause", text, link.end())) is not None:
        constraints.append(result[0])
        pos = result[1]
        link = _NEXT_CLAUSE.match(text, pos)
    # A rest of the text means that it is no phrase of `write_phrase`.
    return (_singulars()[match[0]], tuple(constraints)) if pos == len(text) else None


def _draw_phrase(
    constraint: Constraint, category: Category, constraints: tuple[Constraint, ...], rng: random.Random
) -> int:
    """Return the index of a random phrase for `constraint`, which is one of the `constraints` of a noun."""
    badge_capabilities = {"shape", "text_recognition"}
    is_joint = (
        category != "object"
        and constraint.capability in badge_capabilities
        and badge_capabilities <= {item.capability for item in constraints}
    )
    return rng.choice([i for i in _matching_phrases(constraint, category) if PHRASES[i].is_joint == is_joint])


def _to_clause(i: int, constraint: Constraint, category: Category) -> int:
    """Return the index of an equivalent clause if phrase `i` ends in another noun, else `i`.

    Otherwise a relative clause that follows the phrase would be read as a description of that other noun.
    """
    phrase = PHRASES[i]
    if phrase.position == "after" and (phrase.has_other_noun or phrase.text.endswith("picture")):
        # The last one in PHRASES, so that it stays behind the clauses that do not end in a noun.
        return max(j for j in _matching_phrases(constraint, category) if PHRASES[j].position == "clause")
    return i


def _matching_phrases(constraint: Constraint, category: Category) -> list[int]:
    """Return the indices of the phrases for a constraint on a noun of a category."""
    return [i for i, phrase in enumerate(PHRASES) if phrase.can_express(constraint) and category in phrase.categories]


def _join_clauses(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _read_constraint(position: Position, text: str, start: int) -> tuple[Constraint, int] | None:
    """Return the constraint whose phrase begins at `start`, and the index of its end; None if there is none."""
    for phrase, pattern in _patterns()[position]:
        if match := pattern.match(text, start):
            groups = match.groupdict()
            # A phrase without {v} has one value, whose wording is empty.
            value = next((value for value, wording in phrase.words.items() if wording == groups.get("v", "")), "")
            return Constraint(phrase.capability, value, groups.get("o", "")), match.end()
    return None


@cache
def _patterns() -> dict[Position, list[tuple[Phrase, re.Pattern[str]]]]:
    """Return the phrases of each position with their regular expressions."""
    # Longest match first: "is being pushed by a man" must be tried before "is being pushed".
    phrases = sorted(PHRASES, key=lambda phrase: not phrase.has_other_noun)
    return {
        position: [(phrase, _compile_phrase(phrase)) for phrase in phrases if phrase.position == position]
        for position in _POSITIONS
    }


@cache
def _noun_pattern() -> re.Pattern[str]:
    # Neither a letter nor a hyphen may follow, so that "cat" is not found in "cats" or "cat-like".
    return re.compile(rf"(?:{_alternatives(_singulars())})(?![\w-])")


@cache
def _singulars() -> dict[str, str]:
    # Singular or plural -> singular.
    return {plural: noun for noun, plural in PLURALS.items()} | {noun: noun for noun in PLURALS}


def _compile_phrase(phrase: Phrase) -> re.Pattern[str]:
    """Return a regular expression for the phrase in singular and plural, with the groups `v` and `o`."""
    slots = {name: f"(?:{_alternatives(forms)})" for name, forms in _NUMBER_FORMS.items()}
    slots |= {
        "v": f"(?P<v>{_alternatives(phrase.words.values())})",
        "o": f"(?P<o>{_alternatives(PLURALS)})",
        "a": "an?",
    }
    # Literal texts at even indices, names of slots at odd ones.
    pieces = re.split(r"\{(\w+)\}", phrase.text)
    return re.compile(
        "".join(slots[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)) + r"(?![\w-])"
    )


def _alternatives(words: Iterable[str]) -> str:
    """Return a regular expression that matches any of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
