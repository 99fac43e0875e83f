"""Flat faces of every shape, blank or with a word: of signs, balloons, kites and the like, and worn by people."""

from __future__ import annotations

from typing import Final

from compact_hf.scenes.pen import INK, PAPER, Color, Drawing, Pen, Point, lighter, outline

BADGE: Final = 23
"""Radius of a badge with a word; a blank one is smaller, so that more of the wearer can be seen."""
BLANK_BADGE: Final = 15

# Where a word finds the most room: above or below the middle, in radii.
_ROOM: Final = {"triangular": -0.42, "star-shaped": 0.02, "heart-shaped": 0.12}


def draw_face(pen: Pen, center: Point, shape: str, r: float, color: Color, word: str = "") -> None:
    """Draw a face of radius `r`, with its word."""
    x, y = center
    pen.polygon([(x + dx, y + dy) for dx, dy in outline(shape, r)], color, edge=2)
    if word:
        write_word(pen, center, shape, r, color, word)


def write_word(pen: Pen, center: Point, shape: str, r: float, color: Color, word: str) -> None:
    """Write a word on a face that is `color`."""
    dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 150
    pen.text((center[0], center[1] + r * _ROOM.get(shape, 0)), word, r * 0.9, PAPER if dark else INK)


def draw_badge(shape: str, word: str, scale: float) -> Drawing:
    """Return the badge that a person or an animal wears, centered on its sheet."""
    side = 2 * BADGE + 14
    pen = Pen(side, side, scale=scale, below=side // 2)
    draw_face(pen, (0, 0), shape, BADGE if word else BLANK_BADGE, PAPER, word)
    return pen.drawing()


def shine(pen: Pen, center: Point, r: float, color: Color) -> None:
    """Draw the light on a balloon."""
    pen.arc(center, r * 0.66, 200, 245, lighter(color, 0.7), 3)
