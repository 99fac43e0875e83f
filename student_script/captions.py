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
from compact_hf.scenes.phrases import write
from compact_hf.scenes.program import Constraint, half_of
from compact_hf.scenes.scene import Scene, Thing
from compact_hf.scenes.search import facts

Exchange = tuple[str, str]
"""A request, and the description it asks for."""

WHOLE: Final = "Describe the picture."
PLACE: Final = "Describe the place."
_PARTS: Final = 3
_CONSTRAINTS: Final = (0, 1, 1, 2)
"""How many constraints a part's request has, each number as often as it stands here."""
_NOT_SAID: Final = frozenset({"counting", "object_recognition"})
"""Capabilities that no phrase about a thing needs."""


def conversation(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return the exchanges about one picture, drawn by `rng`: one about the whole, or three about parts of it."""
    if rng.random() < 0.5:
        return [(WHOLE, whole(scene))]
    return [part(scene, rng) for _ in range(_PARTS)]


def glance(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return two short exchanges about one picture, of its place and of a part: little to say without looking."""
    return [(PLACE, f"{_place(scene)}."), part(scene, rng)]


def whole(scene: Scene) -> str:
    """Return the place and every thing in it, the background first, each row from left to right."""
    arranged = f"; in a {scene.arrangement}" if scene.arrangement else ""
    return f"{_place(scene)}: {_listed(scene, scene.things)}{arranged}."


def part(scene: Scene, rng: random.Random) -> Exchange:
    """Return the request for some of the things, and their description."""
    known = facts(scene)
    noun, mask = rng.choice(list(known.nouns.items()))
    constraints: list[Constraint] = []
    sayable = [name for name in CAPABILITIES if name not in _NOT_SAID and known.parts[name]]
    for capability in rng.sample(sayable, min(rng.choice(_CONSTRAINTS), len(sayable))):
        fitting = [(constraint, of) for constraint, of in known.parts[capability] if of & mask]
        if fitting:
            constraint, of = rng.choice(fitting)
            constraints.append(constraint)
            mask &= of
    meant = [thing for i, thing in enumerate(scene.things) if mask >> i & 1]
    return f"Describe the {write(noun, tuple(constraints), rng, plural=True)}.", f"{_listed(scene, meant)}."


def _place(scene: Scene) -> str:
    return f"{scene.place} at night" if scene.night else scene.place


def _listed(scene: Scene, things: Sequence[Thing]) -> str:
    ordered = sorted(things, key=lambda thing: (thing.depth, thing.x))
    return "; ".join(_phrase(scene, thing) for thing in ordered)


def _phrase(scene: Scene, thing: Thing) -> str:
    suffered = [VERBS[one.doing] for one in scene.things if one.doing and scene.things[one.target] is thing]
    misplaced = "misplaced" if scene.place in thing.what.odd else ""
    said = (half_of(thing) or "middle", thing.depth, thing.color, thing.kind, thing.shape, thing.word)
    return " ".join(filter(None, (*said, thing.action or thing.doing, *dict.fromkeys(suffered), misplaced)))
