"""A scene as a picture. In: a `Scene`. Out: a Pillow image of `SIZE` x `SIZE`, or a PNG file's bytes.

A picture is a backdrop and a dozen small sheets, from back to front. Each sheet is drawn once and kept, because
drawing takes ten times as long as pasting.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from compact_hf.scenes.art.animals import draw_animal, flank
from compact_hf.scenes.art.backdrops import draw_backdrop
from compact_hf.scenes.art.faces import draw_badge, draw_word
from compact_hf.scenes.art.objects import draw_object, lettering
from compact_hf.scenes.art.pen import Color, Drawing
from compact_hf.scenes.art.people import chest, draw_person
from compact_hf.scenes.kinds import KINDS
from compact_hf.scenes.scene import Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE: Final = {"foreground": 1.1, "background": 0.86}


def render(scene: Scene) -> Image:
    """Return the picture of `scene`: RGB, 336 x 336."""
    picture = _backdrop(scene.place, scene.night).copy()
    for thing in scene.things:
        if thing.doing == "pulling":
            _draw_rope(picture, thing, scene.things[thing.target])
    for thing in scene.things:
        _draw_thing(picture, thing)
    return picture


def png(scene: Scene) -> bytes:
    """Return the picture of `scene` as a PNG file, the same bytes every time."""
    out = io.BytesIO()
    render(scene).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _draw_thing(picture: Image, thing: Thing) -> None:
    scale, pose = SCALE[thing.depth], thing.action or thing.doing
    if thing.what.category == "object":
        _object(thing.kind, thing.color, thing.shape, scale).paste(picture, thing.x, thing.y)
        if thing.word:
            look = lettering(thing.kind, thing.color, thing.shape)
            height = round(look.at[1] * scale)
            _word(thing.word, look.size, look.fill, look.halo, scale).paste(picture, thing.x, thing.y - height)
        return
    actor = _actor(thing.kind, thing.color, pose, scale)
    (actor if thing.facing > 0 else actor.mirrored()).paste(picture, thing.x, thing.y)
    if thing.shape:
        x, y = chest(thing.kind, pose) if thing.what.category == "person" else flank(thing.kind, pose)
        at = thing.x + round(x * scale) * thing.facing, thing.y - round(y * scale)
        _badge(thing.shape, thing.word, scale).paste(picture, *at)


def _draw_rope(picture: Image, thing: Thing, target: Thing) -> None:
    from PIL import ImageDraw

    scale = SCALE[thing.depth]
    height = round(34 * scale)
    ends = ((thing.x, thing.y - height - 8), (target.x, target.y - height // 2))
    ImageDraw.Draw(picture).line(ends, (120, 84, 48), 3)


@lru_cache(maxsize=2048)
def _actor(kind: str, color: str, pose: str, scale: float) -> Drawing:
    draw = draw_person if KINDS[kind].category == "person" else draw_animal
    return draw(kind, color, pose, scale)


@lru_cache(maxsize=1024)
def _object(kind: str, color: str, shape: str, scale: float) -> Drawing:
    return draw_object(kind, color, shape, scale)


@lru_cache(maxsize=128)
def _word(word: str, size: float, fill: Color, halo: Color | None, scale: float) -> Drawing:
    return draw_word(word, size, fill, halo, scale)


@lru_cache(maxsize=512)
def _badge(shape: str, word: str, scale: float) -> Drawing:
    return draw_badge(shape, word, scale)


@lru_cache(maxsize=16)
def _backdrop(place: str, night: bool) -> Image:
    return draw_backdrop(place, night=night)
