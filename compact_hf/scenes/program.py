"""A question's meaning: a small program over a scene's truth.

A `Program` asks for one capability of what its constraints, one capability each, single out. `answer` evaluates
it on a scene, `needed` finds by the drop test which of its capabilities it really takes there: leave a part out,
and if the same things are referred to, the part was not needed (`capabilities.NEEDED_RULE`). The noun in "the red
dog" only points and is no part of the test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.capabilities import canonical
from compact_hf.scenes.kinds import CATEGORIES, VERBS
from compact_hf.scenes.scene import SIZE, Scene, Thing

# Whatever is closer than this to a line, or to being straight above another thing, is on neither side of it.
CLEARLY: Final = 12

BESIDE: Final = 108
"""Whatever is closer in the same row is next to a thing; neighbours never stand further apart."""


@dataclass(frozen=True, slots=True, order=True)
class Constraint:
    """One condition on a thing.

    Attributes:
        capability (`str`): what it takes to check it.
        value (`str`): a color, shape, action, word or arrangement; `foreground`, `background`, `left half`, `right
            half`; `left of`, `right of`, `next to`; `odd`; or a verb of `kinds.VERBS`, active (the thing does it to
            something) or passive (it is done to the thing).
        other (`str`): the noun of the other thing of a relation; of a passive verb, who does it, or empty.
    """

    capability: str
    value: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """What a question means.

    Attributes:
        asked (`str`): the capability that the answer takes.
        noun (`str`): a kind or a category; the things that the constraints choose from.
        constraints (`tuple[Constraint, ...]`)
        aspect (`str`): of spatial_recognition: `depth`, `side` or `arrangement`; else empty.
        other (`str`): of spatial_relationship: the noun of the thing from which the side is told; else empty.
        count (`int`): of object_recognition: asks for the one kind that so many of the things have; else 0.
    """

    asked: str
    noun: str
    constraints: tuple[Constraint, ...] = ()
    aspect: str = ""
    other: str = ""
    count: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the program claims to need, in canonical order."""
        return canonical(
            [self.asked, *(part.capability for part in self.constraints), *["counting"] * bool(self.count)]
        )


def is_a(thing: Thing, noun: str) -> bool:
    """Whether `noun` names the thing's kind or category."""
    return noun in (thing.kind, thing.what.category)


def holds(scene: Scene, thing: Thing, constraint: Constraint) -> bool:
    """Whether `thing`, one of the scene's, satisfies the constraint."""
    value = constraint.value
    match constraint.capability:
        case "color":
            return thing.color == value
        case "shape":
            return thing.shape == value
        case "action_recognition":
            return thing.action == value
        case "text_recognition":
            return thing.word == value
        case "spatial_recognition":
            return _lies(scene, thing, value)
        case "spatial_relationship":
            other = the_only(scene, constraint.other)
            return other is not None and _related(thing, value, other)
        case "object_interaction":
            return _interacts(scene, thing, value, constraint.other)
        case "scene_understanding":
            return scene.place in thing.what.odd
    raise ValueError(f"no thing can be chosen by {constraint.capability}")


def chosen(scene: Scene, noun: str, constraints: tuple[Constraint, ...]) -> list[Thing]:
    """Return the things that `noun` names and that satisfy every constraint."""
    things = [thing for thing in scene.things if is_a(thing, noun)]
    return [thing for thing in things if all(holds(scene, thing, constraint) for constraint in constraints)]


def answer(scene: Scene, program: Program) -> str | None:
    """Return the program's answer; None where what it speaks of is not there, or not exactly once."""
    if program.asked == "scene_understanding":
        return scene.place
    things = chosen(scene, program.noun, program.constraints)
    if program.asked == "counting":
        return str(len(things)) if things else None
    if program.count:
        kinds = counted(things, program.count)
        return kinds[0] if len(kinds) == 1 else None
    if program.aspect == "arrangement":
        return scene.arrangement if things and things == [thing for thing in scene.things if thing.grouped] else None
    return _of_one(scene, program, things[0]) if len(things) == 1 else None


def counted(things: list[Thing], count: int) -> list[str]:
    """Return the kinds that exactly `count` of the things have; every kind where `count` is 0."""
    kinds = Counter(thing.kind for thing in things)
    return [kind for kind, number in kinds.items() if count in (0, number)]


def needed(scene: Scene, program: Program) -> tuple[str, ...]:
    """Return the capabilities that pass the drop test in this scene, in canonical order."""
    if program.asked == "scene_understanding":
        return (program.asked,)
    full = _referents(scene, program)
    found = [program.asked]
    for i, part in enumerate(program.constraints):
        rest = replace(program, constraints=program.constraints[:i] + program.constraints[i + 1 :])
        if _referents(scene, rest) != full:
            found.append(part.capability)
    if program.count and counted(chosen(scene, program.noun, program.constraints), 0) != full:
        found.append("counting")
    return canonical(found)


def the_only(scene: Scene, noun: str) -> Thing | None:
    """Return the thing that `noun` names, if there is exactly one."""
    named = [thing for thing in scene.things if is_a(thing, noun)]
    return named[0] if len(named) == 1 else None


def side_of(thing: Thing, other: Thing) -> str:
    """Return `left` or `right`: where `thing` is, seen from `other` by the viewer; empty where it is neither."""
    if abs(thing.x - other.x) < CLEARLY:
        return ""
    return "left" if thing.x < other.x else "right"


def half_of(thing: Thing) -> str:
    """Return `left` or `right`: the half of the picture that the thing stands in; empty for the middle."""
    if abs(thing.x - SIZE // 2) < CLEARLY:
        return ""
    return "left" if thing.x < SIZE // 2 else "right"


def _referents(scene: Scene, program: Program) -> list[Thing] | list[str]:
    things = chosen(scene, program.noun, program.constraints)
    return counted(things, program.count) if program.count else things


def _related(thing: Thing, relation: str, other: Thing) -> bool:
    if relation == "next to":
        return thing is not other and thing.depth == other.depth and abs(thing.x - other.x) < BESIDE
    return side_of(thing, other) == relation.removesuffix(" of")


def _lies(scene: Scene, thing: Thing, where: str) -> bool:
    if where.endswith(" half"):
        return half_of(thing) == where.removesuffix(" half")
    return thing.depth == where or (thing.grouped and scene.arrangement == where)


def _interacts(scene: Scene, thing: Thing, verb: str, other: str) -> bool:
    if verb in VERBS:
        return thing.doing == verb
    return any(
        VERBS.get(agent.doing) == verb and scene.things[agent.target] == thing and (not other or is_a(agent, other))
        for agent in scene.things
    )


def _of_one(scene: Scene, program: Program, thing: Thing) -> str | None:
    """Return what is asked about the one thing that the constraints left."""
    match program.asked:
        case "color":
            found = thing.color
        case "shape":
            found = thing.shape
        case "action_recognition":
            found = thing.action
        case "text_recognition":
            found = thing.word
        case "object_recognition":
            found = thing.kind if program.noun in CATEGORIES else ""
        case "spatial_recognition":
            found = thing.depth if program.aspect == "depth" else half_of(thing)
        case "spatial_relationship":
            other = the_only(scene, program.other)
            found = side_of(thing, other) if other is not None else ""
        case "object_interaction":
            verbs = {
                agent.doing
                for agent in scene.things
                if agent.target >= 0 and scene.things[agent.target] == thing and is_a(agent, "person")
            }
            found = verbs.pop() if len(verbs) == 1 else ""
        case _:
            raise ValueError(f"nothing can be asked about one thing under {program.asked}")
    return found or None
