"""Writes questions about a scene, computes their answers from its ground truth, and parses questions.

`make_question` turns a combination of capabilities into a question that needs exactly these, in one of several
wordings. `analyze_question` only takes the text of a question and the scene: it parses the text with the same templates
and returns the answer and the capabilities that the question needs.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from compact_hf.capabilities import canonicalize
from compact_hf.scenes.kinds import CATEGORIES, KINDS, Category, get_category
from compact_hf.scenes.phrases import read_phrase, write_phrase
from compact_hf.scenes.program import Program, compute_answer, needed_capabilities
from compact_hf.scenes.scene import Scene
from compact_hf.scenes.search import find_combinations, find_program

# The values of `Program.count` that searches try.
_NUMBER_WORDS: Final = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True, slots=True)
class Template:
    """One wording of a question.

    Attributes:
        query (`str`): the capability that is queried.
        text (`str`): the question, with `{np}` for a phrase such as "the red kite" or `{nps}` for "red kites", `{o}`
            for the noun of another thing, and `{n}` for a number word.
        categories (`tuple[str, ...]`, *optional*, defaults to all): the categories of nouns for which the wording is
            idiomatic.
        aspect (`str`, *optional*, defaults to ""): as in `Program`.
        unconstrained_only (`bool`, *optional*, defaults to False): whether the noun must not have constraints.
    """

    query: str
    text: str
    categories: tuple[Category, ...] = CATEGORIES
    aspect: str = ""
    unconstrained_only: bool = False

    def can_express(self, program: Program) -> bool:
        """Return whether the template can express `program`."""
        return (
            self.query == program.query
            and self.aspect == program.aspect
            and ("{n}" in self.text) == bool(program.count)
            and not (self.unconstrained_only and program.constraints)
            and (self.query == "scene_understanding" or get_category(program.noun) in self.categories)
        )


_NON_PERSONS: Final[tuple[Category, ...]] = ("object", "animal")
_ACTORS: Final[tuple[Category, ...]] = ("person", "animal")

# `read_question` tries the templates in this order, so one that also matches the beginning of another comes later.
TEMPLATES: Final = (
    Template("scene_understanding", "What kind of place is this?"),
    Template("scene_understanding", "In what kind of place is this scene set?"),
    Template("scene_understanding", "Where does this scene take place?"),
    Template("scene_understanding", "What sort of place does the picture show?"),
    Template("color", "What color are the clothes of {np}?", ("person",)),
    Template("color", "Which color does {np} wear?", ("person",)),
    Template("color", "What color is the clothing of {np}?", ("person",)),
    Template("color", "What is the color of {np}?", _NON_PERSONS),
    Template("color", "Which color is {np}?", _NON_PERSONS),
    Template("color", "What color is {np}?", _NON_PERSONS),
    Template("shape", "What shape is the badge worn by {np}?", _ACTORS),
    Template("shape", "What shape is the badge of {np}?", _ACTORS),
    Template("shape", "What is the shape of the badge of {np}?", _ACTORS),
    Template("shape", "What is the shape of {np}?", ("object",)),
    Template("shape", "What shape does {np} have?", ("object",)),
    Template("shape", "What shape is {np}?", ("object",)),
    Template("text_recognition", "What does the badge of {np} say?", _ACTORS),
    Template("text_recognition", "What word is on the badge of {np}?", _ACTORS),
    Template("text_recognition", "Which word can be read on the badge worn by {np}?", _ACTORS),
    Template("text_recognition", "What does {np} say?", ("object",)),
    Template("text_recognition", "What word is on {np}?", ("object",)),
    Template("text_recognition", "Which word can be read on {np}?", ("object",)),
    Template("action_recognition", "What is {np} doing?", _ACTORS),
    Template("action_recognition", "What is {np} busy doing?", _ACTORS),
    Template("action_recognition", "What can {np} be seen doing?", _ACTORS),
    Template("object_interaction", "What is someone doing to {np}?"),
    Template("object_interaction", "What is a person doing to {np}?"),
    Template("object_interaction", "What can someone be seen doing to {np}?"),
    Template("object_recognition", "Of which kind are exactly {n} of the {nps}?"),
    Template("object_recognition", "To which kind do exactly {n} of the {nps} belong?"),
    Template("object_recognition", "What are exactly {n} of the {nps}?", ("object",)),
    Template("object_recognition", "What kind of thing is {np}?", ("object",)),
    Template("object_recognition", "What sort of creature is {np}?", ("animal",)),
    Template("object_recognition", "Which species is {np}?", ("animal",)),
    Template("object_recognition", "Who is {np}?", ("person",)),
    Template("object_recognition", "What is {np}?", _NON_PERSONS),
    Template("spatial_recognition", "In which plane of the picture is {np}?", aspect="depth"),
    Template("spatial_recognition", "At what depth of the scene is {np}?", aspect="depth"),
    Template("spatial_recognition", "On which side of the picture is {np}?", aspect="side"),
    Template("spatial_recognition", "In which half of the picture is {np}?", aspect="side"),
    Template("spatial_recognition", "In which formation are the {nps} laid out?", aspect="arrangement"),
    Template("spatial_recognition", "What kind of arrangement do the {nps} form?", aspect="arrangement"),
    Template("spatial_recognition", "What pattern do the {nps} form?", aspect="arrangement"),
    Template("spatial_relationship", "On which side of the {o} is {np}?"),
    Template("spatial_relationship", "To which side of the {o} is {np}?"),
    Template("spatial_relationship", "Seen from the viewer, on which side of the {o} is {np}?"),
    Template("counting", "How many {nps} does the picture show?"),
    Template("counting", "How many {nps} can be seen?"),
    Template("counting", "How many {nps} are there?"),
    Template("counting", "What is the number of {nps}?"),
)


def write_question(program: Program, rng: random.Random) -> str:
    """Return `program` as a question in a random wording.

    Args:
        program (`Program`): the meaning of the question.
        rng (`random.Random`): draws the wording.
    """
    # Adding or removing a template changes the draws, and thus the questions that seeds give.
    template = rng.choice([template for template in TEMPLATES if template.can_express(program)])
    slots = {"o": program.other_noun, "n": _NUMBER_WORDS.get(program.count, "")}
    if "{np}" in template.text:
        slots["np"] = write_phrase(program.noun, program.constraints, rng, plural=False)
    if "{nps}" in template.text:
        slots["nps"] = write_phrase(program.noun, program.constraints, rng, plural=True)
    return template.text.format(**slots)


def read_question(question: str) -> Program | None:
    """Return the meaning of a question, or None if it is not a question that `write_question` writes."""
    for template, pattern in _patterns():
        match = pattern.fullmatch(question.strip())
        if match is None:
            continue
        slots = match.groupdict()
        if template.query == "scene_understanding":
            return Program(template.query, "place")
        # A phrase that cannot be parsed may still fit a later template.
        phrase = read_phrase(slots.get("np") or slots["nps"])
        if phrase is not None:
            count = next((number for number, word in _NUMBER_WORDS.items() if word == slots.get("n")), 0)
            return Program(template.query, *phrase, template.aspect, slots.get("o") or "", count)
    return None


@cache
def _patterns() -> list[tuple[Template, re.Pattern[str]]]:
    """Return each template with a regular expression that has a named group for each of its slots."""
    slots = {
        # Phrases are only delimited here; `read_phrase` parses them.
        "np": "(?P<np>the .+)",
        "nps": "(?P<nps>.+)",
        "o": f"(?P<o>{'|'.join(KINDS)})",
        "n": f"(?P<n>{'|'.join(_NUMBER_WORDS.values())})",
    }
    compiled = []
    for template in TEMPLATES:
        # Literal texts at even indices, names of slots at odd ones.
        pieces = re.split(r"\{(\w+)\}", template.text)
        text = "".join(slots[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces))
        compiled.append((template, re.compile(text)))
    return compiled


UNANSWERABLE = "unknown"
"""The answer of `analyze_question` if the thing that the question is about does not exist or is not unique."""


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question about a scene.

    Attributes:
        question (`str`): text of the question.
        answer (`str`): the answer.
        capabilities (`tuple[str, ...]`): the capabilities that it needs, in canonical order.
    """

    question: str
    answer: str
    capabilities: tuple[str, ...]


def supported_combinations(scene: Scene, k: int) -> tuple[tuple[str, ...], ...]:
    """Return the combinations of exactly `k` capabilities for which a question about the scene exists.

    Args:
        scene (`Scene`): the scene.
        k (`int`): number of capabilities per combination.

    Returns:
        The combinations, each in canonical order.
    """
    return find_combinations(scene, k)


def make_question(scene: Scene, capabilities: tuple[str, ...], rng: random.Random) -> SceneQuestion | None:
    """Return a question about `scene` that needs exactly `capabilities`, or None if there is no such question.

    Args:
        scene (`Scene`): the scene.
        capabilities (`tuple[str, ...]`): the capabilities in any order.
        rng (`random.Random`): draws the question and its wording.

    Raises:
        UnknownCapabilityError: a name is not one of the ten.
    """
    combination = canonicalize(capabilities)
    program = find_program(scene, combination, rng)
    if program is None:
        return None
    answer_text = compute_answer(scene, program)
    return None if answer_text is None else SceneQuestion(write_question(program, rng), answer_text, combination)


def analyze_question(scene: Scene, question: str) -> SceneQuestion | None:
    """Return the answer of a question in a scene, and the capabilities that it needs by the drop test.

    A phrase that does not change what the question refers to does not count as needed.

    Args:
        scene (`Scene`): the scene.
        question (`str`): text of the question.

    Returns:
        The question with answer and capabilities. The answer is `UNANSWERABLE` if the thing that the question is about
        does not exist or is not unique. None if it is not a question that `write_question` writes.
    """
    program = read_question(question)
    if program is None:
        return None
    return SceneQuestion(question, compute_answer(scene, program) or UNANSWERABLE, needed_capabilities(scene, program))
