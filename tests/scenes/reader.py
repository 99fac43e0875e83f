"""Parses questions about scenes independently of the package, to check its answers.

It uses the attributes of things and the meaning of English words, but not the package's programs, phrases or templates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from compact_hf.scenes.kinds import KINDS
from compact_hf.scenes.scene import Scene

ObjectRecord = dict[str, Any]
Condition = Callable[[ObjectRecord], bool]

COLORS = "red orange yellow green blue purple pink black".split()
SHAPES = "round square triangular star-shaped heart-shaped diamond-shaped".split()
ACTIONS = "waving jumping reading sleeping sitting drinking eating singing".split()
PASSIVE_VERBS = {
    "pushed": "pushing",
    "pulled": "pulling",
    "painted": "painting",
    "photographed": "photographing",
    "fed": "feeding",
    "chased": "chasing",
}
ODD_PHRASES = ("not belong in this kind of place", "out of place", "wrong for a place", "nobody would expect")
NOUNS = {"object": "object", "objects": "object", "person": "person", "people": "person"}
NOUNS |= {"animal": "animal", "animals": "animal"}
NOUNS |= {name: kind.name for kind in KINDS.values() for name in (kind.name, kind.plural)}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
QUESTION_HEADS = (
    "the badge worn by ", "the badge of ", "the shape of ", "the color of ", "the clothes of ", "the clothing of ",
    "a person doing to ", "the number of ", "the picture show", "What kind of thing ", "What kind of arrangement ",
    "of the picture is", "depth of the scene",
)  # fmt: skip


@dataclass
class ParsedQuestion:
    """A parsed question about a scene: the things that it may be about, its conditions, and what it asks."""

    pool: list[ObjectRecord]
    conditions: dict[str, Condition]
    asked_capability: str
    extract_answer: Callable[[list[ObjectRecord]], str]
    count: int = 0

    def referents(self, *, without: str = "") -> list[str]:
        """Return the indices of the things, or the kinds, that the question without one condition refers to."""
        conditions = [condition for capability, condition in self.conditions.items() if capability != without]
        matches = [obj for obj in self.pool if all(condition(obj) for condition in conditions)]
        if not self.count:
            return [str(obj["index"]) for obj in matches]
        kind_counts = Counter(obj["kind"] for obj in matches)
        return sorted(kind for kind in kind_counts if without == "counting" or kind_counts[kind] == self.count)

    def answer(self) -> str:
        """Return the answer."""
        referents = self.referents()
        if self.count:
            return referents[0] if len(referents) == 1 else ""
        return self.extract_answer([obj for obj in self.pool if str(obj["index"]) in referents])


@lru_cache(maxsize=4)
def to_records(scene: Scene) -> tuple[ObjectRecord, ...]:
    """Return the things of a scene as plain records."""
    return tuple(
        asdict(obj) | {"index": i, "category": KINDS[obj.kind].category} for i, obj in enumerate(scene.objects)
    )


def parse_question(scene: Scene, question: str) -> ParsedQuestion:
    """Parse a question about a scene."""
    objects = list(to_records(scene))
    asked_capability, extract_answer = _parse_asked_capability(question, scene.place, scene.arrangement, objects)
    text = re.sub(r"on which side of the \w+", "", question, flags=re.I)
    text = re.sub(r"[Tt]o which side of the \w+", "", text)
    for head in QUESTION_HEADS:
        text = text.replace(head, " ")
    conditions = _parse_conditions(text, scene.place, scene.arrangement, objects)
    count = next((n for word, n in NUMBERS.items() if f"exactly {word} of" in question), 0)
    noun = _noun(text)
    pool = [obj for obj in objects if noun in (obj["kind"], obj["category"])]
    return ParsedQuestion(pool, conditions, asked_capability, extract_answer, count)


def _noun(text: str) -> str:
    return next((NOUNS[word] for word in re.findall(r"\w+", text) if word in NOUNS), "")


def _parse_conditions(text: str, place: str, arrangement: str, objects: list[ObjectRecord]) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    words = re.findall(r"[\w-]+", text)
    for word in words:
        if word in COLORS:
            conditions["color"] = lambda obj, color=word: obj["color"] == color
        if word in SHAPES:
            conditions["shape"] = lambda obj, shape=word: obj["shape"] == shape
        if word in ACTIONS:
            conditions["action_recognition"] = lambda obj, action=word: obj["action"] == action
        if word in ("foreground", "background"):
            conditions["spatial_recognition"] = lambda obj, depth=word: obj["depth"] == depth
        if word in ("row", "circle", "triangle"):
            conditions["spatial_recognition"] = lambda obj, form=word: obj["is_grouped"] and arrangement == form
    if match := re.search(r'"(\w+)"', text):
        conditions["text_recognition"] = lambda obj: obj["word"] == match[1]
    if match_half := re.search(r"(left|right) half", text):
        conditions["spatial_recognition"] = lambda obj: (obj["x"] < 168) == (match_half[1] == "left")
    if match_side := re.search(r"(left|right) of the (\w+)|next to the (\w+)", text):
        conditions["spatial_relationship"] = _relation_condition(match_side[1], match_side[2] or match_side[3], objects)
    if any(phrase in text for phrase in ODD_PHRASES):
        conditions["scene_understanding"] = lambda obj: place in KINDS[obj["kind"]].odd_places
    if interaction := _interaction_condition(text, objects):
        conditions["object_interaction"] = interaction
    return conditions


def _relation_condition(side: str | None, noun: str, objects: list[ObjectRecord]) -> Condition:
    (anchor,) = [obj for obj in objects if obj["kind"] == noun]
    if side is None:
        return lambda obj: obj is not anchor and obj["depth"] == anchor["depth"] and abs(obj["x"] - anchor["x"]) < 108
    return lambda obj: obj["x"] < anchor["x"] - 11 if side == "left" else obj["x"] > anchor["x"] + 11


def _interaction_condition(text: str, objects: list[ObjectRecord]) -> Condition | None:
    active = re.search(r"(\w+ing) (something|an animal)", text)
    if active:
        return lambda obj: obj["verb"] == active[1]
    passive = re.search(rf"being ({'|'.join(PASSIVE_VERBS)})(?: by an? (\w+))?", text)
    by_agent = re.search(rf"\ban? (\w+) is ({'|'.join(PASSIVE_VERBS.values())})", text)
    if passive:
        verb, agent = PASSIVE_VERBS[passive[1]], passive[2]
    elif by_agent:
        verb, agent = by_agent[2], by_agent[1]
    else:
        return None
    agents = [obj for obj in objects if obj["verb"] == verb and agent in (None, obj["kind"], obj["category"])]
    return lambda obj: obj["index"] in [actor["target"] for actor in agents]


def _parse_asked_capability(
    question: str, place: str, arrangement: str, objects: list[ObjectRecord]
) -> tuple[str, Callable[[list[ObjectRecord]], str]]:
    def attribute_of(name: str) -> Callable[[list[ObjectRecord]], str]:
        return lambda matches: matches[0][name] if len(matches) == 1 else ""

    if re.search(r"place is this|scene set|take place|sort of place", question):
        return "scene_understanding", lambda _: place
    if question.startswith(("How many", "What is the number")):
        return "counting", lambda matches: str(len(matches))
    if question.startswith(("In which formation", "What kind of arrangement", "What pattern")):
        return "spatial_recognition", lambda matches: arrangement if all(obj["is_grouped"] for obj in matches) else ""
    if question.startswith(("In which plane", "At what depth")):
        return "spatial_recognition", attribute_of("depth")
    if question.startswith(("On which side of the picture", "In which half")):
        return "spatial_recognition", lambda matches: "left" if matches[0]["x"] < 168 else "right"
    if match := re.search(r"[io]n? ?which side of the (\w+)", question.replace("To which", "on which"), re.I):
        (anchor,) = [obj for obj in objects if obj["kind"] == match[1]]
        return "spatial_relationship", lambda matches: "left" if matches[0]["x"] < anchor["x"] else "right"
    if question.startswith(("What color", "Which color", "What is the color")):
        return "color", attribute_of("color")
    if question.startswith(("What shape", "What is the shape")):
        return "shape", attribute_of("shape")
    if question.startswith(("What does", "What word", "Which word")):
        return "text_recognition", attribute_of("word")
    if re.match(r"What (is|can) (someone|a person) (be seen )?doing to", question):
        return "object_interaction", lambda matches: next(
            obj["verb"] for obj in objects if obj["target"] == matches[0]["index"] and obj["category"] == "person"
        )
    if re.match(r"What (is|can) the .* doing\?$", question):
        return "action_recognition", attribute_of("action")
    return "object_recognition", attribute_of("kind")
