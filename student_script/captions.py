"""What the student reads before it is asked anything: a scene in, a conversation that describes it out.

A scene is described as a whole, or in parts: "Describe the red kites in the background." Each thing has one compact
phrase, always in the same order, because a model this small has no English yet: side and plane, color, kind, shape,
word, what it does, what is done to it, whether it is out of place. Which things a request means is worked out by the
grammar that the scenes' questions are made of; there is no question in an alignment conversation, and no answer to one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.kinds import VERBS
from compact_hf.scenes.phrases import write_phrase
from compact_hf.scenes.program import Constraint, get_half
from compact_hf.scenes.scene import Scene, SceneObject
from compact_hf.scenes.search import index_scene

Exchange = tuple[str, str]
"""A request, and the description it asks for."""

SCENE_REQUEST: Final = "Describe the picture."
PLACE_REQUEST: Final = "Describe the place."
_PART_COUNT: Final = 3
_CONSTRAINT_COUNTS: Final = (0, 1, 1, 2)
"""How many constraints a part's request has, each number as often as it stands here."""
_UNSPOKEN_CAPABILITIES: Final = frozenset({"counting", "object_recognition"})
"""Capabilities that no phrase about a thing needs."""


def conversation(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return the exchanges about one image, drawn by `rng`: one about the whole, or three about parts of it."""
    if rng.random() < 0.5:
        return [(SCENE_REQUEST, describe_scene(scene))]
    return [describe_part(scene, rng) for _ in range(_PART_COUNT)]


def glance(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return two short exchanges about one image, of its place and of a part: little to say without looking."""
    return [(PLACE_REQUEST, f"{_describe_place(scene)}."), describe_part(scene, rng)]


def describe_scene(scene: Scene) -> str:
    """Return the place and every thing in it, the background first, each row from left to right."""
    arranged = f"; in a {scene.arrangement}" if scene.arrangement else ""
    return f"{_describe_place(scene)}: {_list_objects(scene, scene.objects)}{arranged}."


def describe_part(scene: Scene, rng: random.Random) -> Exchange:
    """Return the request for some of the things, and their description."""
    scene_facts = index_scene(scene)
    noun, mask = rng.choice(list(scene_facts.nouns.items()))
    constraints: list[Constraint] = []
    capabilities = [
        name for name in CAPABILITIES if name not in _UNSPOKEN_CAPABILITIES and scene_facts.constraints[name]
    ]
    for capability in rng.sample(capabilities, min(rng.choice(_CONSTRAINT_COUNTS), len(capabilities))):
        candidates = [
            (constraint, matches) for constraint, matches in scene_facts.constraints[capability] if matches & mask
        ]
        if candidates:
            constraint, matches = rng.choice(candidates)
            constraints.append(constraint)
            mask &= matches
    selected = [obj for i, obj in enumerate(scene.objects) if mask >> i & 1]
    return (
        f"Describe the {write_phrase(noun, tuple(constraints), rng, plural=True)}.",
        f"{_list_objects(scene, selected)}.",
    )


def _describe_place(scene: Scene) -> str:
    return f"{scene.place} at night" if scene.night else scene.place


def _list_objects(scene: Scene, objects: Sequence[SceneObject]) -> str:
    ordered = sorted(objects, key=lambda obj: (obj.depth, obj.x))
    return "; ".join(_phrase(scene, obj) for obj in ordered)


def _phrase(scene: Scene, obj: SceneObject) -> str:
    passive_verbs = [VERBS[actor.verb] for actor in scene.objects if actor.verb and scene.objects[actor.target] is obj]
    misplaced = "misplaced" if scene.place in obj.kind_info.odd_places else ""
    words = (get_half(obj) or "middle", obj.depth, obj.color, obj.kind, obj.shape, obj.word)
    return " ".join(filter(None, (*words, obj.action or obj.verb, *dict.fromkeys(passive_verbs), misplaced)))
