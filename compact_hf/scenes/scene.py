"""A scene: the place and every thing in it, and how it is drawn at random from a seed.

Positions are pixels in an image of `SIZE` x `SIZE`; `x` is a thing's middle, `y` its foot. Every scene keeps to few
colors, shapes, words and actions, so that one attribute rarely singles a thing out and questions of several constraints
have near misses to rule out. All attributes are drawn independently of each other and of the kind: text alone must not
give an answer away.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final, Literal

from compact_hf.scenes.kinds import (
    ACTIONS,
    ARRANGEMENTS,
    CATEGORIES,
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

SIZE: Final = 336
EVALUATION_SEEDS: Final = range(1_000_000_000, 1_001_000_000)
"""Scenes that models are judged by; nothing may be generated from them."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a scene.

    Attributes:
        kind (`str`): a name of `kinds.KINDS`.
        color (`str`): of the thing itself; of the clothes of a person.
        x, y (`int`): middle and foot, in pixels from the upper left corner.
        depth (`str`): `foreground` or `background`.
        facing (`int`): 1 to the right, -1 to the left.
        shape (`str`): its own, or of the badge that a person or an animal wears; empty: neither.
        word (`str`): on its face, or on the badge it wears; empty: none.
        action (`str`): what a person or an animal does for itself; empty: nothing worth a word.
        doing (`str`): what it does to `target`, a verb of `kinds.VERBS`; empty: nothing.
        target (`int`): index into the scene's things; -1 where `doing` is empty.
        grouped (`bool`): it belongs to the scene's one arrangement.
    """

    kind: str
    color: str
    x: int
    y: int
    depth: Literal["foreground", "background"]
    facing: Literal[1, -1] = 1
    shape: str = ""
    word: str = ""
    action: str = ""
    doing: str = ""
    target: int = -1
    grouped: bool = False

    @property
    def what(self) -> Kind:
        """Its kind, with all that is true of the kind."""
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is true of one picture.

    Attributes:
        seed (`int`)
        place (`str`): one of `kinds.PLACES`.
        night (`bool`): a dark sky; outdoors only.
        arrangement (`str`): `row`, `circle` or `triangle` formed by the grouped things; empty: none are grouped.
        things (`tuple[Thing, ...]`): from back to front.
    """

    seed: int
    place: str
    night: bool
    arrangement: str
    things: tuple[Thing, ...]


Depth = Literal["foreground", "background"]

_FRONT: Final[Depth] = "foreground"
_BACK: Final[Depth] = "background"
_FACINGS: Final[tuple[Literal[1, -1], ...]] = (1, -1)

# The two rows are set off against each other by half a column, so that of any two things one is clearly further
# to the left.
COLUMNS: Final[dict[Depth, tuple[int, ...]]] = {
    "background": (35, 102, 168, 234, 301),
    "foreground": (52, 131, 205, 284),
}
FOOT: Final[dict[Depth, int]] = {"background": 200, "foreground": 322}
# Who stands closer than this to the edge of the picture faces its middle, or a head would stick out of it.
EDGE: Final = 60
# How often a free slot goes to an object, a person, an animal: mixed company, or one sort in the majority, which
# makes groups to count and to choose from.
_MIXES: Final = ((4, 3, 3), (6, 2, 2), (2, 6, 2), (2, 2, 6))
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
        self.mix = rng.choice(_MIXES)
        odd = rng.choice((1, 2))
        self.kinds: dict[Category, list[Kind]] = {
            "person": self._some("person", 2, 0),
            "animal": self._some("animal", 3, odd),
            "object": self._some("object", 4, odd),
        }
        self.verbs = {category: rng.choice(verbs) for category, verbs in VERBS_FOR.items()}
        self.arrangement = ""
        self.things: list[Thing] = []
        # Slots of things that nobody acts on and that act on nobody.
        self.patient: dict[tuple[Depth, int], int] = {}
        self.free: dict[Depth, list[int]] = {depth: list(range(len(xs))) for depth, xs in COLUMNS.items()}

    def scene(self) -> Scene:
        """Return the scene: often near misses or a group, one to three events, singles in most of what is left."""
        rng = self.rng
        if rng.random() < 0.65:
            self._put_near_misses()
        if rng.random() < 0.45:
            self._put_group()
        for _ in range(rng.choice((1, 2, 3))):
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

    def _some(self, category: Category, number: int, odd: int) -> list[Kind]:
        """Return a few kinds, `odd` of them out of place here, the rest at home or welcome everywhere."""
        kinds = [kind for kind in KINDS.values() if kind.category == category and not kind.small]
        fitting = [kind for kind in kinds if kind.fits(self.place)]
        strange = [kind for kind in kinds if self.place in kind.odd]
        return [*self.rng.sample(fitting, number - odd), *self.rng.sample(strange, odd)]

    def _category(self) -> Category:
        return self.rng.choices(("object", "person", "animal"), self.mix)[0]

    def _kind(self, category: Category) -> Kind:
        kinds = self.kinds[category]
        return self.rng.choices(kinds, [1 if kind.fits(self.place) else 2 for kind in kinds])[0]

    def _put(self, kind: Kind, depth: Depth, column: int, *, active: bool = True) -> int:
        """Put a thing in a free slot and return its index."""
        rng = self.rng
        actor = kind.category != "object"
        wears = rng.random() < 0.5 if actor else kind.shaped
        written = rng.random() < (0.7 if wears else 0.5 * (kind.category == "object"))
        x = COLUMNS[depth][column] + rng.randint(-3, 3)
        thing = Thing(
            kind=kind.name,
            color=rng.choice(self.colors),
            x=x,
            y=FOOT[depth] + rng.randint(-5, 5),
            depth=depth,
            facing=rng.choice(_FACINGS) if EDGE < x < SIZE - EDGE else 1 if x <= EDGE else -1,
            shape=rng.choice(self.shapes) if wears else "",
            word=rng.choice(self.words) if written else "",
            action=rng.choice(self.actions[kind.category]) if actor and active and rng.random() < 0.85 else "",
        )
        self.free[depth].remove(column)
        self.patient[depth, column] = len(self.things)
        self.things.append(thing)
        return len(self.things) - 1

    def _put_near_misses(self) -> None:
        """Put one thing that is hard to tell: others are all like it, but each in one respect.

        Without near misses hardly a question of four or five capabilities would need each of them.
        """
        rng = self.rng
        category = rng.choices(CATEGORIES, (1, 2, 2))[0]
        depth, across = rng.choice(((_FRONT, _BACK), (_BACK, _FRONT)))
        kinds = [kind for kind in self.kinds[category] if kind.category != "object" or kind.shaped]
        if not kinds:
            return
        rng.shuffle(kinds)
        if rng.random() < 0.5:
            kinds.sort(key=lambda kind: not kind.fits(self.place))
        values = {
            "kind": [kinds[0].name, kinds[-1].name],
            "color": rng.sample(self.colors, 2),
            "shape": rng.sample(self.shapes, 2),
            "word": rng.sample(self.words, 2),
            "action": rng.sample(self.actions[category], min(2, len(self.actions[category]))) or [""],
        }
        respects = [respect for respect, choice in values.items() if len(choice) > 1]
        differing = [None, *rng.sample(respects, min(rng.choice((2, 3, 3)), len(respects)))]
        places = [(depth, column) for column in rng.sample(self.free[depth], len(differing))]
        for respect, (row, column) in zip(
            [*differing, None], [*places, (across, rng.choice(self.free[across]))], strict=True
        ):
            alike = {name: choice[name == respect] for name, choice in values.items()}
            thing = self.things[self._put(KINDS[alike["kind"]], row, column)]
            self.things[-1] = replace(
                thing, color=alike["color"], shape=alike["shape"], word=alike["word"], action=alike["action"]
            )

    def _put_event(self) -> None:
        """Put somebody into a free slot and let them act on what stands, or is put, beside them."""
        rng = self.rng
        pairs = [
            (depth, column, column + facing, facing)
            for depth, columns in self.free.items()
            for column in columns
            for facing in _FACINGS
            if column + facing in columns or (depth, column + facing) in self.patient
        ]
        if not pairs:
            return
        near = [pair for pair in pairs if (pair[0], pair[2]) in self.patient]
        depth, column, beside, facing = rng.choice(near if near and rng.random() < 0.7 else pairs)
        target = self.patient.pop((depth, beside), -1)
        if target < 0:
            target = self._put(self._kind(self._category()), depth, beside)
        category = self.things[target].what.category
        by_animal = category != "object" and rng.random() < 0.25
        verb = "chasing" if by_animal else self.verbs[category]
        agent = self._put(self._kind("animal" if by_animal else "person"), depth, column, active=False)
        for one in (target, agent):
            self.patient = {slot: index for slot, index in self.patient.items() if index != one}
        self.things[target] = replace(self.things[target], y=self.things[agent].y)
        self.things[agent] = replace(self.things[agent], facing=facing, doing=verb, target=target)

    def _put_group(self) -> None:
        """Lay three to five small things out in two slots of the foreground."""
        rng = self.rng
        left = rng.choice((0, 2))
        if not {left, left + 1} <= set(self.free[_FRONT]):
            return
        self.arrangement = rng.choice(ARRANGEMENTS)
        number = {"row": rng.randint(3, 4), "circle": 5, "triangle": 3}[self.arrangement]
        kind = rng.choice([kind for kind in KINDS.values() if kind.small])
        middle = (COLUMNS[_FRONT][left] + COLUMNS[_FRONT][left + 1]) // 2
        self.free[_FRONT].remove(left)
        self.free[_FRONT].remove(left + 1)
        for dx, dy in _places(self.arrangement, number):
            thing = Thing(kind.name, rng.choice(self.colors), middle + dx, FOOT[_FRONT] + dy, _FRONT)
            self.things.append(replace(thing, grouped=True))


def _places(arrangement: str, number: int) -> list[tuple[int, int]]:
    """Return the offset, in pixels, of each member of a group from the middle of its ground line."""
    if arrangement == "row":
        return [(round(44 * (i - (number - 1) / 2)), -16) for i in range(number)]
    if arrangement == "triangle":
        return [(0, -62), (-42, 0), (42, 0)]
    turns = (2 * math.pi * i / number - math.pi / 2 for i in range(number))
    return [(round(54 * math.cos(turn)), round(-38 + 36 * math.sin(turn))) for turn in turns]


def scene_of(seed: int) -> Scene:
    """Return the scene that `seed`, any integer, stands for: the same one on every machine."""
    return Layout(seed).scene()
