"""Draws objects, with one short function for each kind; `SHAPED_OBJECTS` and `PLAIN_OBJECTS` list them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from compact_hf.scenes.art.faces import TextStyle, draw_face, draw_highlight, face_text_style
from compact_hf.scenes.art.pen import INK, PAPER, Color, Drawing, Pen, darker, lighter, outline
from compact_hf.scenes.kinds import COLORS, KINDS

# Colors of parts that do not take the color of the object.
WOOD: Final[Color] = (164, 116, 72)
STEEL: Final[Color] = (176, 184, 194)
GLASS: Final[Color] = (196, 226, 240)
RUBBER: Final[Color] = (56, 56, 62)


def draw_object(kind: str, color: str, shape: str, scale: float) -> Drawing:
    """Return the drawing of an object.

    Args:
        kind (`str`): name of the kind.
        color (`str`): a name of `kinds.COLORS`.
        shape (`str`): one of `kinds.SHAPES`; empty for kinds without a shape.
        scale (`float`): size, 1.0 for the size of `Pen` coordinates.
    """
    # Small kinds are drawn 20% larger, so that they can be recognized in groups.
    pen = Pen(96, 104, scale=scale * (1.2 if KINDS[kind].is_small else 1))
    if kind in SHAPED_OBJECTS:
        SHAPED_OBJECTS[kind](pen, COLORS[color], shape)
    else:
        PLAIN_OBJECTS[kind](pen, COLORS[color])
    return pen.to_drawing()


def get_text_style(kind: str, color: str, shape: str) -> TextStyle:
    """Return the position, size and colors of a word on an object."""
    center = (0, WORD_HEIGHTS[kind])
    return (
        # 31 is the radius of all faces on objects, in pixels.
        face_text_style(center, shape, 31, COLORS[color])
        if kind in SHAPED_OBJECTS
        else TextStyle(center, 24, INK, PAPER)
    )


def _sign(pen: Pen, color: Color, shape: str) -> None:
    pen.limb([(0, 0), (0, 40)], STEEL, 5)
    draw_face(pen, (0, 56), shape, 31, color)


def _balloon(pen: Pen, color: Color, shape: str) -> None:
    pen.line([(0, 4), (-3, 12), (2, 18), (0, 26)], INK, 1.6)
    pen.polygon([(-6, 0), (6, 0), (3, 7), (-3, 7)], STEEL)
    pen.polygon([(-5, 24), (5, 24), (0, 34)], darker(color, 0.15))
    draw_face(pen, (0, 57), shape, 31, color)
    draw_highlight(pen, (0, 57), 31, color)


def _kite(pen: Pen, color: Color, shape: str) -> None:
    pen.line([(0, 28), (-8, 21), (7, 14), (-6, 8), (4, 2)], INK, 1.6)
    for x, y in ((-8, 21), (7, 14), (-6, 8)):
        pen.polygon([(x - 6, y + 4), (x - 6, y - 4), (x + 6, y + 4), (x + 6, y - 4)], lighter(color, 0.35), edge=1)
    draw_face(pen, (0, 57), shape, 31, color)
    for a, b in (((0, 85), (0, 30)), ((-22, 57), (22, 57))):
        pen.line([a, b], darker(color, 0.25), 2)


def _cushion(pen: Pen, color: Color, shape: str) -> None:
    rim = outline(shape, 31)
    # Up to ten tassels around the rim.
    for x, y in rim[:: max(1, len(rim) // 10)]:
        pen.ellipse((x, y + 33), 5, 5, lighter(color, 0.5))
    draw_face(pen, (0, 33), shape, 31, color)
    pen.polygon([(x * 0.8, y * 0.8 + 33) for x, y in rim], lighter(color, 0.12), edge=1)


def _gift(pen: Pen, color: Color, shape: str) -> None:
    # Highest point of the shape in the middle, where the bow is tied.
    top = 33 + max(y for x, y in outline(shape, 31) if abs(x) < 4 or shape == "square")
    draw_face(pen, (0, 33), shape, 31, color)
    ribbon = lighter(color, 0.72)
    pen.line([(0, 6 if shape != "star-shaped" else 16), (0, top - 2)], ribbon, 6)
    for side in (-1, 1):
        pen.polygon([(0, top), (side * 15, top + 11), (side * 15, top - 3)], ribbon)
    pen.ellipse((0, top + 1), 4, 4, ribbon)


def _easel(pen: Pen, color: Color, shape: str) -> None:
    for a, b in (((-24, 0), (0, 88)), ((24, 0), (0, 88)), ((0, 8), (0, 88))):
        pen.limb([a, b], WOOD, 4)
    pen.limb([(-24, 22), (24, 22)], WOOD, 5)
    draw_face(pen, (0, 53), shape, 31, color)


def _cup(pen: Pen, color: Color) -> None:
    pen.arc((14, 17), 9, -90, 90, darker(color), 4)
    pen.polygon([(-15, 30), (15, 30), (11, 2), (-11, 2)], color)
    pen.ellipse((0, 30), 15, 4, lighter(color))


def _bottle(pen: Pen, color: Color) -> None:
    pen.box(-4, 28, 4, 42, color, radius=1)
    pen.box(-10, 0, 10, 32, color, radius=6)
    pen.box(-5, 40, 5, 46, PAPER, radius=1)
    pen.box(-9, 9, 9, 20, PAPER, edge=0)


def _hat(pen: Pen, color: Color) -> None:
    pen.ellipse((0, 5), 21, 5, color)
    pen.polygon([(-12, 5), (-10, 30), (10, 30), (12, 5)], color)
    pen.polygon([(-12, 6), (-11, 12), (11, 12), (12, 6)], PAPER, edge=1)


def _boot(pen: Pen, color: Color) -> None:
    pen.polygon([(-13, 4), (-13, 36), (3, 36), (3, 18), (16, 14), (19, 4)], color)
    pen.box(-14, 0, 20, 5, RUBBER, radius=2)
    pen.box(-14, 32, 4, 38, PAPER, radius=2)


def _book(pen: Pen, color: Color) -> None:
    pen.box(-17, 0, 17, 9, PAPER)
    pen.polygon([(-18, 8), (18, 8), (15, 34), (-15, 34)], color)
    pen.line([(-7, 24), (7, 24)], lighter(color, 0.75), 3)
    pen.line([(-5, 17), (5, 17)], lighter(color, 0.75), 3)


def _parasol(pen: Pen, color: Color) -> None:
    pen.limb([(0, 0), (0, 66)], STEEL, 4)
    pen.polygon([(-40, 52), (-31, 72), (-15, 85), (0, 89), (15, 85), (31, 72), (40, 52)], color)
    for side in (-1, 1):
        pen.polygon([(side * 25, 52), (side * 16, 76), (0, 89), (side * 9, 52)], lighter(color, 0.55), edge=1)


def _surfboard(pen: Pen, color: Color) -> None:
    pen.ellipse((0, 45), 14, 46, color)
    pen.line([(0, 6), (0, 84)], PAPER, 4)
    pen.polygon([(-4, 6), (4, 6), (0, 18)], INK, edge=0)


def _fridge(pen: Pen, color: Color) -> None:
    pen.box(-24, 0, 24, 86, color, radius=5)
    pen.line([(-23, 52), (23, 52)], darker(color), 2.5)
    for low, high in ((58, 72), (30, 46)):
        pen.line([(15, low), (15, high)], PAPER, 4)


def _stove(pen: Pen, color: Color) -> None:
    pen.box(-29, 0, 29, 58, color, radius=3)
    pen.box(-22, 7, 22, 36, RUBBER, radius=3)
    pen.box(-17, 12, 17, 30, (242, 150, 60), radius=2, edge=0)
    for x in (-20, -7, 7, 20):
        pen.ellipse((x, 46), 4, 4, PAPER)
    pen.box(-30, 56, 30, 61, RUBBER, radius=1)
    pen.box(-14, 61, 8, 73, STEEL, radius=2)
    pen.limb([(8, 69), (24, 71)], RUBBER, 3)


def _hydrant(pen: Pen, color: Color) -> None:
    pen.box(-18, 0, 18, 8, color, radius=2)
    pen.box(-12, 6, 12, 52, color, radius=2)
    pen.ellipse((0, 53), 15, 11, color)
    pen.box(-17, 46, 17, 53, color, radius=2)
    pen.box(-4, 62, 4, 69, color, radius=1)
    pen.ellipse((0, 32), 8, 8, STEEL)
    for left, right in ((-21, -11), (11, 21)):
        pen.box(left, 26, right, 38, STEEL, radius=2)


def _car(pen: Pen, color: Color) -> None:
    pen.polygon([(-25, 32), (-16, 54), (13, 54), (26, 32)], color)
    pen.polygon([(-19, 33), (-13, 49), (-3, 49), (-3, 33)], GLASS, edge=1)
    pen.polygon([(1, 33), (1, 49), (11, 49), (20, 33)], GLASS, edge=1)
    pen.box(-41, 9, 41, 34, color, radius=8)
    pen.ellipse((37, 24), 3.5, 4, (255, 240, 150))
    for x in (-22, 22):
        pen.ellipse((x, 10), 11, 11, RUBBER)
        pen.ellipse((x, 10), 4.5, 4.5, STEEL)


def _tent(pen: Pen, color: Color) -> None:
    pen.polygon([(-40, 0), (0, 64), (40, 0)], color)
    pen.polygon([(-15, 0), (0, 46), (15, 0)], darker(color, 0.65), edge=1)
    pen.polygon([(0, 46), (15, 0), (25, 0)], lighter(color, 0.3), edge=1)
    pen.line([(0, 60), (0, 71)], INK, 3)


def _sled(pen: Pen, color: Color) -> None:
    pen.line([(-34, 2), (26, 2), (36, 8), (37, 18), (31, 22)], STEEL, 4)
    for x in (-22, 0, 20):
        pen.limb([(x, 3), (x, 18)], WOOD, 4)
    pen.box(-34, 17, 28, 26, color, radius=3)
    pen.box(-30, 24, 24, 32, lighter(color, 0.25), radius=3)


def _tractor(pen: Pen, color: Color) -> None:
    pen.box(-26, 38, 6, 72, GLASS, radius=2)
    pen.box(-30, 70, 10, 77, color, radius=3)
    pen.box(-28, 18, 38, 43, color, radius=5)
    pen.box(24, 42, 29, 62, RUBBER, radius=1)
    for x, r in ((-17, 22), (27, 13)):
        pen.ellipse((x, r), r, r, RUBBER)
        pen.ellipse((x, r), r * 0.45, r * 0.45, (250, 222, 120))


def _wheelbarrow(pen: Pen, color: Color) -> None:
    pen.limb([(24, 12), (-14, 26), (-40, 36)], WOOD, 4)
    pen.limb([(-10, 22), (-16, 1)], WOOD, 4)
    pen.polygon([(-26, 50), (34, 50), (20, 21), (-10, 21)], color)
    pen.ellipse((25, 10), 10, 10, RUBBER)
    pen.ellipse((25, 10), 4, 4, STEEL)


def _bathtub(pen: Pen, color: Color) -> None:
    for x in (-26, 26):
        pen.ellipse((x, 4), 6, 5, STEEL)
    pen.polygon([(-40, 42), (40, 42), (34, 14), (25, 6), (-25, 6), (-34, 14)], color)
    for x, y, r in ((-18, 47, 8), (-6, 50, 9), (8, 47, 7)):
        pen.ellipse((x, y), r, r, (236, 246, 252))
    pen.box(-43, 38, 43, 45, lighter(color, 0.3), radius=3)
    pen.limb([(32, 44), (32, 62), (20, 62), (20, 57)], STEEL, 4)


def _toilet(pen: Pen, color: Color) -> None:
    pen.box(-24, 34, -4, 74, color, radius=3)
    pen.box(-27, 71, -1, 78, color, radius=2)
    pen.polygon([(-14, 0), (12, 0), (9, 16), (28, 34), (-10, 34)], color)
    pen.box(-12, 32, 32, 41, lighter(color, 0.35), radius=4)
    pen.line([(-20, 64), (-13, 64)], STEEL, 3)


def _sofa(pen: Pen, color: Color) -> None:
    for x in (-32, 32):
        pen.box(x - 3, 0, x + 3, 8, WOOD)
    pen.box(-34, 20, 34, 54, color, radius=8)
    for left in (-26, 0):
        pen.box(left, 18, left + 26, 32, lighter(color, 0.22), radius=4)
    pen.box(-30, 6, 30, 20, color, radius=3)
    for left in (-42, 28):
        pen.box(left, 6, left + 14, 38, color, radius=6)


def _television(pen: Pen, color: Color) -> None:
    for end in (-14, 14):
        pen.line([(0, 58), (end, 78)], INK, 2.4)
    for x in (-20, 20):
        pen.limb([(x, 10), (x * 1.3, 0)], WOOD, 4)
    pen.box(-36, 9, 36, 60, color, radius=7)
    pen.box(-29, 16, 19, 53, (112, 152, 178), radius=6)
    pen.line([(-21, 44), (-12, 49)], PAPER, 3)
    for y in (46, 36):
        pen.ellipse((27, y), 4, 4, PAPER)


SHAPED_OBJECTS: Final[dict[str, Callable[[Pen, Color, str], None]]] = {
    "sign": _sign,
    "balloon": _balloon,
    "kite": _kite,
    "cushion": _cushion,
    "gift": _gift,
    "easel": _easel,
}

PLAIN_OBJECTS: Final[dict[str, Callable[[Pen, Color], None]]] = {
    "cup": _cup,
    "bottle": _bottle,
    "hat": _hat,
    "boot": _boot,
    "book": _book,
    "parasol": _parasol,
    "surfboard": _surfboard,
    "fridge": _fridge,
    "stove": _stove,
    "hydrant": _hydrant,
    "car": _car,
    "tent": _tent,
    "sled": _sled,
    "tractor": _tractor,
    "wheelbarrow": _wheelbarrow,
    "bathtub": _bathtub,
    "toilet": _toilet,
    "sofa": _sofa,
    "television": _television,
}

WORD_HEIGHTS: Final[dict[str, float]] = {
    "sign": 56,
    "balloon": 57,
    "kite": 57,
    "cushion": 33,
    "gift": 33,
    "easel": 53,
    "parasol": 30,
    "surfboard": 46,
    "fridge": 62,
    "stove": 47,
    "hydrant": 40,
    "car": 24,
    "tent": 14,
    "sled": 23,
    "tractor": 31,
    "wheelbarrow": 38,
    "bathtub": 24,
    "toilet": 54,
    "sofa": 42,
    "television": 34,
}
"""Height in pixels of the middle of the face, or of the word on an object without a face."""
