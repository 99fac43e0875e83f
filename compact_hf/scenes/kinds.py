"""Defines what scenes consist of: places, kinds of things, colors, shapes, words and actions.

A thing is an object, a person or an animal. Each kind of thing is expected in some places and odd in others. It is not
drawn in the remaining places, about which people would disagree (a tent on a beach). A kind without home places is
expected everywhere. Colors, shapes and words do not depend on the kind, so that a question does not reveal its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Category = Literal["object", "person", "animal"]

CATEGORIES: Final[tuple[Category, ...]] = ("object", "person", "animal")

# Scenes draw from these tuples and dicts by position: another order would change the scenes of all seeds.
PLACES: Final = ("beach", "kitchen", "street", "forest", "ski slope", "farm", "bathroom", "living room")
INDOORS: Final = frozenset({"kitchen", "bathroom", "living room"})

# Name -> red, green and blue, 0 to 255.
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
"""What one thing does to another -> the passive form."""

VERBS_BY_CATEGORY: Final[dict[Category, tuple[str, ...]]] = {
    "object": ("pushing", "pulling", "painting", "photographing"),
    "person": ("chasing", "photographing", "pushing"),
    "animal": ("feeding", "chasing", "photographing", "pulling"),
}
"""What a person may do to a thing of each category. Animals only chase, and only people and other animals."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing.

    Attributes:
        name (`str`): the noun, also the answer to "What is it?".
        plural (`str`): plural of the noun.
        category (`str`): `object`, `person` or `animal`.
        home_places (`tuple[str, ...]`, *optional*, defaults to ()): places in which it is expected; empty: everywhere.
        odd_places (`tuple[str, ...]`, *optional*, defaults to ()): places in which it clearly does not belong.
        has_shape (`bool`, *optional*, defaults to False): whether it is an object that is drawn in all shapes, with
            room for a word.
        is_small (`bool`, *optional*, defaults to False): whether it is only drawn in groups.
    """

    name: str
    plural: str
    category: Category
    home_places: tuple[str, ...] = ()
    odd_places: tuple[str, ...] = ()
    has_shape: bool = False
    is_small: bool = False

    def fits(self, place: str) -> bool:
        """Return whether it is expected in `place`."""
        return not self.home_places or place in self.home_places


def _home_kind(name: str, category: Category, home: str, neutral: tuple[str, ...] = (), plural: str = "") -> Kind:
    """Return a kind that is odd everywhere except at `home` and in the `neutral` places, in which it is not drawn."""
    odd_places = tuple(place for place in PLACES if place != home and place not in neutral)
    return Kind(name, plural or name + "s", category, (home,), odd_places)


_KINDS: Final = (
    # Persons and three animals, expected everywhere.
    Kind("man", "men", "person"),
    Kind("woman", "women", "person"),
    Kind("boy", "boys", "person"),
    Kind("girl", "girls", "person"),
    Kind("dog", "dogs", "animal"),
    Kind("cat", "cats", "animal"),
    Kind("rabbit", "rabbits", "animal"),
    # Animals with a home: home place, then the neutral places.
    _home_kind("cow", "animal", "farm"),
    _home_kind("pig", "animal", "farm"),
    _home_kind("sheep", "animal", "farm", ("ski slope",), plural="sheep"),
    _home_kind("crab", "animal", "beach"),
    _home_kind("turtle", "animal", "beach", ("forest", "farm")),
    _home_kind("deer", "animal", "forest", ("farm", "ski slope"), plural="deer"),
    _home_kind("bear", "animal", "forest", ("ski slope",)),
    _home_kind("penguin", "animal", "ski slope", ("beach",)),
    # Objects that are expected everywhere: those with shapes, then the small ones of groups.
    *(
        Kind(name, name + "s", "object", has_shape=True)
        for name in ("sign", "balloon", "kite", "cushion", "gift", "easel")
    ),
    *(Kind(name, name + "s", "object", is_small=True) for name in ("cup", "bottle", "hat", "boot", "book")),
    # Objects with a home.
    _home_kind("parasol", "object", "beach", ("farm", "street")),
    _home_kind("surfboard", "object", "beach"),
    _home_kind("fridge", "object", "kitchen", ("living room",)),
    _home_kind("stove", "object", "kitchen", ("living room",)),
    _home_kind("hydrant", "object", "street", ("farm",)),
    _home_kind("car", "object", "street", ("farm", "forest", "beach", "ski slope")),
    _home_kind("tent", "object", "forest", ("beach", "farm", "ski slope")),
    _home_kind("sled", "object", "ski slope"),
    _home_kind("tractor", "object", "farm", ("street", "forest")),
    _home_kind("wheelbarrow", "object", "farm", ("street", "forest", "beach")),
    _home_kind("bathtub", "object", "bathroom"),
    _home_kind("toilet", "object", "bathroom"),
    _home_kind("sofa", "object", "living room", ("kitchen",)),
    _home_kind("television", "object", "living room", ("kitchen",)),
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _KINDS}


def get_category(noun: str) -> Category:
    """Return the category of `noun`, which is the name of a kind or of a category."""
    return KINDS[noun].category if noun in KINDS else noun  # type: ignore[return-value]
