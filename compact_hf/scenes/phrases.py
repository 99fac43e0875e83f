"""The grammar of "the red kite in the background that says TEA": a noun with constraints, written and read.

One table serves both ways: `write_phrase` fills its phrases in, `read_phrase` matches them. A phrase stands before the
noun, after it, or in the relative clause at the end; phrases that end in another noun come last, so that nothing that
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
    get_category,
)
from compact_hf.scenes.program import Constraint

Position = Literal["before", "after", "clause"]

_POSITIONS: Final[tuple[Position, ...]] = ("before", "after", "clause")
_FIRST_CLAUSE: Final = re.compile(r" (?:that|who) ")
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
"""Words that follow the noun's number."""
_ACTORS: Final[tuple[Category, ...]] = ("person", "animal")
_ACTIVE_BY_PASSIVE: Final = {passive: active for active, passive in VERBS.items()}


def _identity(values: Iterable[str]) -> dict[str, str]:
    return {value: value for value in values}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One way to say a constraint.

    Attributes:
        capability (`str`)
        position (`str`): where it stands.
        text (`str`): with `{v}` for the value's words, `{o}` for the other noun, and `{is}` and the like for
            verbs that follow the noun's number.
        words (`Mapping[str, str]`): each value it can say -> the words for it.
        categories (`tuple[str, ...]`): the categories of nouns it is idiomatic for.
        is_joint (`bool`): for the shape and the word of one badge, said together, and for nothing else.
    """

    capability: str
    position: Position
    text: str
    words: Mapping[str, str]
    categories: tuple[Category, ...] = CATEGORIES
    is_joint: bool = False

    @property
    def has_own_subject(self) -> bool:
        """Whether it is a clause of which the noun is not the subject: "that nobody would expect"."""
        return self.position == "clause" and (not self.text.startswith("{") or self.text.startswith("{a}"))

    @property
    def has_other_noun(self) -> bool:
        """Whether it names another thing."""
        return "{o}" in self.text

    def can_express(self, constraint: Constraint) -> bool:
        """Whether it can say `constraint`."""
        return (
            self.capability == constraint.capability
            and constraint.value in self.words
            and self.has_other_noun == bool(constraint.other_noun)
        )

    def fill(self, constraint: Constraint, *, plural: bool) -> str:
        """Return the words for `constraint`."""
        fields = {name: forms[plural] for name, forms in _NUMBER_FORMS.items()}
        article = "an" if constraint.other_noun[:1] in tuple("aeiou") else "a"
        return self.text.format(v=self.words[constraint.value], o=constraint.other_noun, a=article, **fields)


_SIDES: Final = {"left of": "left", "right of": "right"}
_NEXT_TO: Final = {"next to": "next to"}
_DEPTHS: Final = _identity(("foreground", "background"))
_HALVES: Final = _identity(("left half", "right half"))
_ALL_ACTIONS: Final = _identity(dict.fromkeys(action for actions in ACTIONS.values() for action in actions))
_PASSIVE_VERBS: Final = _identity(VERBS.values())
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
"""In the order in which they may follow each other in one noun phrase."""


def write_phrase(noun: str, constraints: tuple[Constraint, ...], rng: random.Random, *, plural: bool) -> str:
    """Return a noun phrase in wording drawn by `rng`: "the red kite" or, plural, "red kites".

    No article goes before a plural.
    """
    category = get_category(noun)
    indexed = sorted((_draw_phrase(constraint, category, constraints, rng), constraint) for constraint in constraints)
    if any(PHRASES[i].position == "clause" for i, _ in indexed):
        indexed = sorted((_to_clause(i, constraint, category), constraint) for i, constraint in indexed)
    texts: dict[Position, list[str]] = {position: [] for position in _POSITIONS}
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
    """Return the noun and the constraints that a noun phrase says, in its order; None where it is none of ours."""
    text = text.removeprefix("the ")
    constraints: list[Constraint] = []
    pos = 0
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
    link = _FIRST_CLAUSE.match(text, pos)
    while link is not None and (result := _read_constraint("clause", text, link.end())) is not None:
        constraints.append(result[0])
        pos = result[1]
        link = _NEXT_CLAUSE.match(text, pos)
    return (_singulars()[match[0]], tuple(constraints)) if pos == len(text) else None


def _draw_phrase(
    constraint: Constraint, category: Category, constraints: tuple[Constraint, ...], rng: random.Random
) -> int:
    """Return the index of a phrase for `constraint`, one of several `constraints` on the same noun."""
    badge_capabilities = {"shape", "text_recognition"}
    is_joint = (
        category != "object"
        and constraint.capability in badge_capabilities
        and badge_capabilities <= {item.capability for item in constraints}
    )
    return rng.choice([i for i in _matching_phrases(constraint, category) if PHRASES[i].is_joint == is_joint])


def _to_clause(i: int, constraint: Constraint, category: Category) -> int:
    """Return a clause instead of the phrase `i` if that ends in a noun of its own, which a clause would describe."""
    phrase = PHRASES[i]
    if phrase.position == "after" and (phrase.has_other_noun or phrase.text.endswith("picture")):
        return max(j for j in _matching_phrases(constraint, category) if PHRASES[j].position == "clause")
    return i


def _matching_phrases(constraint: Constraint, category: Category) -> list[int]:
    return [i for i, phrase in enumerate(PHRASES) if phrase.can_express(constraint) and category in phrase.categories]


def _join_clauses(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _read_constraint(position: Position, text: str, start: int) -> tuple[Constraint, int] | None:
    for phrase, pattern in _patterns()[position]:
        if match := pattern.match(text, start):
            groups = match.groupdict()
            value = next((value for value, wording in phrase.words.items() if wording == groups.get("v", "")), "")
            return Constraint(phrase.capability, value, groups.get("o", "")), match.end()
    return None


@cache
def _patterns() -> dict[Position, list[tuple[Phrase, re.Pattern[str]]]]:
    # "is being pushed by a man" has to be tried before "is being pushed".
    phrases = sorted(PHRASES, key=lambda phrase: not phrase.has_other_noun)
    return {
        position: [(phrase, _compile_phrase(phrase)) for phrase in phrases if phrase.position == position]
        for position in _POSITIONS
    }


@cache
def _noun_pattern() -> re.Pattern[str]:
    return re.compile(rf"(?:{_alternatives(_singulars())})(?![\w-])")


@cache
def _singulars() -> dict[str, str]:
    return {plural: noun for noun, plural in PLURALS.items()} | {noun: noun for noun in PLURALS}


def _compile_phrase(phrase: Phrase) -> re.Pattern[str]:
    """Return the phrase as a pattern with groups `v` and `o`, for either number."""
    slots = {name: f"(?:{_alternatives(forms)})" for name, forms in _NUMBER_FORMS.items()}
    slots |= {
        "v": f"(?P<v>{_alternatives(phrase.words.values())})",
        "o": f"(?P<o>{_alternatives(PLURALS)})",
        "a": "an?",
    }
    pieces = re.split(r"\{(\w+)\}", phrase.text)
    return re.compile(
        "".join(slots[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)) + r"(?![\w-])"
    )


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
