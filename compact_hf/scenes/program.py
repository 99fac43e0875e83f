"""Represents the meaning of a question as a small program, and evaluates it on the ground truth of a scene.

A `Program` selects things by constraints, each of which needs one capability, and queries one capability of them.
`compute_answer` evaluates it on a scene. `needed_capabilities` applies the drop test (`capabilities.NEEDED_RULE`): if
the program without a constraint refers to the same things, that constraint is not needed. The noun in "the red dog" is
not a constraint and is never dropped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.capabilities import canonicalize
from compact_hf.scenes.kinds import CATEGORIES, VERBS
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

# Pixels. A thing closer than this to the middle line of the image, or to the x of another thing, is on neither side.
MIN_OFFSET: Final = 12

NEXT_TO_DISTANCE: Final = 108
"""Pixels. Things of the same row that are closer than this are next to each other; adjacent columns always are."""


@dataclass(frozen=True, slots=True, order=True)
class Constraint:
    """One condition that a thing must satisfy.

    Attributes:
        capability (`str`): the capability needed to check the condition.
        value (`str`): a color, shape, action, word or arrangement; `foreground`, `background`, `left half`, `right
            half`; `left of`, `right of`, `next to`; `odd`; or a verb of `kinds.VERBS`, active (the thing does it to
            something) or passive (it is done to the thing).
        other_noun (`str`, *optional*, defaults to ""): noun of the other thing of a spatial relation, or the agent of a
            passive verb.
    """

    capability: str
    value: str
    other_noun: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """The meaning of a question.

    Attributes:
        query (`str`): the capability that is queried; the answer is its value.
        noun (`str`): a kind or a category; the constraints select from the things it names.
        constraints (`tuple[Constraint, ...]`, *optional*, defaults to ()): the conditions, all of which must hold.
        aspect (`str`, *optional*, defaults to ""): for spatial_recognition: `depth`, `side` or `arrangement`.
        other_noun (`str`, *optional*, defaults to ""): for spatial_relationship: the thing relative to which the side
            is given.
        count (`int`, *optional*, defaults to 0): for object_recognition: if not 0, the question asks for the only kind
            of which exactly `count` things are selected.
    """

    query: str
    noun: str
    constraints: tuple[Constraint, ...] = ()
    aspect: str = ""
    other_noun: str = ""
    count: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The capabilities of the query and all constraints, in canonical order."""
        return canonicalize(
            [self.query, *(constraint.capability for constraint in self.constraints), *["counting"] * bool(self.count)]
        )


def is_a(obj: SceneObject, noun: str) -> bool:
    """Return whether `noun` is the thing's kind or category."""
    return noun in (obj.kind, obj.kind_info.category)


def satisfies(scene: Scene, obj: SceneObject, constraint: Constraint) -> bool:
    """Return whether a thing of the scene satisfies a constraint.

    Args:
        scene (`Scene`): the scene.
        obj (`SceneObject`): one of `scene.objects`.
        constraint (`Constraint`): the condition to check.

    Raises:
        ValueError: the capability of the constraint cannot select things.
    """
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
    raise ValueError(f"{constraint.capability} cannot be a constraint: use another capability")


def select_objects(scene: Scene, noun: str, constraints: tuple[Constraint, ...]) -> list[SceneObject]:
    """Return the things that `noun` names and that satisfy all constraints.

    Args:
        scene (`Scene`): the scene.
        noun (`str`): the name of a kind or category.
        constraints (`tuple[Constraint, ...]`): the conditions.
    """
    objects = [obj for obj in scene.objects if is_a(obj, noun)]
    return [obj for obj in objects if all(satisfies(scene, obj, constraint) for constraint in constraints)]


def compute_answer(scene: Scene, program: Program) -> str | None:
    """Return the answer of a program in a scene.

    Args:
        scene (`Scene`): the scene.
        program (`Program`): the meaning of the question.

    Returns:
        The answer, or None if the thing that the question is about does not exist or is not unique.
    """
    if program.query == "scene_understanding":
        return scene.place
    objects = select_objects(scene, program.noun, program.constraints)
    if program.query == "counting":
        return str(len(objects)) if objects else None
    if program.count:
        # The answer must be the only kind with this count.
        kinds = kinds_with_count(objects, program.count)
        return kinds[0] if len(kinds) == 1 else None
    if program.aspect == "arrangement":
        # The question must be about all grouped things, and about no others.
        return scene.arrangement if objects and objects == [obj for obj in scene.objects if obj.is_grouped] else None
    # All other queries are about one thing; none or several have no answer.
    return _query_object(scene, program, objects[0]) if len(objects) == 1 else None


def kinds_with_count(objects: list[SceneObject], count: int) -> list[str]:
    """Return the kinds of which there are exactly `count` things.

    Args:
        objects (`list[SceneObject]`): the things.
        count (`int`): the number of things; 0 for all kinds.
    """
    kinds = Counter(obj.kind for obj in objects)
    return [kind for kind, number in kinds.items() if count in (0, number)]


def needed_capabilities(scene: Scene, program: Program) -> tuple[str, ...]:
    """Return the capabilities of a program that pass the drop test in a scene, in canonical order.

    Args:
        scene (`Scene`): the scene.
        program (`Program`): the meaning of the question.
    """
    if program.query == "scene_understanding":
        return (program.query,)
    referents = _referents(scene, program)
    names = [program.query]
    for i, constraint in enumerate(program.constraints):
        # Drop test: is anything else referred to without this constraint?
        reduced = replace(program, constraints=program.constraints[:i] + program.constraints[i + 1 :])
        if _referents(scene, reduced) != referents:
            names.append(constraint.capability)
    # Counting is needed if some of the selected kinds do not have this count.
    if program.count and kinds_with_count(select_objects(scene, program.noun, program.constraints), 0) != referents:
        names.append("counting")
    return canonicalize(names)


def find_unique(scene: Scene, noun: str) -> SceneObject | None:
    """Return the only thing that `noun` names, or None if there is none or several."""
    matches = [obj for obj in scene.objects if is_a(obj, noun)]
    return matches[0] if len(matches) == 1 else None


def get_side(obj: SceneObject, anchor: SceneObject) -> str:
    """Return the side of `anchor` on which the viewer sees `obj`: `left`, `right`, or empty if neither is clear."""
    if abs(obj.x - anchor.x) < MIN_OFFSET:
        return ""
    return "left" if obj.x < anchor.x else "right"


def get_half(obj: SceneObject) -> str:
    """Return the half of the image that contains the thing: `left`, `right`, or empty for the middle."""
    if abs(obj.x - SIZE // 2) < MIN_OFFSET:
        return ""
    return "left" if obj.x < SIZE // 2 else "right"


def _referents(scene: Scene, program: Program) -> list[SceneObject] | list[str]:
    """Return what the program refers to: the selected things, or the kinds of which there are `count`."""
    objects = select_objects(scene, program.noun, program.constraints)
    return kinds_with_count(objects, program.count) if program.count else objects


def _is_related(obj: SceneObject, relation: str, anchor: SceneObject) -> bool:
    """Return whether `obj` is `left of`, `right of` or `next to` the anchor."""
    if relation == "next to":
        return obj is not anchor and obj.depth == anchor.depth and abs(obj.x - anchor.x) < NEXT_TO_DISTANCE
    return get_side(obj, anchor) == relation.removesuffix(" of")


def _is_located(scene: Scene, obj: SceneObject, position: str) -> bool:
    """Return whether `obj` is in a half of the image, at a depth, or part of an arrangement."""
    if position.endswith(" half"):
        return get_half(obj) == position.removesuffix(" half")
    return obj.depth == position or (obj.is_grouped and scene.arrangement == position)


def _interacts(scene: Scene, obj: SceneObject, verb: str, agent_noun: str) -> bool:
    """Return whether `obj` is the agent of an active verb, or the target of a passive one, by `agent_noun` if given."""
    # An active verb; passive ones are the values of VERBS.
    if verb in VERBS:
        return obj.verb == verb
    return any(
        VERBS.get(agent.verb) == verb
        and scene.objects[agent.target] == obj
        and (not agent_noun or is_a(agent, agent_noun))
        for agent in scene.objects
    )


def _query_object(scene: Scene, program: Program, obj: SceneObject) -> str | None:
    """Return the value of the queried capability for the only selected thing, or None if it has none."""
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
            # A noun that is a kind would already name the answer.
            value = obj.kind if program.noun in CATEGORIES else ""
        case "spatial_recognition":
            value = obj.depth if program.aspect == "depth" else get_half(obj)
        case "spatial_relationship":
            anchor = find_unique(scene, program.other_noun)
            value = get_side(obj, anchor) if anchor is not None else ""
        case "object_interaction":
            # Only persons count, because the questions ask what someone is doing. Several verbs are no single answer.
            verbs = {
                agent.verb
                for agent in scene.objects
                if agent.target >= 0 and scene.objects[agent.target] == obj and is_a(agent, "person")
            }
            value = verbs.pop() if len(verbs) == 1 else ""
        case _:
            raise ValueError(f"{program.query} cannot be queried of a single thing: use another capability")
    return value or None
