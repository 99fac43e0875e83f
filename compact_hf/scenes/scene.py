"""Builds a scene from a seed: the ground truth of an image, with its place and all things in it.

Positions are pixels in an image of `SIZE` x `SIZE`; `x` is the middle of a thing and `y` its foot. Each scene uses few
colors, shapes, words and actions. A single attribute therefore rarely identifies a thing, and questions with several
constraints have near misses, things that satisfy all constraints but one. All attributes are drawn independently of
each other and of the kind, so that the text of a question does not reveal its answer.
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

# Pixels; also the input size of LLaVA-1.5's vision tower.
SIZE: Final = 336
EVALUATION_SEEDS: Final = range(1_000_000_000, 1_001_000_000)
"""Seeds of the scenes that are reserved for evaluation; `compact generate` refuses them."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing in a scene.

    Attributes:
        kind (`str`): a name of `kinds.KINDS`.
        color (`str`): color of the thing; for a person, of the clothes.
        x (`int`): horizontal middle, in pixels from the left edge of the image.
        y (`int`): foot, in pixels from the upper edge of the image.
        depth (`str`): `foreground` or `background`.
        facing (`int`, *optional*, defaults to 1): 1 for right, -1 for left.
        shape (`str`, *optional*, defaults to ""): shape of an object, or of the badge of a person or animal; empty if
            it has none.
        word (`str`, *optional*, defaults to ""): word on an object or badge; empty if there is none.
        action (`str`, *optional*, defaults to ""): what a person or animal is doing without another thing; empty if it
            just stands.
        verb (`str`, *optional*, defaults to ""): what it does to `target`, a verb of `kinds.VERBS`; empty if nothing.
        target (`int`, *optional*, defaults to -1): index in `Scene.objects`; -1 if `verb` is empty.
        is_grouped (`bool`, *optional*, defaults to False): whether it is part of the arrangement of the scene.
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
        """The `Kind` of the thing."""
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of one image.

    Attributes:
        seed (`int`): the seed that the scene was built from.
        place (`str`): one of `kinds.PLACES`.
        night (`bool`): whether the sky is dark; only outdoors.
        arrangement (`str`): `row`, `circle` or `triangle` that the grouped things form; empty if there is no group.
        objects (`tuple[SceneObject, ...]`): all things, from back to front.
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

# x of the columns in pixels. The two rows are offset, so that things of different rows rarely are above each other.
COLUMNS: Final[dict[Depth, tuple[int, ...]]] = {
    "background": (35, 102, 168, 234, 301),
    "foreground": (52, 131, 205, 284),
}
FOOT_Y: Final[dict[Depth, int]] = {"background": 200, "foreground": 322}
# Pixels. Things closer than this to the left or right edge face the middle of the image, so that no head is cut off.
EDGE_MARGIN: Final = 60
# Relative frequencies of objects, persons and animals. The first mix is even. In the others one category is in the
# majority, which gives sets to count and to select from.
_CATEGORY_WEIGHTS: Final = ((4, 3, 3), (6, 2, 2), (2, 6, 2), (2, 2, 6))
_FILL_RATES: Final[dict[Depth, float]] = {"background": 0.75, "foreground": 0.9}  # share of free slots that are filled


class Layout:
    """Builds one scene: holds its random generator, its palette and the slots that are still free.

    A slot is a column at a depth. Most slots take one thing; a group takes two.

    Args:
        seed (`int`): seed of the scene.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        # All draws come from this generator, so their order is part of what a seed means. The string is hashed by
        # SHA-512.
        self.rng = rng = random.Random(f"scene {seed}")
        self.place = rng.choice(PLACES)
        self.night = self.place not in INDOORS and rng.random() < 0.2
        # The palette: few values of each attribute for the whole scene.
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
        # Slot -> index of its thing, for things that take no part in an interaction yet.
        self.idle_slots: dict[tuple[Depth, int], int] = {}
        self.free_columns: dict[Depth, list[int]] = {depth: list(range(len(xs))) for depth, xs in COLUMNS.items()}

    def build(self) -> Scene:
        """Return the scene.

        It often has near misses and a group, and one to three interactions. Most of the other slots get single things.
        """
        rng = self.rng
        # From the most demanding arrangement to the least: near misses and groups need several free slots.
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
        """Return the scene with its things sorted from back to front, and the targets renumbered accordingly."""
        # A lower foot is nearer to the viewer; y grows downwards.
        order = sorted(range(len(self.objects)), key=lambda i: (self.objects[i].y, self.objects[i].x))
        new_index = {old: new for new, old in enumerate(order)}
        objects = (replace(self.objects[i], target=new_index.get(self.objects[i].target, -1)) for i in order)
        return Scene(self.seed, self.place, self.night, self.arrangement, tuple(objects))

    def _sample_kinds(self, category: Category, count: int, odd_count: int) -> list[Kind]:
        """Return `count` kinds of a category: `odd_count` that are odd in this place, the others expected."""
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
        """Put a thing with random attributes into a free slot and return its index."""
        rng = self.rng
        is_actor = kind.category != "object"
        has_shape = rng.random() < 0.5 if is_actor else kind.has_shape
        # On 70% of badges and shaped objects, on half of the other objects, and never on an actor without a badge.
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
        """Add a thing together with others that each differ from it in one attribute.

        Without such near misses, few questions about four or five capabilities would need all of them.
        """
        rng = self.rng
        category = rng.choices(CATEGORIES, (1, 2, 2))[0]
        depth, other_depth = rng.choice(((_FOREGROUND, _BACKGROUND), (_BACKGROUND, _FOREGROUND)))
        kinds = [kind for kind in self.kinds[category] if kind.category != "object" or kind.has_shape]
        # Objects only: none of the kinds of this scene is drawn in all shapes.
        if not kinds:
            return
        rng.shuffle(kinds)
        if rng.random() < 0.5:
            # Expected kinds first: the shared kind is then expected, and the other one odd if there is an odd kind.
            kinds.sort(key=lambda kind: not kind.fits(self.place))
        values = {
            "kind": [kinds[0].name, kinds[-1].name],
            "color": rng.sample(self.colors, 2),
            "shape": rng.sample(self.shapes, 2),
            "word": rng.sample(self.words, 2),
            "action": rng.sample(self.actions[category], min(2, len(self.actions[category]))) or [""],
        }
        # Of each attribute the first value is shared; the near miss for that attribute gets the second one.
        attributes = [attribute for attribute, choice in values.items() if len(choice) > 1]
        # None: all values are the shared ones. The first such thing is the original.
        differences = [None, *rng.sample(attributes, min(rng.choice((2, 3, 3)), len(attributes)))]
        slots = [(depth, column) for column in rng.sample(self.free_columns[depth], len(differences))]
        # The last thing differs from the original only in its depth.
        for attribute, (row_depth, column) in zip(
            [*differences, None], [*slots, (other_depth, rng.choice(self.free_columns[other_depth]))], strict=True
        ):
            fields = {name: choice[name == attribute] for name, choice in values.items()}
            obj = self.objects[self._add_object(KINDS[fields["kind"]], row_depth, column)]
            self.objects[-1] = replace(
                obj, color=fields["color"], shape=fields["shape"], word=fields["word"], action=fields["action"]
            )

    def _add_interaction(self) -> None:
        """Add a person or animal that acts on the thing in an adjacent slot, which is added too if the slot is free."""
        rng = self.rng
        # (depth, column of the agent, column of the target, direction from agent to target).
        pairs = [
            (depth, column, column + facing, facing)
            for depth, columns in self.free_columns.items()
            for column in columns
            for facing in _FACINGS
            if column + facing in columns or (depth, column + facing) in self.idle_slots
        ]
        if not pairs:
            return
        # Pairs whose target is already in the scene.
        idle_pairs = [pair for pair in pairs if (pair[0], pair[2]) in self.idle_slots]
        depth, column, neighbor, facing = rng.choice(idle_pairs if idle_pairs and rng.random() < 0.7 else pairs)
        target = self.idle_slots.pop((depth, neighbor), -1)
        if target < 0:
            target = self._add_object(self._sample_kind(self._sample_category()), depth, neighbor)
        category = self.objects[target].kind_info.category
        is_animal = category != "object" and rng.random() < 0.25
        verb = "chasing" if is_animal else self.verbs[category]
        agent = self._add_object(self._sample_kind("animal" if is_animal else "person"), depth, column, may_act=False)
        # Each thing takes part in one interaction at most.
        for participant in (target, agent):
            self.idle_slots = {slot: index for slot, index in self.idle_slots.items() if index != participant}
        # Both are on one ground line.
        self.objects[target] = replace(self.objects[target], y=self.objects[agent].y)
        self.objects[agent] = replace(self.objects[agent], facing=facing, verb=verb, target=target)

    def _add_group(self) -> None:
        """Add a group of three to five small things of one kind, in two adjacent slots of the foreground."""
        rng = self.rng
        # The left or the right half of the foreground; no group if near misses have taken a slot of it.
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
    # A circle on the ground, seen at an angle: an ellipse with radii of 54 and 36 pixels.
    angles = (2 * math.pi * i / size - math.pi / 2 for i in range(size))
    return [(round(54 * math.cos(angle)), round(-38 + 36 * math.sin(angle))) for angle in angles]


def build_scene(seed: int) -> Scene:
    """Return the scene of a seed. The same seed gives the same scene on all machines.

    Args:
        seed (`int`): any integer.
    """
    return Layout(seed).build()
