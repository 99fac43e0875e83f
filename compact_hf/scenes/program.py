"""A question's meaning: a small program over a scene's truth.

A `Program` asks for one capability of what its constraints, one capability each, single out. `compute_answer`
evaluates it on a scene, `needed_capabilities` finds by the drop test which capabilities it really takes: leave a part
out, and if the same things are referred to, the part was not needed (`capabilities.NEEDED_RULE`). The noun in "the red
dog" only points and is no part of the test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.capabilities import canonicalize
from compact_hf.scenes.kinds import CATEGORIES, VERBS
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

# Whatever is closer than this to a line, or to being straight above another thing, is on neither side of it.
MIN_OFFSET: Final = 12

NEXT_TO_DISTANCE: Final = 108
"""Whatever is closer in the same row is next to a thing; neighbours never stand further apart."""


@dataclass(frozen=True, slots=True, order=True)
class Constraint:
    """One condition on a thing.

    Attributes:
        capability (`str`): what it takes to check it.
        value (`str`): a color, shape, action, word or arrangement; `foreground`, `background`, `left half`, `right
            half`; `left of`, `right of`, `next to`; `odd`; or a verb of `kinds.VERBS`, active (the thing does it to
            something) or passive (it is done to the thing).
        other_noun (`str`): the noun of the other thing of a relation; of a passive verb, who does it, or empty.
    """

    capability: str
    value: str
    other_noun: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """What a question means.

    Attributes:
        query (`str`): the capability that the answer takes.
        noun (`str`): a kind or a category; the things that the constraints choose from.
        constraints (`tuple[Constraint, ...]`)
        aspect (`str`): of spatial_recognition: `depth`, `side` or `arrangement`; else empty.
        other_noun (`str`): of spatial_relationship: the noun of the thing from which the side is told; else empty.
        count (`int`): of object_recognition: asks for the one kind that so many of the things have; else 0.
    """

    query: str
    noun: str
    constraints: tuple[Constraint, ...] = ()
    aspect: str = ""
    other_noun: str = ""
    count: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the program claims to need, in canonical order."""
        return canonicalize(
            [self.query, *(constraint.capability for constraint in self.constraints), *["counting"] * bool(self.count)]
        )


def is_a(obj: SceneObject, noun: str) -> bool:
    """Whether `noun` names the thing's kind or category."""
    return noun in (obj.kind, obj.kind_info.category)


def satisfies(scene: Scene, obj: SceneObject, constraint: Constraint) -> bool:
    """Whether `obj`, one of the scene's, satisfies the constraint."""
    value = constraint.value
    match constraint.capability:
        case "color":
            return obj.color == value
        case "shape":
            return obj.shape == value
        case "action_recognition":
            return obj.action == value
        case "text_recognition":
            return obj.word == value
        case "spatial_recognition":
            return _is_located(scene, obj, value)
        case "spatial_relationship":
            anchor = find_unique(scene, constraint.other_noun)
            return anchor is not None and _is_related(obj, value, anchor)
        case "object_interaction":
            return _interacts(scene, obj, value, constraint.other_noun)
        case "scene_understanding":
            return scene.place in obj.kind_info.odd_places
    raise ValueError(f"no thing can be chosen by {constraint.capability}")


def select_objects(scene: Scene, noun: str, constraints: tuple[Constraint, ...]) -> list[SceneObject]:
    """Return the things that `noun` names and that satisfy every constraint."""
    objects = [obj for obj in scene.objects if is_a(obj, noun)]
    return [obj for obj in objects if all(satisfies(scene, obj, constraint) for constraint in constraints)]


def compute_answer(scene: Scene, program: Program) -> str | None:
    """Return the program's answer; None where what it speaks of is not there, or not exactly once."""
    if program.query == "scene_understanding":
        return scene.place
    objects = select_objects(scene, program.noun, program.constraints)
    if program.query == "counting":
        return str(len(objects)) if objects else None
    if program.count:
        kinds = kinds_with_count(objects, program.count)
        return kinds[0] if len(kinds) == 1 else None
    if program.aspect == "arrangement":
        return scene.arrangement if objects and objects == [obj for obj in scene.objects if obj.is_grouped] else None
    return _query_object(scene, program, objects[0]) if len(objects) == 1 else None


def kinds_with_count(objects: list[SceneObject], count: int) -> list[str]:
    """Return the kinds that exactly `count` of the things have; every kind where `count` is 0."""
    kinds = Counter(obj.kind for obj in objects)
    return [kind for kind, number in kinds.items() if count in (0, number)]


def needed_capabilities(scene: Scene, program: Program) -> tuple[str, ...]:
    """Return the capabilities that pass the drop test in this scene, in canonical order."""
    if program.query == "scene_understanding":
        return (program.query,)
    referents = _referents(scene, program)
    names = [program.query]
    for i, constraint in enumerate(program.constraints):
        reduced = replace(program, constraints=program.constraints[:i] + program.constraints[i + 1 :])
        if _referents(scene, reduced) != referents:
            names.append(constraint.capability)
    if program.count and kinds_with_count(select_objects(scene, program.noun, program.constraints), 0) != referents:
        names.append("counting")
    return canonicalize(names)


def find_unique(scene: Scene, noun: str) -> SceneObject | None:
    """Return the thing that `noun` names, if there is exactly one."""
    matches = [obj for obj in scene.objects if is_a(obj, noun)]
    return matches[0] if len(matches) == 1 else None


def get_side(obj: SceneObject, anchor: SceneObject) -> str:
    """Return `left` or `right`: where `obj` is, seen from `anchor` by the viewer; empty where it is neither."""
    if abs(obj.x - anchor.x) < MIN_OFFSET:
        return ""
    return "left" if obj.x < anchor.x else "right"


def get_half(obj: SceneObject) -> str:
    """Return `left` or `right`: the half of the image that the thing stands in; empty for the middle."""
    if abs(obj.x - SIZE // 2) < MIN_OFFSET:
        return ""
    return "left" if obj.x < SIZE // 2 else "right"


def _referents(scene: Scene, program: Program) -> list[SceneObject] | list[str]:
    objects = select_objects(scene, program.noun, program.constraints)
    return kinds_with_count(objects, program.count) if program.count else objects


def _is_related(obj: SceneObject, relation: str, anchor: SceneObject) -> bool:
    if relation == "next to":
        return obj is not anchor and obj.depth == anchor.depth and abs(obj.x - anchor.x) < NEXT_TO_DISTANCE
    return get_side(obj, anchor) == relation.removesuffix(" of")


def _is_located(scene: Scene, obj: SceneObject, position: str) -> bool:
    if position.endswith(" half"):
        return get_half(obj) == position.removesuffix(" half")
    return obj.depth == position or (obj.is_grouped and scene.arrangement == position)


def _interacts(scene: Scene, obj: SceneObject, verb: str, agent_noun: str) -> bool:
    if verb in VERBS:
        return obj.verb == verb
    return any(
        VERBS.get(agent.verb) == verb
        and scene.objects[agent.target] == obj
        and (not agent_noun or is_a(agent, agent_noun))
        for agent in scene.objects
    )


def _query_object(scene: Scene, program: Program, obj: SceneObject) -> str | None:
    """Return what is asked about the one thing that the constraints left."""
    match program.query:
        case "color":
            value = obj.color
        case "shape":
            value = obj.shape
        case "action_recognition":
            value = obj.action
        case "text_recognition":
            value = obj.word
        case "object_recognition":
            value = obj.kind if program.noun in CATEGORIES else ""
        case "spatial_recognition":
            value = obj.depth if program.aspect == "depth" else get_half(obj)
        case "spatial_relationship":
            anchor = find_unique(scene, program.other_noun)
            value = get_side(obj, anchor) if anchor is not None else ""
        case "object_interaction":
            verbs = {
                agent.verb
                for agent in scene.objects
                if agent.target >= 0 and scene.objects[agent.target] == obj and is_a(agent, "person")
            }
            value = verbs.pop() if len(verbs) == 1 else ""
        case _:
            raise ValueError(f"nothing can be asked about one thing under {program.query}")
    return value or None
