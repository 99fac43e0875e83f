"""Draws the backdrops of the places, in pale colors so that the scenery is not mistaken for things of the scene.

x is from -168 (left) to 168 (right), y from 0 (bottom) to 336 (top). The ground ends at `HORIZON`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from compact_hf.scenes.art.pen import Color, Pen, darker, lighter
from compact_hf.scenes.scene import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

HALF: Final = SIZE // 2
# y of the line between ground and sky or wall, in pixels from the bottom.
HORIZON: Final = 172
# Colors of the sky: (top, bottom).
DAY: Final[tuple[Color, Color]] = ((150, 204, 240), (226, 242, 250))
NIGHT: Final[tuple[Color, Color]] = ((36, 44, 92), (112, 116, 164))


def draw_backdrop(place: str, *, night: bool) -> Image:
    """Return the image of an empty place: RGB, `SIZE` x `SIZE`."""
    from PIL import Image as Images

    pen = Pen(SIZE, SIZE, scale=1, bottom_margin=0)
    BACKDROPS[place](pen, night)
    image = pen.to_drawing().image.convert("RGB")
    if night:
        # At night the ground is darkened too. Things keep their colors, because they are pasted afterwards.
        image = Images.blend(image, Images.new("RGB", image.size, NIGHT[0]), 0.28)
    return image


def _draw_gradient(pen: Pen, low: float, high: float, bottom: Color, top: Color) -> None:
    """Fill the area between two heights with a vertical color gradient."""
    steps = 32
    for i in range(steps):
        t = i / (steps - 1)
        shade = (
            round(bottom[0] + (top[0] - bottom[0]) * t),
            round(bottom[1] + (top[1] - bottom[1]) * t),
            round(bottom[2] + (top[2] - bottom[2]) * t),
        )
        # Each stripe is 1 pixel higher than its share, so that no gap is visible.
        pen.box(-HALF, low + (high - low) * i / steps, HALF, low + (high - low) * (i + 1) / steps + 1, shade, edge=0)


def _sky(pen: Pen, night: bool) -> None:
    """Draw the sky: clouds by day, stars at night."""
    top, bottom = NIGHT if night else DAY
    _draw_gradient(pen, HORIZON - 20, SIZE, bottom, top)
    if night:
        # A fixed seed, because a place always has the same backdrop.
        rng = random.Random("stars")
        for _ in range(60):
            pen.ellipse((rng.uniform(-165, 165), rng.uniform(215, 332)), 1.1, 1.1, (255, 252, 226), edge=0)
        return
    for x, y, size in ((-104, 300, 1.1), (28, 314, 0.8), (122, 288, 1.0)):
        for dx, dy, r in ((-22, 0, 11), (-6, 7, 15), (12, 4, 12), (25, -1, 9)):
            pen.ellipse((x + dx * size, y + dy * size), r * size * 1.2, r * size * 0.8, (252, 254, 255), edge=0)


def _hills(pen: Pen, color: Color, base: float, height: float, phase: float) -> None:
    """Draw a row of hills as a sine wave."""
    points = [(x, base + height * (0.5 + 0.5 * math.sin(x / 46 + phase))) for x in range(-HALF, HALF + 8, 8)]
    pen.polygon([(-HALF, 0), *points, (HALF, 0)], color, edge=0)


def _specks(pen: Pen, color: Color, count: int, *, tufts: bool = False) -> None:
    """Draw random specks or tufts of grass on the ground, smaller towards the horizon."""
    rng = random.Random(f"specks {count}")
    for _ in range(count):
        x, y = rng.uniform(-HALF, HALF), rng.uniform(4, HORIZON - 12)
        # Specks shrink with their distance, which grows with y.
        size = 1.6 - y / 180
        if tufts:
            pen.line([(x - 3 * size, y + 5 * size), (x, y), (x + 3 * size, y + 5 * size)], color, 1.3)
        else:
            pen.ellipse((x, y), 2.2 * size, 1.1 * size, color, edge=0)


def _beach(pen: Pen, night: bool) -> None:
    _sky(pen, night)
    # From back to front: sea, waves, foam, sand, palms.
    _draw_gradient(pen, 148, 196, (150, 206, 222), (96, 166, 204))
    for y, shift in ((188, 0), (178, 30), (166, 12)):
        for x in range(-170 + shift, 170, 62):
            pen.line([(x, y), (x + 9, y + 3), (x + 18, y)], (226, 244, 248), 1.8)
    shore = [(x, 152 + 4 * math.sin(x / 22)) for x in range(-HALF, HALF + 6, 6)]
    pen.polygon([(-HALF, 0), *[(x, y + 5) for x, y in shore], (HALF, 0)], (246, 250, 246), edge=0)
    pen.polygon([(-HALF, 0), *shore, (HALF, 0)], (244, 224, 176), edge=0)
    _draw_gradient(pen, 0, 120, (238, 212, 158), (244, 224, 176))
    _specks(pen, (222, 196, 142), 90)
    for x, lean in ((-150, 22), (152, -26)):
        trunk = [(x, 150), (x + lean * 0.35, 200), (x + lean, 250)]
        pen.limb(trunk, (176, 142, 104), 8)
        for angle in range(20, 200, 32):
            tip = (x + lean + 48 * math.cos(math.radians(angle)), 250 + 26 * math.sin(math.radians(angle)) - 10)
            middle = (x + lean + 25 * math.cos(math.radians(angle)), 254 + 24 * math.sin(math.radians(angle)))
            pen.line([(x + lean, 250), middle, tip], (122, 172, 120), 7)


def _street(pen: Pen, night: bool) -> None:
    _sky(pen, night)
    walls: tuple[Color, ...] = ((226, 208, 190), (204, 214, 222), (222, 202, 206), (212, 218, 200), (228, 216, 186))
    # Houses, then pavement, kerb, road and its dashes.
    for i, (left, width, top) in enumerate(
        ((-168, 66, 292), (-102, 74, 262), (-28, 62, 306), (34, 72, 272), (106, 62, 298))
    ):
        wall = walls[i]
        pen.box(left, 160, left + width, top, wall, edge=1.2)
        pen.box(left - 2, top - 6, left + width + 2, top, darker(wall, 0.15), edge=0)
        for y in range(216, top - 24, 34):
            for x in range(left + 10, left + width - 14, 24):
                is_lit = night and (x * 7 + y) % 3
                pen.box(x, y, x + 14, y + 20, (255, 232, 150) if is_lit else (176, 200, 214), edge=1)
        pen.box(left + width / 2 - 8, 160, left + width / 2 + 8, 196, darker(wall, 0.28), edge=1)
    pen.box(-HALF, 104, HALF, 164, (206, 204, 200), edge=0)
    for x in range(-200, 260, 40):
        pen.line([(x, 164), (x - 14, 104)], (190, 188, 184), 1.2)
    pen.box(-HALF, 98, HALF, 106, (176, 174, 172), edge=0)
    pen.box(-HALF, 0, HALF, 98, (148, 150, 156), edge=0)
    for x in range(-160, 170, 66):
        pen.box(x, 50, x + 38, 56, (236, 236, 230), edge=0)


def _tree(pen: Pen, x: float, foot: float, size: float, crown: Color) -> None:
    pen.box(x - 7 * size, foot, x + 7 * size, foot + 70 * size, (146, 118, 94), edge=1)
    for dx, dy, r in ((-22, 74, 26), (22, 76, 26), (0, 98, 32), (0, 70, 24)):
        pen.ellipse((x + dx * size, foot + dy * size), r * size, r * size, crown, edge=0)


def _forest(pen: Pen, night: bool) -> None:
    _sky(pen, night)
    # Hills, trees in three shades, meadow.
    _hills(pen, (168, 200, 168), 170, 46, 0.6)
    for i, x in enumerate(range(-166, 180, 42)):
        _tree(
            pen, x, 166 + 8 * (i % 2), 0.95 + 0.12 * (i % 3), ((142, 184, 142), (128, 174, 132), (156, 192, 144))[i % 3]
        )
    _hills(pen, (178, 206, 148), 158, 10, 2)
    _draw_gradient(pen, 0, 150, (158, 190, 128), (178, 206, 148))
    _specks(pen, (134, 168, 108), 70, tufts=True)


def _ski_slope(pen: Pen, night: bool) -> None:
    _sky(pen, night)
    # Mountains with caps of snow, then the slope, firs and ski tracks.
    for x, half_width, peak in ((-110, 110, 296), (30, 130, 318), (140, 90, 280)):
        pen.polygon([(x - half_width, 150), (x, peak), (x + half_width, 150)], (172, 186, 206), edge=0)
        cap = 0.36
        edge = peak - (peak - 150) * cap
        pen.polygon(
            [
                (x, peak),
                (x - half_width * cap, edge),
                (x - half_width * cap * 0.4, edge + 10),
                (x, edge - 6),
                (x + half_width * cap * 0.5, edge + 8),
                (x + half_width * cap, edge),
            ],
            (250, 252, 255),
            edge=0,
        )
    pen.polygon([(-HALF, 0), (-HALF, 196), (-60, 176), (40, 168), (HALF, 158), (HALF, 0)], (240, 246, 252), edge=0)
    for x, foot in ((-152, 186), (-118, 180), (106, 158), (136, 152), (160, 150)):
        for i in range(3):
            y = foot + 8 + 20 * i
            pen.polygon([(x - 20 + 4 * i, y), (x, y + 32), (x + 20 - 4 * i, y)], (124, 164, 150), edge=0)
            pen.polygon([(x - 9 + 2 * i, y + 18), (x, y + 32), (x + 9 - 2 * i, y + 18)], (246, 250, 252), edge=0)
    for start, end in ((-70, -150), (-58, -128)):
        pen.line([(start, 176), (end + 60, 120), (end + 20, 60), (end - 30, 0)], (208, 222, 236), 2)
    _specks(pen, (214, 226, 240), 60)


def _farm(pen: Pen, night: bool) -> None:
    _sky(pen, night)
    _hills(pen, (196, 216, 152), 176, 40, 1.2)
    _hills(pen, (180, 206, 138), 166, 24, 4.0)
    # Field, barn with its roof and door, meadow, fence.
    for row in range(6):
        pen.line([(20 + row * 24, 182), (-10 + row * 40, 168)], (210, 196, 130), 3)
    pen.box(-120, 168, -46, 222, (206, 150, 136), edge=1.2)
    pen.polygon([(-128, 222), (-108, 250), (-83, 260), (-58, 250), (-38, 222)], (166, 128, 120), edge=1.2)
    pen.box(-97, 168, -69, 202, (238, 228, 216), edge=1.2)
    for a, b in (((-97, 168), (-69, 202)), ((-97, 202), (-69, 168))):
        pen.line([a, b], (206, 150, 136), 2)
    pen.box(-HALF, 0, HALF, 168, (188, 212, 140), edge=0)
    _draw_gradient(pen, 0, 140, (206, 198, 140), (188, 212, 140))
    for y in (176, 164):
        pen.line([(-HALF, y), (HALF, y)], (222, 206, 178), 3.4)
    for x in range(-160, 170, 40):
        pen.box(x, 156, x + 6, 186, (222, 206, 178), edge=1)
    _specks(pen, (164, 184, 108), 60, tufts=True)


def _floor(pen: Pen, light: Color, dark: Color) -> None:
    """Draw floor tiles in perspective."""
    pen.box(-HALF, 0, HALF, HORIZON, light, edge=0)
    rows = [0, 46, 84, 114, 138, 157, HORIZON]
    for row, (low, high) in enumerate(pairwise(rows)):
        for column in range(-7, 7):
            if (row + column) % 2:
                # Widths of a tile at its lower and upper edge: they shrink with y, towards the middle of the image.
                a, b = (1.5 - low / 260) * 52, (1.5 - high / 260) * 52
                pen.polygon(
                    [(column * a, low), (column * a + a, low), (column * b + b, high), (column * b, high)], dark, edge=0
                )


def _kitchen(pen: Pen, night: bool) -> None:  # noqa: ARG001 (indoors it is never dark)
    _draw_gradient(pen, HORIZON, SIZE, (244, 236, 216), (238, 228, 204))
    # Wall tiles, cupboards, window, counter.
    for y in range(196, 246, 16):
        pen.line([(-HALF, y), (HALF, y)], (224, 214, 192), 1.2)
    for x in range(-168, 170, 16):
        pen.line([(x, 180), (x, 244)], (224, 214, 192), 1.2)
    for left in (-166, -112, 62, 116):
        pen.box(left, 252, left + 52, 326, (214, 190, 160), radius=3)
        pen.box(left + 7, 260, left + 45, 318, (222, 200, 172), radius=2, edge=1)
        pen.line([(left + 40, 268), (left + 40, 280)], (160, 136, 108), 2.4)
    pen.box(-48, 250, 50, 328, (226, 232, 236), radius=3)
    pen.box(-42, 256, 44, 322, (206, 230, 242), edge=1)
    pen.line([(1, 256), (1, 322)], (226, 232, 236), 4)
    pen.box(-HALF, 160, HALF, 196, (206, 182, 152), edge=0)
    for left in range(-166, 168, 42):
        pen.box(left, 160, left + 38, 188, (216, 194, 164), radius=2, edge=1)
    pen.box(-HALF, 188, HALF, 197, (190, 184, 180), edge=1)
    _floor(pen, (240, 236, 228), (216, 212, 206))


def _bathroom(pen: Pen, night: bool) -> None:  # noqa: ARG001 (indoors it is never dark)
    pen.box(-HALF, HORIZON, HALF, SIZE, (222, 238, 240), edge=0)
    for y in range(HORIZON, SIZE, 24):
        pen.line([(-HALF, y), (HALF, y)], (198, 220, 224), 1.4)
    for i, x in enumerate(range(-180, 180, 24)):
        for y in range(HORIZON, SIZE, 48):
            pen.line([(x + 12 * (i % 2), y), (x + 12 * (i % 2), y + 24)], (198, 220, 224), 1.4)
    # Mirror, wash basin with tap, towel, shower.
    pen.box(-46, 244, 46, 324, (176, 190, 198), radius=12)
    pen.box(-40, 250, 40, 318, (228, 242, 248), radius=9, edge=0)
    for a, b in (((-22, 262), (8, 306)), ((-6, 258), (26, 302))):
        pen.line([a, b], (246, 252, 254), 5)
    pen.box(-56, 196, 56, 208, (246, 248, 250), radius=5)
    pen.polygon([(-38, 197), (38, 197), (24, 176), (-24, 176)], (238, 242, 246))
    pen.limb([(0, 208), (0, 224), (13, 224), (13, 218)], (172, 182, 190), 3.4)
    pen.limb([(94, 252), (154, 252)], (172, 182, 190), 3)
    pen.box(102, 196, 146, 254, (234, 222, 226), radius=2)
    pen.limb([(-150, 196), (-150, 314), (-122, 314)], (172, 182, 190), 3.4)
    pen.polygon([(-134, 308), (-110, 308), (-115, 316), (-129, 316)], (172, 182, 190))
    for i in range(4):
        pen.line([(-132 + 6 * i, 302), (-134 + 7 * i, 280)], (176, 212, 228), 1.6)
    _floor(pen, (232, 236, 240), (196, 210, 218))


def _living_room(pen: Pen, night: bool) -> None:  # noqa: ARG001 (indoors it is never dark)
    pen.box(-HALF, HORIZON, HALF, SIZE, (236, 222, 206), edge=0)
    for x in range(-168, 170, 28):
        pen.box(x, HORIZON, x + 14, SIZE, (230, 214, 196), edge=0)
    # Window with curtains, painting, floorboards, carpet.
    pen.box(-132, 226, -42, 322, (250, 250, 248))
    pen.box(-126, 232, -48, 316, (200, 228, 244), edge=1)
    pen.line([(-87, 232), (-87, 316)], (250, 250, 248), 4)
    pen.line([(-126, 274), (-48, 274)], (250, 250, 248), 4)
    for side in (-1, 1):
        x = -87 + side * 46
        pen.polygon([(x - 16, 328), (x + 16, 328), (x + side * 14, 214), (x - side * 2, 214)], (208, 190, 196))
    pen.box(28, 236, 140, 318, (186, 156, 120))
    pen.box(36, 244, 132, 310, (214, 232, 240), edge=1)
    pen.polygon([(36, 244), (70, 288), (92, 262), (110, 280), (132, 252), (132, 244)], (180, 196, 176), edge=0)
    pen.box(-HALF, HORIZON - 2, HALF, HORIZON + 8, (246, 240, 232), edge=1)
    _draw_gradient(pen, 0, HORIZON - 2, (206, 172, 134), (194, 158, 120))
    for y in (24, 58, 88, 114, 136, 154):
        pen.line([(-HALF, y), (HALF, y)], (180, 144, 108), 1.4)
    pen.ellipse((0, 66), 150, 48, (222, 206, 196))
    pen.ellipse((0, 66), 132, 40, lighter((222, 206, 196), 0.3), edge=1)


BACKDROPS: Final[dict[str, Callable[[Pen, bool], None]]] = {
    "beach": _beach,
    "kitchen": _kitchen,
    "street": _street,
    "forest": _forest,
    "ski slope": _ski_slope,
    "farm": _farm,
    "bathroom": _bathroom,
    "living room": _living_room,
}
