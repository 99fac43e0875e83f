"""Flat faces of every shape, and words to put on them: for signs, balloons, kites and the like, and for badges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.scenes.art.pen import INK, PAPER, Color, Drawing, Pen, Point, lighter, outline

BADGE: Final = 23
"""Radius of a badge with a word; a blank one is smaller, so that more of the wearer can be seen."""
BLANK_BADGE: Final = 15

# Where a word finds the most room: above or below the middle, in radii.
_ROOM: Final = {"triangular": -0.42, "star-shaped": 0.02, "heart-shaped": 0.12}


@dataclass(frozen=True, slots=True)
class Lettering:
    """How a word stands on a thing.

    Attributes:
        at (`Point`): its middle, from the middle of the thing's foot.
        size (`float`): pixels from line to line, on a thing in the foreground.
        fill (`Color`)
        halo (`Color`, *optional*): sets the letters off where they are not on an even face.
    """

    at: Point
    size: float
    fill: Color
    halo: Color | None = None


def draw_face(pen: Pen, center: Point, shape: str, r: float, color: Color) -> None:
    """Draw a face of radius `r`."""
    x, y = center
    pen.polygon([(x + dx, y + dy) for dx, dy in outline(shape, r)], color, edge=2)


def lettering_on(center: Point, shape: str, r: float, color: Color) -> Lettering:
    """Return how a word stands on a face that is `color`."""
    dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 150
    return Lettering((center[0], center[1] + r * _ROOM.get(shape, 0)), r * 0.9, PAPER if dark else INK)


def draw_word(word: str, size: float, fill: Color, halo: Color | None, scale: float) -> Drawing:
    """Return a word, with the foot of the drawing in its middle."""
    pen = Pen(round(size * 4), round(size * 2), scale=scale, below=round(size))
    pen.text((0, 0), word, size, fill, halo=halo)
    return pen.drawing()


def draw_badge(shape: str, word: str, scale: float) -> Drawing:
    """Return the badge that a person or an animal wears, with the foot of the drawing in its middle."""
    side = 2 * BADGE + 14
    pen = Pen(side, side, scale=scale, below=side // 2)
    draw_face(pen, (0, 0), shape, BADGE if word else BLANK_BADGE, PAPER)
    if word:
        look = lettering_on((0, 0), shape, BADGE, PAPER)
        pen.text(look.at, word, look.size, look.fill)
    return pen.drawing()


def shine(pen: Pen, center: Point, r: float, color: Color) -> None:
    """Draw the light on a balloon."""
    pen.arc(center, r * 0.66, 200, 245, lighter(color, 0.7), 3)
