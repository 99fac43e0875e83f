"""What scenes are made of: places, kinds of things, colors, shapes, words, actions. Data only, no randomness.

A kind is at home in some places, odd in others, and may not be drawn in the rest, where people would disagree
(a tent on a beach); a kind without a home is welcome everywhere. Colors, shapes and words do not depend on the
kind, so that a question never gives its answer away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Category = Literal["object", "person", "animal"]

CATEGORIES: Final[tuple[Category, ...]] = ("object", "person", "animal")

PLACES: Final = ("beach", "kitchen", "street", "forest", "ski slope", "farm", "bathroom", "living room")
INDOORS: Final = frozenset({"kitchen", "bathroom", "living room"})

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (250, 211, 44),
    "green": (39, 158, 74),
    "blue": (40, 104, 206),
    "purple": (134, 70, 178),
    "pink": (244, 130, 180),
    "black": (46, 46, 52),
}

SHAPES: Final = ("round", "square", "triangular", "star-shaped", "heart-shaped", "diamond-shaped")
WORDS: Final = ("TEA", "ZOO", "FUN", "HOT", "JAM", "NEW", "MAX", "ART", "JOY", "YES", "TOP", "BUS")
ACTIONS: Final[dict[Category, tuple[str, ...]]] = {
    "object": (),
    "person": ("waving", "jumping", "reading", "sleeping", "sitting", "drinking"),
    "animal": ("sleeping", "jumping", "eating", "singing"),
}
ARRANGEMENTS: Final = ("row", "circle", "triangle")

VERBS: Final[dict[str, str]] = {
    "pushing": "pushed",
    "pulling": "pulled",
    "painting": "painted",
    "photographing": "photographed",
    "feeding": "fed",
    "chasing": "chased",
}
"""What one thing does to another -> its passive."""

VERBS_FOR: Final[dict[Category, tuple[str, ...]]] = {
    "object": ("pushing", "pulling", "painting", "photographing"),
    "person": ("chasing", "photographing", "pushing"),
    "animal": ("feeding", "chasing", "photographing", "pulling"),
}
"""What a person may do to a thing of each category; animals only chase, and only people and animals."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing.

    Attributes:
        name (`str`): the noun, also the answer to "What is it?".
        plural (`str`)
        category (`str`): `object`, `person` or `animal`.
        home (`tuple[str, ...]`): places where it is expected; empty: welcome everywhere.
        odd (`tuple[str, ...]`): places where anybody would say that it does not belong.
        shaped (`bool`): an object that comes in every shape and has room for a word.
        small (`bool`): comes in groups.
    """

    name: str
    plural: str
    category: Category
    home: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    shaped: bool = False
    small: bool = False

    def fits(self, place: str) -> bool:
        """Whether nobody would wonder to see it in `place`."""
        return not self.home or place in self.home


def _bound(name: str, category: Category, home: str, but: tuple[str, ...] = (), plural: str = "") -> Kind:
    """Return a kind that is odd everywhere but at `home` and in the places where opinions differ (`but`)."""
    odd = tuple(place for place in PLACES if place != home and place not in but)
    return Kind(name, plural or name + "s", category, (home,), odd)


_KINDS: Final = (
    Kind("man", "men", "person"),
    Kind("woman", "women", "person"),
    Kind("boy", "boys", "person"),
    Kind("girl", "girls", "person"),
    Kind("dog", "dogs", "animal"),
    Kind("cat", "cats", "animal"),
    Kind("rabbit", "rabbits", "animal"),
    _bound("cow", "animal", "farm"),
    _bound("pig", "animal", "farm"),
    _bound("sheep", "animal", "farm", ("ski slope",), plural="sheep"),
    _bound("crab", "animal", "beach"),
    _bound("turtle", "animal", "beach", ("forest", "farm")),
    _bound("deer", "animal", "forest", ("farm", "ski slope"), plural="deer"),
    _bound("bear", "animal", "forest", ("ski slope",)),
    _bound("penguin", "animal", "ski slope", ("beach",)),
    *(
        Kind(name, name + "s", "object", shaped=True)
        for name in ("sign", "balloon", "kite", "cushion", "gift", "easel")
    ),
    *(Kind(name, name + "s", "object", small=True) for name in ("cup", "bottle", "hat", "boot", "book")),
    _bound("parasol", "object", "beach", ("farm", "street")),
    _bound("surfboard", "object", "beach"),
    _bound("fridge", "object", "kitchen", ("living room",)),
    _bound("stove", "object", "kitchen", ("living room",)),
    _bound("hydrant", "object", "street", ("farm",)),
    _bound("car", "object", "street", ("farm", "forest", "beach", "ski slope")),
    _bound("tent", "object", "forest", ("beach", "farm", "ski slope")),
    _bound("sled", "object", "ski slope"),
    _bound("tractor", "object", "farm", ("street", "forest")),
    _bound("wheelbarrow", "object", "farm", ("street", "forest", "beach")),
    _bound("bathtub", "object", "bathroom"),
    _bound("toilet", "object", "bathroom"),
    _bound("sofa", "object", "living room", ("kitchen",)),
    _bound("television", "object", "living room", ("kitchen",)),
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _KINDS}


def category_of(noun: str) -> Category:
    """Return the category that `noun`, a kind's name or a category's own, falls in."""
    return KINDS[noun].category if noun in KINDS else noun  # type: ignore[return-value]
