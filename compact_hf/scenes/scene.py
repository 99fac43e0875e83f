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
    VERBS_BY_CATEGORY,
    WORDS,
    Category,
    Kind,
)

SIZE: Final = 336
EVALUATION_SEEDS: Final = range(1_000_000_000, 1_001_000_000)
"""Scenes that models are judged by; nothing may be generated from them."""


@dataclass(frozen=True, slots=True)
class SceneObject:
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
        verb (`str`): what it does to `target`, a verb of `kinds.VERBS`; empty: nothing.
        target (`int`): index into the scene's things; -1 where `verb` is empty.
        is_grouped (`bool`): it belongs to the scene's one arrangement.
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
    verb: str = ""
    target: int = -1
    is_grouped: bool = False

    @property
    def kind_info(self) -> Kind:
        """Its kind, with all that is true of the kind."""
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is true of one image.

    Attributes:
        seed (`int`)
        place (`str`): one of `kinds.PLACES`.
        night (`bool`): a dark sky; outdoors only.
        arrangement (`str`): `row`, `circle` or `triangle` formed by the grouped things; empty: none are grouped.
        objects (`tuple[SceneObject, ...]`): from back to front.
    """

    seed: int
    place: str
    night: bool
    arrangement: str
    objects: tuple[SceneObject, ...]


Depth = Literal["foreground", "background"]

_FOREGROUND: Final[Depth] = "foreground"
_BACKGROUND: Final[Depth] = "background"
_FACINGS: Final[tuple[Literal[1, -1], ...]] = (1, -1)

# The two rows are set off against each other by half a column, so that of any two things one is clearly further
# to the left.
COLUMNS: Final[dict[Depth, tuple[int, ...]]] = {
    "background": (35, 102, 168, 234, 301),
    "foreground": (52, 131, 205, 284),
}
FOOT_Y: Final[dict[Depth, int]] = {"background": 200, "foreground": 322}
# Who stands closer than this to the edge of the image faces its middle, or a head would stick out of it.
EDGE_MARGIN: Final = 60
# How often a free slot goes to an object, a person, an animal: mixed company, or one sort in the majority, which
# makes groups to count and to choose from.
_CATEGORY_WEIGHTS: Final = ((4, 3, 3), (6, 2, 2), (2, 6, 2), (2, 2, 6))
_FILL_RATES: Final[dict[Depth, float]] = {"background": 0.75, "foreground": 0.9}


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
        self.actions = {category: rng.sample(actions, min(2, len(actions))) for category, actions in ACTIONS.items()}
        self.category_weights = rng.choice(_CATEGORY_WEIGHTS)
        odd_count = rng.choice((1, 2))
        self.kinds: dict[Category, list[Kind]] = {
            "person": self._sample_kinds("person", 2, 0),
            "animal": self._sample_kinds("animal", 3, odd_count),
            "object": self._sample_kinds("object", 4, odd_count),
        }
        self.verbs = {category: rng.choice(verbs) for category, verbs in VERBS_BY_CATEGORY.items()}
        self.arrangement = ""
        self.objects: list[SceneObject] = []
        # Slots of things that nobody acts on and that act on nobody.
        self.idle_slots: dict[tuple[Depth, int], int] = {}
        self.free_columns: dict[Depth, list[int]] = {depth: list(range(len(xs))) for depth, xs in COLUMNS.items()}

    def build(self) -> Scene:
        """Return the scene: often near misses or a group, one to three events, singles in most of what is left."""
        rng = self.rng
        if rng.random() < 0.65:
            self._add_near_misses()
        if rng.random() < 0.45:
            self._add_group()
        for _ in range(rng.choice((1, 2, 3))):
            self._add_interaction()
        for depth, columns in self.free_columns.items():
            for column in list(columns):
                if rng.random() < _FILL_RATES[depth]:
                    self._add_object(self._sample_kind(self._sample_category()), depth, column)
        return self._sort_objects()

    def _sort_objects(self) -> Scene:
        order = sorted(range(len(self.objects)), key=lambda i: (self.objects[i].y, self.objects[i].x))
        new_index = {old: new for new, old in enumerate(order)}
        objects = (replace(self.objects[i], target=new_index.get(self.objects[i].target, -1)) for i in order)
        return Scene(self.seed, self.place, self.night, self.arrangement, tuple(objects))

    def _sample_kinds(self, category: Category, count: int, odd_count: int) -> list[Kind]:
        """Return a few kinds, `odd_count` of them out of place here, the rest at home or welcome everywhere."""
        kinds = [kind for kind in KINDS.values() if kind.category == category and not kind.is_small]
        fitting_kinds = [kind for kind in kinds if kind.fits(self.place)]
        odd_kinds = [kind for kind in kinds if self.place in kind.odd_places]
        return [*self.rng.sample(fitting_kinds, count - odd_count), *self.rng.sample(odd_kinds, odd_count)]

    def _sample_category(self) -> Category:
        return self.rng.choices(("object", "person", "animal"), self.category_weights)[0]

    def _sample_kind(self, category: Category) -> Kind:
        kinds = self.kinds[category]
        return self.rng.choices(kinds, [1 if kind.fits(self.place) else 2 for kind in kinds])[0]

    def _add_object(self, kind: Kind, depth: Depth, column: int, *, may_act: bool = True) -> int:
        """Put a thing in a free slot and return its index."""
        rng = self.rng
        is_actor = kind.category != "object"
        has_shape = rng.random() < 0.5 if is_actor else kind.has_shape
        has_word = rng.random() < (0.7 if has_shape else 0.5 * (kind.category == "object"))
        x = COLUMNS[depth][column] + rng.randint(-3, 3)
        obj = SceneObject(
            kind=kind.name,
            color=rng.choice(self.colors),
            x=x,
            y=FOOT_Y[depth] + rng.randint(-5, 5),
            depth=depth,
            facing=rng.choice(_FACINGS) if EDGE_MARGIN < x < SIZE - EDGE_MARGIN else 1 if x <= EDGE_MARGIN else -1,
            shape=rng.choice(self.shapes) if has_shape else "",
            word=rng.choice(self.words) if has_word else "",
            action=rng.choice(self.actions[kind.category]) if is_actor and may_act and rng.random() < 0.85 else "",
        )
        self.free_columns[depth].remove(column)
        self.idle_slots[depth, column] = len(self.objects)
        self.objects.append(obj)
        return len(self.objects) - 1

    def _add_near_misses(self) -> None:
        """Put one thing that is hard to tell: others are all like it, but each in one respect.

        Without near misses hardly a question of four or five capabilities would need each of them.
        """
        rng = self.rng
        category = rng.choices(CATEGORIES, (1, 2, 2))[0]
        depth, other_depth = rng.choice(((_FOREGROUND, _BACKGROUND), (_BACKGROUND, _FOREGROUND)))
        kinds = [kind for kind in self.kinds[category] if kind.category != "object" or kind.has_shape]
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
        attributes = [attribute for attribute, choice in values.items() if len(choice) > 1]
        differences = [None, *rng.sample(attributes, min(rng.choice((2, 3, 3)), len(attributes)))]
        slots = [(depth, column) for column in rng.sample(self.free_columns[depth], len(differences))]
        for attribute, (row_depth, column) in zip(
            [*differences, None], [*slots, (other_depth, rng.choice(self.free_columns[other_depth]))], strict=True
        ):
            fields = {name: choice[name == attribute] for name, choice in values.items()}
            obj = self.objects[self._add_object(KINDS[fields["kind"]], row_depth, column)]
            self.objects[-1] = replace(
                obj, color=fields["color"], shape=fields["shape"], word=fields["word"], action=fields["action"]
            )

    def _add_interaction(self) -> None:
        """Put somebody into a free slot and let them act on what stands, or is put, beside them."""
        rng = self.rng
        pairs = [
            (depth, column, column + facing, facing)
            for depth, columns in self.free_columns.items()
            for column in columns
            for facing in _FACINGS
            if column + facing in columns or (depth, column + facing) in self.idle_slots
        ]
        if not pairs:
            return
        idle_pairs = [pair for pair in pairs if (pair[0], pair[2]) in self.idle_slots]
        depth, column, neighbor, facing = rng.choice(idle_pairs if idle_pairs and rng.random() < 0.7 else pairs)
        target = self.idle_slots.pop((depth, neighbor), -1)
        if target < 0:
            target = self._add_object(self._sample_kind(self._sample_category()), depth, neighbor)
        category = self.objects[target].kind_info.category
        is_animal = category != "object" and rng.random() < 0.25
        verb = "chasing" if is_animal else self.verbs[category]
        agent = self._add_object(self._sample_kind("animal" if is_animal else "person"), depth, column, may_act=False)
        for participant in (target, agent):
            self.idle_slots = {slot: index for slot, index in self.idle_slots.items() if index != participant}
        self.objects[target] = replace(self.objects[target], y=self.objects[agent].y)
        self.objects[agent] = replace(self.objects[agent], facing=facing, verb=verb, target=target)

    def _add_group(self) -> None:
        """Lay three to five small things out in two slots of the foreground."""
        rng = self.rng
        column = rng.choice((0, 2))
        if not {column, column + 1} <= set(self.free_columns[_FOREGROUND]):
            return
        self.arrangement = rng.choice(ARRANGEMENTS)
        size = {"row": rng.randint(3, 4), "circle": 5, "triangle": 3}[self.arrangement]
        kind = rng.choice([kind for kind in KINDS.values() if kind.is_small])
        center = (COLUMNS[_FOREGROUND][column] + COLUMNS[_FOREGROUND][column + 1]) // 2
        self.free_columns[_FOREGROUND].remove(column)
        self.free_columns[_FOREGROUND].remove(column + 1)
        for dx, dy in _group_offsets(self.arrangement, size):
            obj = SceneObject(kind.name, rng.choice(self.colors), center + dx, FOOT_Y[_FOREGROUND] + dy, _FOREGROUND)
            self.objects.append(replace(obj, is_grouped=True))


def _group_offsets(arrangement: str, size: int) -> list[tuple[int, int]]:
    """Return the offset, in pixels, of each member of a group from the middle of its ground line."""
    if arrangement == "row":
        return [(round(44 * (i - (size - 1) / 2)), -16) for i in range(size)]
    if arrangement == "triangle":
        return [(0, -62), (-42, 0), (42, 0)]
    angles = (2 * math.pi * i / size - math.pi / 2 for i in range(size))
    return [(round(54 * math.cos(angle)), round(-38 + 36 * math.sin(angle))) for angle in angles]


def build_scene(seed: int) -> Scene:
    """Return the scene that `seed`, any integer, stands for: the same one on every machine."""
    return Layout(seed).build()
