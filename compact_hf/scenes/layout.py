"""How a scene is drawn by lot: who stands where, in what color, doing what to whom.

In: a seed. Out: a `Scene`. Every scene keeps to few colors, shapes, words and actions, so that one attribute
rarely singles a thing out and questions of several constraints have near misses to rule out. All attributes are
drawn independently of each other and of the kind: text alone must not give an answer away.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Final, Literal

from compact_hf.scenes.kinds import (
    ACTIONS,
    ARRANGEMENTS,
    COLORS,
    INDOORS,
    KINDS,
    PLACES,
    SHAPES,
    VERBS_FOR,
    WORDS,
    Category,
    Kind,
)
from compact_hf.scenes.scene import Scene, Thing

Depth = Literal["foreground", "background"]

# The two rows are set off against each other by half a column, so that of any two things one is clearly further
# to the left.
COLUMNS: Final[dict[Depth, tuple[int, ...]]] = {
    "background": (35, 102, 168, 234, 301),
    "foreground": (52, 135, 201, 284),
}
FOOT: Final[dict[Depth, int]] = {"background": 200, "foreground": 322}
_FILLED: Final[dict[Depth, float]] = {"background": 0.75, "foreground": 0.9}


class Layout:
    """The lots of one scene: its palette, and the slots that are still free."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(f"scene {seed}")
        self.place = rng.choice(PLACES)
        self.night = self.place not in INDOORS and rng.random() < 0.2
        self.colors = rng.sample(list(COLORS), 3)
        self.shapes = rng.sample(SHAPES, 2)
        self.words = rng.sample(WORDS, 2)
        self.actions = {category: rng.sample(acts, min(2, len(acts))) for category, acts in ACTIONS.items()}
        self.kinds: dict[Category, list[Kind]] = {
            "person": self._some("person", 2),
            "animal": self._some("animal", 3),
            "object": self._some("object", 4),
        }
        self.arrangement = ""
        self.things: list[Thing] = []
        self.free: dict[Depth, list[int]] = {depth: list(range(len(xs))) for depth, xs in COLUMNS.items()}

    def scene(self) -> Scene:
        """Return the scene: a group or none, one to three events, and singles in most of what is left."""
        rng = self.rng
        if rng.random() < 0.45:
            self._put_group()
        self.verbs = {category: rng.choice(verbs) for category, verbs in VERBS_FOR.items()}
        for _ in range(rng.choice((1, 2, 2, 3))):
            self._put_event()
        for depth, columns in self.free.items():
            for column in list(columns):
                if rng.random() < _FILLED[depth]:
                    self._put(self._kind(self._category()), depth, column)
        return self._sorted()

    def _sorted(self) -> Scene:
        order = sorted(range(len(self.things)), key=lambda i: (self.things[i].y, self.things[i].x))
        index = {old: new for new, old in enumerate(order)}
        things = (replace(self.things[i], target=index.get(self.things[i].target, -1)) for i in order)
        return Scene(self.seed, self.place, self.night, self.arrangement, tuple(things))

    def _some(self, category: Category, number: int) -> list[Kind]:
        """Return a few kinds: each welcome here, at home here or odd here, none that people would argue about."""
        rng = self.rng
        allowed = [kind for kind in KINDS.values() if kind.category == category and not kind.small]
        odd = [kind for kind in allowed if self.place in kind.odd]
        fit = [kind for kind in allowed if kind.fits(self.place)]
        if not odd:
            return rng.sample(fit, number)
        return [*rng.sample(fit, number - 1), rng.choice(odd)]

    def _category(self) -> Category:
        return self.rng.choices(("object", "person", "animal"), (4, 3, 3))[0]

    def _kind(self, category: Category) -> Kind:
        return self.rng.choice(self.kinds[category])

    def _put(self, kind: Kind, depth: Depth, column: int, *, active: bool = True) -> int:
        """Put a thing in a free slot and return its index."""
        rng = self.rng
        actor = kind.category != "object"
        wears = rng.random() < (0.45 if actor else 1.0) and (actor or kind.shaped)
        thing = Thing(
            kind=kind.name,
            color=rng.choice(self.colors),
            x=COLUMNS[depth][column] + rng.randint(-4, 4),
            y=FOOT[depth] + rng.randint(-5, 5),
            depth=depth,
            facing=rng.choice((1, -1)),
            shape=rng.choice(self.shapes) if wears else "",
            word=rng.choice(self.words) if wears and rng.random() < 0.6 else "",
            action=rng.choice(self.actions[kind.category]) if actor and active and rng.random() < 0.85 else "",
        )
        self.free[depth].remove(column)
        self.things.append(thing)
        return len(self.things) - 1

    def _put_event(self) -> None:
        """Put somebody and, beside them, what they act on; nothing where no two neighbours are free."""
        rng = self.rng
        pairs = [(depth, column) for depth, columns in self.free.items() for column in columns if column + 1 in columns]
        if not pairs:
            return
        depth, column = rng.choice(pairs)
        category = self._category()
        by_animal = category != "object" and rng.random() < 0.25
        facing: Literal[1, -1] = rng.choice((1, -1))
        agent_column, target_column = (column, column + 1) if facing == 1 else (column + 1, column)
        target = self._put(self._kind(category), depth, target_column)
        agent = self._put(self._kind("animal" if by_animal else "person"), depth, agent_column, active=False)
        verb = "chasing" if by_animal else self.verbs[category]
        foot = self.things[agent].y
        self.things[target] = replace(self.things[target], y=foot)
        self.things[agent] = replace(self.things[agent], facing=facing, doing=verb, target=target)

    def _put_group(self) -> None:
        """Lay three to five small things out in two slots of the foreground."""
        rng = self.rng
        self.arrangement = rng.choice(ARRANGEMENTS)
        number = {"row": rng.randint(3, 4), "circle": 5, "triangle": 3}[self.arrangement]
        kind = rng.choice([kind for kind in KINDS.values() if kind.small])
        left = rng.choice((0, 2))
        middle = (COLUMNS["foreground"][left] + COLUMNS["foreground"][left + 1]) // 2
        self.free["foreground"].remove(left)
        self.free["foreground"].remove(left + 1)
        for dx, dy in _places(self.arrangement, number):
            thing = Thing(kind.name, rng.choice(self.colors), middle + dx, FOOT["foreground"] + dy, "foreground")
            self.things.append(replace(thing, grouped=True))


def _places(arrangement: str, number: int) -> list[tuple[int, int]]:
    """Return the offset, in pixels, of each member of a group from the middle of its ground line."""
    if arrangement == "row":
        return [(round(37 * (i - (number - 1) / 2)), -14) for i in range(number)]
    if arrangement == "triangle":
        return [(0, -58), (-38, 0), (38, 0)]
    turns = (2 * math.pi * i / number - math.pi / 2 for i in range(number))
    return [(round(50 * math.cos(turn)), round(-34 + 32 * math.sin(turn))) for turn in turns]
