"""Draws antialiased sprites: `Pen` draws on a transparent sheet at 3x size and scales it down.

Coordinates are pixels at scale 1, relative to the middle of the thing's foot: x to the right, y upwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]
Point = tuple[float, float]

# Factor by which sprites are drawn larger and then averaged down, because Pillow draws without antialiasing.
OVERSAMPLING: Final = 3
INK: Final[Color] = (52, 44, 52)
PAPER: Final[Color] = (252, 250, 240)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished sprite.

    Attributes:
        image (`Image`): its RGBA pixels.
        left (`int`): x of the left edge relative to the foot, in pixels.
        top (`int`): y of the upper edge relative to the foot, in pixels downwards.
    """

    image: Image
    left: int
    top: int

    def mirror(self) -> Drawing:
        """Return the drawing mirrored horizontally."""
        from PIL.Image import Transpose

        flipped = self.image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return Drawing(flipped, -self.left - flipped.width, self.top)

    def paste(self, image: Image, x: int, y: int) -> None:
        """Paste the drawing onto `image` with its foot at (`x`, `y`)."""
        image.paste(self.image, (x + self.left, y + self.top), self.image)


class Pen:
    """Draws on a transparent sheet.

    Args:
        width (`int`): width of the sheet in pixels at scale 1.
        height (`int`): height of the sheet in pixels at scale 1.
        scale (`float`): factor by which the result is larger.
        bottom_margin (`int`, *optional*, defaults to 4): pixels of the sheet below the foot.
    """

    def __init__(self, width: int, height: int, *, scale: float, bottom_margin: int = 4) -> None:
        from PIL import Image, ImageDraw

        # Pixels of the sheet per unit of coordinates.
        self._zoom = OVERSAMPLING * scale
        self._size = (math.ceil(width * scale), math.ceil(height * scale))
        self._sheet = Image.new("RGBA", (self._size[0] * OVERSAMPLING, self._size[1] * OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._sheet)
        # The origin in pixels of the sheet, whose y is downwards.
        self._foot = (self._sheet.width / 2, self._sheet.height - bottom_margin * self._zoom)

    def polygon(self, points: Sequence[Point], fill: Color, *, edge: float = 1.6) -> None:
        """Fill a polygon and draw its outline, `edge` pixels wide, in a darker shade."""
        corners = [self._to_pixels(point) for point in points]
        self._draw.polygon(corners, fill=fill)
        if edge:
            # One corner further than closed, so that the joint at the first corner is drawn too.
            self._draw.line([*corners, corners[0], corners[1]], darker(fill), self._line_width(edge), joint="curve")

    def ellipse(self, center: Point, rx: float, ry: float, fill: Color, *, edge: float = 1.6) -> None:
        """Fill an ellipse with the radii `rx` and `ry`, with an outline as for `polygon`."""
        x, y = self._to_pixels(center)
        box = (x - rx * self._zoom, y - ry * self._zoom, x + rx * self._zoom, y + ry * self._zoom)
        self._draw.ellipse(box, fill, darker(fill) if edge else None, self._line_width(edge) if edge else 0)

    def box(
        self, left: float, bottom: float, right: float, top: float, fill: Color, *, radius: float = 0, edge: float = 1.6
    ) -> None:
        """Fill an upright rectangle with corners of the radius `radius`, with an outline as for `polygon`."""
        x0, y0 = self._to_pixels((left, top))
        x1, y1 = self._to_pixels((right, bottom))
        outline = darker(fill) if edge else None
        self._draw.rounded_rectangle(
            (x0, y0, x1, y1), radius * self._zoom, fill, outline, self._line_width(edge) if edge else 0
        )

    def line(self, points: Sequence[Point], fill: Color, width: float) -> None:
        """Draw a line with round ends and joints."""
        corners = [self._to_pixels(point) for point in points]
        self._draw.line(corners, fill, self._line_width(width), joint="curve")
        # Pillow only rounds joints, so both ends get a circle.
        r = width * self._zoom / 2
        for x, y in (corners[0], corners[-1]):
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill)

    def limb(self, points: Sequence[Point], fill: Color, width: float) -> None:
        """Draw a line with an outline, for arms and legs."""
        self.line(points, darker(fill), width + 2.4)
        self.line(points, fill, width)

    def arc(self, center: Point, r: float, start: float, end: float, fill: Color, width: float) -> None:
        """Draw part of a circle, from `start` to `end` degrees, clockwise from three o'clock."""
        x, y = self._to_pixels(center)
        r *= self._zoom
        self._draw.arc((x - r, y - r, x + r, y + r), start, end, fill, self._line_width(width))

    def text(self, center: Point, word: str, size: float, fill: Color, *, halo: Color | None = None) -> None:
        """Write a word around `center`, with a line height of `size` pixels and an optional outline in `halo`."""
        # The stroke makes the thin default font bolder; the halo is a wider stroke below the word.
        font = _font(size * self._zoom)
        xy, stroke = self._to_pixels(center), size * self._zoom / 30
        if halo is not None:
            self._draw.text(xy, word, halo, font, anchor="mm", stroke_width=stroke * 4)
        self._draw.text(xy, word, fill, font, anchor="mm", stroke_width=stroke)

    def to_drawing(self) -> Drawing:
        """Return the sheet scaled down to its final size and cropped to what was drawn."""
        from PIL import Image

        # Pillow blends what it draws with the transparent black of the sheet, so the colors are already multiplied by
        # alpha. Reading the bytes as RGBa avoids a conversion that would take longer than all the drawing.
        premultiplied = Image.frombytes("RGBa", self._sheet.size, self._sheet.tobytes())
        sheet = premultiplied.reduce(OVERSAMPLING).convert("RGBA")
        box = sheet.getbbox() or (0, 0, 1, 1)
        center, foot = sheet.width // 2, round(self._foot[1] / OVERSAMPLING)
        return Drawing(sheet.crop(box), box[0] - center, box[1] - foot)

    def _to_pixels(self, point: Point) -> Point:
        return self._foot[0] + point[0] * self._zoom, self._foot[1] - point[1] * self._zoom

    def _line_width(self, width: float) -> int:
        return max(1, round(width * self._zoom))


@lru_cache(maxsize=64)
def _font(size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def darker(color: Color, amount: float = 0.3) -> Color:
    """Return the color mixed with black."""
    r, g, b = color
    return round(r * (1 - amount)), round(g * (1 - amount)), round(b * (1 - amount))


def lighter(color: Color, amount: float = 0.4) -> Color:
    """Return the color mixed with white."""
    r, g, b = color
    return round(r + (255 - r) * amount), round(g + (255 - g) * amount), round(b + (255 - b) * amount)


def outline(shape: str, r: float) -> list[Point]:
    """Return the outline of one of `kinds.SHAPES`, about as large as a circle of radius `r` around the origin."""
    # The factors make shapes of the same `r` look equally large, and leave room for a word.
    if shape == "round":
        return _round(r, 40)
    if shape == "square":
        return [(-r * 0.88, -r * 0.88), (r * 0.88, -r * 0.88), (r * 0.88, r * 0.88), (-r * 0.88, r * 0.88)]
    if shape == "triangular":
        return [(-r * 1.12, -r * 0.86), (r * 1.12, -r * 0.86), (0, r * 1.06)]
    if shape == "diamond-shaped":
        return [(0, -r * 1.14), (r * 1.02, 0), (0, r * 1.14), (-r * 1.02, 0)]
    if shape == "star-shaped":
        # Tips and notches in turn, from the upper tip on.
        radii = [r * 1.16, r * 0.56] * 5
        angles = [math.pi / 2 + math.pi * i / 5 for i in range(10)]
        return [
            (radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)
        ]
    return _heart(r)


def _round(r: float, corners: int) -> list[Point]:
    angles = (2 * math.pi * i / corners for i in range(corners))
    return [(r * math.cos(angle), r * math.sin(angle)) for angle in angles]


def _heart(r: float) -> list[Point]:
    """Return the parametric heart curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled to `r`."""
    points = []
    for i in range(40):
        angle = 2 * math.pi * i / 40
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        # The curve is about 32 wide; + 2 moves its middle to the origin.
        points.append((x * r / 15, (y + 2) * r / 15))
    return points
