"""A scene's truth: the place and every thing in it.

Positions are pixels in a picture of `SIZE` x `SIZE`; `x` is a thing's middle, `y` its foot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from compact_hf.scenes.kinds import KINDS, Kind

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
