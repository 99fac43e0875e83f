"""A scene as a picture. In: a `Scene`. Out: a Pillow image of `SIZE` x `SIZE`, or a PNG file's bytes.

Every drawing is made once and kept (`functools.cache`): a picture is a backdrop and a dozen small sheets.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from compact_hf.scenes.kinds import COLORS
from compact_hf.scenes.scene import SIZE, Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE: Final = {"foreground": 1.0, "background": 0.74}


def render(scene: Scene) -> Image:
    """Return the picture of `scene`: RGB, 336 x 336."""
    picture = _backdrop(scene.place, scene.night).copy()
    for thing in scene.things:
        _paste(picture, thing)
    return picture


def png(scene: Scene) -> bytes:
    """Return the picture of `scene` as a PNG file, the same bytes every time."""
    out = io.BytesIO()
    render(scene).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _paste(picture: Image, thing: Thing) -> None:
    sheet, (x, y) = _sheet(
        thing.kind, thing.color, thing.shape, thing.word, thing.action or thing.doing, SCALE[thing.depth], thing.facing
    )
    picture.paste(sheet, (thing.x + x, thing.y + y), sheet)


@lru_cache(maxsize=4096)
def _sheet(
    kind: str, color: str, shape: str, word: str, pose: str, scale: float, facing: int
) -> tuple[Image, tuple[int, int]]:
    from PIL import Image as Images

    from compact_hf.scenes.pen import Pen
    from compact_hf.scenes.people import POSES, draw_person

    if kind in ("man", "woman", "boy", "girl"):
        sheet = draw_person(kind, color, pose, scale)
    else:
        pen = Pen(80, 80, scale=scale)
        pen.box(-30, 0, 30, 50, COLORS[color])
        pen.text((0, 25), word or kind, 14, (255, 255, 255))
        sheet = pen.sheet()
    if facing < 0:
        sheet = sheet.transpose(Images.Transpose.FLIP_LEFT_RIGHT)
    return sheet, (-sheet.width // 2, 4 - sheet.height)


@lru_cache(maxsize=32)
def _backdrop(place: str, night: bool) -> Image:
    from PIL import Image as Images

    return Images.new("RGB", (SIZE, SIZE), (180, 210, 240))
