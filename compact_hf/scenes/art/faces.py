"""Flat faces of every shape, and words to put on them: for signs, balloons, kites and the like, and for badges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.scenes.art.pen import INK, PAPER, Color, Drawing, Pen, Point, lighter, outline

BADGE: Final = 23
"""Radius of a badge with a word; a blank one is smaller, so that more of the wearer can be seen."""
BLANK_BADGE: Final = 15

# Where a word finds the most room: above or below the middle, in radii.
_WORD_OFFSETS: Final = {"triangular": -0.42, "star-shaped": 0.02, "heart-shaped": 0.12}


@dataclass(frozen=True, slots=True)
class TextStyle:
    """How a word stands on a thing.

    Attributes:
        center (`Point`): its middle, from the middle of the thing's foot.
        size (`float`): pixels from line to line, on a thing in the foreground.
        fill (`Color`)
        halo (`Color`, *optional*): sets the letters off where they are not on an even face.
    """

    center: Point
    size: float
    fill: Color
    halo: Color | None = None


def draw_face(pen: Pen, center: Point, shape: str, r: float, color: Color) -> None:
    """Draw a face of radius `r`."""
    x, y = center
    pen.polygon([(x + dx, y + dy) for dx, dy in outline(shape, r)], color, edge=2)


def face_text_style(center: Point, shape: str, r: float, color: Color) -> TextStyle:
    """Return how a word stands on a face that is `color`."""
    is_dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 150
    return TextStyle((center[0], center[1] + r * _WORD_OFFSETS.get(shape, 0)), r * 0.9, PAPER if is_dark else INK)


def draw_word(word: str, size: float, fill: Color, halo: Color | None, scale: float) -> Drawing:
    """Return a word, with the foot of the drawing in its middle."""
    pen = Pen(round(size * 4), round(size * 2), scale=scale, bottom_margin=round(size))
    pen.text((0, 0), word, size, fill, halo=halo)
    return pen.to_drawing()


def draw_badge(shape: str, word: str, scale: float) -> Drawing:
    """Return the badge that a person or an animal wears, with the foot of the drawing in its middle."""
    size = 2 * BADGE + 14
    pen = Pen(size, size, scale=scale, bottom_margin=size // 2)
    draw_face(pen, (0, 0), shape, BADGE if word else BLANK_BADGE, PAPER)
    if word:
        style = face_text_style((0, 0), shape, BADGE, PAPER)
        pen.text(style.center, word, style.size, style.fill)
    return pen.to_drawing()


def draw_highlight(pen: Pen, center: Point, r: float, color: Color) -> None:
    """Draw the light on a balloon."""
    pen.arc(center, r * 0.66, 200, 245, lighter(color, 0.7), 3)
