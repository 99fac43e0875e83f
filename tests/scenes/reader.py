"""A second reader of scene questions, written apart from the package's: plain conditions over plain records.

It knows the things' attributes and what English words mean, and nothing of programs, phrases or templates.
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

Thing = dict[str, Any]
Test = Callable[[Thing], bool]

COLORS = "red orange yellow green blue purple pink black".split()
SHAPES = "round square triangular star-shaped heart-shaped diamond-shaped".split()
ACTIONS = "waving jumping reading sleeping sitting drinking eating singing".split()
DONE = {
    "pushed": "pushing",
    "pulled": "pulling",
    "painted": "painting",
    "photographed": "photographing",
    "fed": "feeding",
    "chased": "chasing",
}
ODD = ("not belong in this kind of place", "out of place", "wrong for a place", "nobody would expect")
NOUNS = {"object": "object", "objects": "object", "person": "person", "people": "person"}
NOUNS |= {"animal": "animal", "animals": "animal"}
NOUNS |= {name: kind.name for kind in KINDS.values() for name in (kind.name, kind.plural)}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
HEADS = (
    "the badge worn by ", "the badge of ", "the shape of ", "the color of ", "the clothes of ", "the clothing of ",
    "a person doing to ", "the number of ", "the picture show", "What kind of thing ", "What kind of arrangement ",
    "of the picture is", "depth of the scene",
)  # fmt: skip


@dataclass
class Reading:
    """What the question says of this scene: whom it may be about, under which conditions, and what it asks."""

    pool: list[Thing]
    tests: dict[str, Test]
    asked: str
    finish: Callable[[list[Thing]], str]
    count: int = 0

    def referents(self, *, without: str = "") -> list[str]:
        """Return what the question refers to, with one condition left out."""
        tests = [test for capability, test in self.tests.items() if capability != without]
        left = [thing for thing in self.pool if all(test(thing) for test in tests)]
        if not self.count:
            return [str(thing["index"]) for thing in left]
        numbers = Counter(thing["kind"] for thing in left)
        return sorted(kind for kind in numbers if without == "counting" or numbers[kind] == self.count)

    def answer(self) -> str:
        """Return the answer."""
        wanted = self.referents()
        if self.count:
            return wanted[0] if len(wanted) == 1 else ""
        return self.finish([thing for thing in self.pool if str(thing["index"]) in wanted])


@lru_cache(maxsize=4)
def plain(scene: Scene) -> tuple[Thing, ...]:
    """Return the scene's things as plain records."""
    return tuple(
        asdict(thing) | {"index": i, "category": KINDS[thing.kind].category} for i, thing in enumerate(scene.objects)
    )


def read(scene: Scene, question: str) -> Reading:
    """Read a question about a scene."""
    things = list(plain(scene))
    asked, finish = _asked(question, scene.place, scene.arrangement, things)
    text = re.sub(r"on which side of the \w+", "", question, flags=re.I)
    text = re.sub(r"[Tt]o which side of the \w+", "", text)
    for head in HEADS:
        text = text.replace(head, " ")
    tests = _conditions(text, scene.place, scene.arrangement, things)
    count = next((n for word, n in NUMBERS.items() if f"exactly {word} of" in question), 0)
    noun = _noun(text)
    pool = [thing for thing in things if noun in (thing["kind"], thing["category"])]
    return Reading(pool, tests, asked, finish, count)


def _noun(text: str) -> str:
    return next((NOUNS[word] for word in re.findall(r"\w+", text) if word in NOUNS), "")


def _conditions(text: str, place: str, arrangement: str, things: list[Thing]) -> dict[str, Test]:
    tests: dict[str, Test] = {}
    words = re.findall(r"[\w-]+", text)
    for word in words:
        if word in COLORS:
            tests["color"] = lambda thing, color=word: thing["color"] == color
        if word in SHAPES:
            tests["shape"] = lambda thing, shape=word: thing["shape"] == shape
        if word in ACTIONS:
            tests["action_recognition"] = lambda thing, action=word: thing["action"] == action
        if word in ("foreground", "background"):
            tests["spatial_recognition"] = lambda thing, depth=word: thing["depth"] == depth
        if word in ("row", "circle", "triangle"):
            tests["spatial_recognition"] = lambda thing, form=word: thing["is_grouped"] and arrangement == form
    if match := re.search(r'"(\w+)"', text):
        tests["text_recognition"] = lambda thing: thing["word"] == match[1]
    if match_half := re.search(r"(left|right) half", text):
        tests["spatial_recognition"] = lambda thing: (thing["x"] < 168) == (match_half[1] == "left")
    if match_side := re.search(r"(left|right) of the (\w+)|next to the (\w+)", text):
        tests["spatial_relationship"] = _beside(match_side[1], match_side[2] or match_side[3], things)
    if any(phrase in text for phrase in ODD):
        tests["scene_understanding"] = lambda thing: place in KINDS[thing["kind"]].odd_places
    if interaction := _interaction(text, things):
        tests["object_interaction"] = interaction
    return tests


def _beside(side: str | None, noun: str, things: list[Thing]) -> Test:
    (other,) = [thing for thing in things if thing["kind"] == noun]
    if side is None:
        return lambda thing: (
            thing is not other and thing["depth"] == other["depth"] and abs(thing["x"] - other["x"]) < 108
        )
    return lambda thing: thing["x"] < other["x"] - 11 if side == "left" else thing["x"] > other["x"] + 11


def _interaction(text: str, things: list[Thing]) -> Test | None:
    active = re.search(r"(\w+ing) (something|an animal)", text)
    if active:
        return lambda thing: thing["verb"] == active[1]
    passive = re.search(rf"being ({'|'.join(DONE)})(?: by an? (\w+))?", text)
    by = re.search(rf"\ban? (\w+) is ({'|'.join(DONE.values())})", text)
    if passive:
        verb, agent = DONE[passive[1]], passive[2]
    elif by:
        verb, agent = by[2], by[1]
    else:
        return None
    agents = [thing for thing in things if thing["verb"] == verb and agent in (None, thing["kind"], thing["category"])]
    return lambda thing: thing["index"] in [one["target"] for one in agents]


def _asked(
    question: str, place: str, arrangement: str, things: list[Thing]
) -> tuple[str, Callable[[list[Thing]], str]]:
    def of_one(name: str) -> Callable[[list[Thing]], str]:
        return lambda left: left[0][name] if len(left) == 1 else ""

    if re.search(r"place is this|scene set|take place|sort of place", question):
        return "scene_understanding", lambda _: place
    if question.startswith(("How many", "What is the number")):
        return "counting", lambda left: str(len(left))
    if question.startswith(("In which formation", "What kind of arrangement", "What pattern")):
        return "spatial_recognition", lambda left: arrangement if all(thing["is_grouped"] for thing in left) else ""
    if question.startswith(("In which plane", "At what depth")):
        return "spatial_recognition", of_one("depth")
    if question.startswith(("On which side of the picture", "In which half")):
        return "spatial_recognition", lambda left: "left" if left[0]["x"] < 168 else "right"
    if match := re.search(r"[io]n? ?which side of the (\w+)", question.replace("To which", "on which"), re.I):
        (other,) = [thing for thing in things if thing["kind"] == match[1]]
        return "spatial_relationship", lambda left: "left" if left[0]["x"] < other["x"] else "right"
    if question.startswith(("What color", "Which color", "What is the color")):
        return "color", of_one("color")
    if question.startswith(("What shape", "What is the shape")):
        return "shape", of_one("shape")
    if question.startswith(("What does", "What word", "Which word")):
        return "text_recognition", of_one("word")
    if re.match(r"What (is|can) (someone|a person) (be seen )?doing to", question):
        return "object_interaction", lambda left: next(
            thing["verb"] for thing in things if thing["target"] == left[0]["index"] and thing["category"] == "person"
        )
    if re.match(r"What (is|can) the .* doing\?$", question):
        return "action_recognition", of_one("action")
    return "object_recognition", of_one("kind")
