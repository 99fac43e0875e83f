"""Draws flat faces in all shapes, and words on them, for badges and for objects such as balloons and kites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.scenes.art.pen import INK, PAPER, Color, Drawing, Pen, Point, lighter, outline

BADGE: Final = 23
"""Radius in pixels of a badge with a word. Blank badges are smaller, so that they cover less of the wearer."""
BLANK_BADGE: Final = 15

# Vertical offset of a word from the middle of a face, in radii: where the shape has the most room.
_WORD_OFFSETS: Final = {"triangular": -0.42, "star-shaped": 0.02, "heart-shaped": 0.12}


@dataclass(frozen=True, slots=True)
class TextStyle:
    """Position, size and colors of a word on a thing.

    Attributes:
        center (`Point`): middle of the word, relative to the middle of the thing's foot.
        size (`float`): line height in pixels, at scale 1.
        fill (`Color`): color of the letters.
        halo (`Color`, *optional*): color of an outline around the letters, for words that are not on a plain face.
    """

    center: Point
    size: float
    fill: Color
    halo: Color | None = None


def draw_face(pen: Pen, center: Point, shape: str, r: float, color: Color) -> None:
    """Draw a face that has the shape `shape` and the radius `r`."""
    x, y = center
    pen.polygon([(x + dx, y + dy) for dx, dy in outline(shape, r)], color, edge=2)


def face_text_style(center: Point, shape: str, r: float, color: Color) -> TextStyle:
    """Return the style of a word on a face of a color."""
    # Brightness as the eye weighs red, green and blue, 0 to 255.
    is_dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 150
    return TextStyle((center[0], center[1] + r * _WORD_OFFSETS.get(shape, 0)), r * 0.9, PAPER if is_dark else INK)


def draw_word(word: str, size: float, fill: Color, halo: Color | None, scale: float) -> Drawing:
    """Return the drawing of a word; its anchor point is the middle of the word."""
    # A margin of half the height puts the origin, and the word, into the middle of the sheet.
    pen = Pen(round(size * 4), round(size * 2), scale=scale, bottom_margin=round(size))
    pen.text((0, 0), word, size, fill, halo=halo)
    return pen.to_drawing()


def draw_badge(shape: str, word: str, scale: float) -> Drawing:
    """Return the drawing of a badge for a person or animal; its anchor point is the middle of the badge."""
    size = 2 * BADGE + 14
    pen = Pen(size, size, scale=scale, bottom_margin=size // 2)
    draw_face(pen, (0, 0), shape, BADGE if word else BLANK_BADGE, PAPER)
    if word:
        style = face_text_style((0, 0), shape, BADGE, PAPER)
        pen.text(style.center, word, style.size, style.fill)
    return pen.to_drawing()


def draw_highlight(pen: Pen, center: Point, r: float, color: Color) -> None:
    """Draw the highlight on a balloon."""
    pen.arc(center, r * 0.66, 200, 245, lighter(color, 0.7), 3)
