"""Writes the conversations for alignment, which describe drawn scenes.

A scene is described as a whole or in parts: "Describe the red kites in the background." Every object gets one short
phrase whose words are always in the same order, because the model has not learned English before: side and plane,
color, kind, shape, word, action, what is done to it, and whether it is misplaced. Requests for parts use the grammar of
the scenes' questions. Alignment conversations contain no questions and no answers.
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
"""(request, description)."""

SCENE_REQUEST: Final = "Describe the picture."
PLACE_REQUEST: Final = "Describe the place."
_PART_COUNT: Final = 3
_CONSTRAINT_COUNTS: Final = (0, 1, 1, 2)
"""Numbers of constraints in a request for a part, from which one is chosen at random: 1 is twice as likely."""
_UNSPOKEN_CAPABILITIES: Final = frozenset({"counting", "object_recognition"})
"""Capabilities without constraints in a phrase."""


def conversation(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return a conversation about one image: one exchange about the whole scene, or three about parts of it.

    Args:
        scene (`Scene`): the scene in the image.
        rng (`random.Random`): chooses the requests.
    """
    if rng.random() < 0.5:
        return [(SCENE_REQUEST, describe_scene(scene))]
    return [describe_part(scene, rng) for _ in range(_PART_COUNT)]


def glance(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return a short conversation about one image: its place, and one part of it.

    Short descriptions are hard to predict from the text alone, so the model has to learn to use the image.

    Args:
        scene (`Scene`): the scene in the image.
        rng (`random.Random`): chooses the request.
    """
    return [(PLACE_REQUEST, f"{_describe_place(scene)}."), describe_part(scene, rng)]


def describe_scene(scene: Scene) -> str:
    """Return a description of the place and all objects, background first, each plane from left to right.

    Args:
        scene (`Scene`): the scene in the image.
    """
    arranged = f"; in a {scene.arrangement}" if scene.arrangement else ""
    return f"{_describe_place(scene)}: {_list_objects(scene, scene.objects)}{arranged}."


def describe_part(scene: Scene, rng: random.Random) -> Exchange:
    """Return a request for a description of some objects, and the description.

    Args:
        scene (`Scene`): the scene in the image.
        rng (`random.Random`): chooses the objects.
    """
    scene_facts = index_scene(scene)
    # Objects are bits of a mask. Each constraint narrows it down, but never to nothing.
    noun, mask = rng.choice(list(scene_facts.nouns.items()))
    constraints: list[Constraint] = []
    capabilities = [
        name for name in CAPABILITIES if name not in _UNSPOKEN_CAPABILITIES and scene_facts.constraints[name]
    ]
    for capability in rng.sample(capabilities, min(rng.choice(_CONSTRAINT_COUNTS), len(capabilities))):
        candidates = [
            (constraint, matches) for constraint, matches in scene_facts.constraints[capability] if matches & mask
        ]
        # A capability is left out if each of its constraints would exclude all remaining objects.
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
    # In alphabetical order, "background" precedes "foreground".
    ordered = sorted(objects, key=lambda obj: (obj.depth, obj.x))
    return "; ".join(_phrase(scene, obj) for obj in ordered)


def _phrase(scene: Scene, obj: SceneObject) -> str:
    """Return the phrase about one object, with its words in the fixed order."""
    passive_verbs = [VERBS[actor.verb] for actor in scene.objects if actor.verb and scene.objects[actor.target] is obj]
    misplaced = "misplaced" if scene.place in obj.kind_info.odd_places else ""
    # Several actors may do the same thing to an object; `dict.fromkeys` keeps the verb once.
    words = (get_half(obj) or "middle", obj.depth, obj.color, obj.kind, obj.shape, obj.word)
    return " ".join(filter(None, (*words, obj.action or obj.verb, *dict.fromkeys(passive_verbs), misplaced)))
