"""Renders a scene as a Pillow image of `SIZE` x `SIZE` pixels, or as the bytes of a PNG file, and gives exact boxes.

An image is a backdrop with about a dozen sprites pasted onto it, from back to front. Each sprite is drawn once and
cached, because drawing takes ten times as long as pasting.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from compact_hf.scenes.art.animals import animal_badge_point, draw_animal
from compact_hf.scenes.art.backdrops import draw_backdrop
from compact_hf.scenes.art.faces import draw_badge, draw_word
from compact_hf.scenes.art.objects import draw_object, get_text_style
from compact_hf.scenes.art.pen import Color, Drawing
from compact_hf.scenes.art.people import draw_person, person_badge_point
from compact_hf.scenes.kinds import KINDS
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE: Final = {"foreground": 1.1, "background": 0.86}  # size of things relative to how they are drawn


def render(scene: Scene) -> Image:
    """Return the image of `scene`: RGB, 336 x 336."""
    # Copied, because the backdrop is shared by all scenes in this place.
    image = _backdrop(scene.place, scene.night).copy()
    # Ropes first, so that they are behind all things. Objects are sorted from back to front.
    for obj in scene.objects:
        if obj.verb == "pulling":
            _draw_rope(image, obj, scene.objects[obj.target])
    for obj in scene.objects:
        for sprite, x, y in _iter_sprites(obj):
            sprite.paste(image, x, y)
    return image


def render_png(scene: Scene) -> bytes:
    """Return the image of `scene` as a PNG file; the same scene always gives the same bytes."""
    out = io.BytesIO()
    # The level is fixed: another one would change the bytes, and thus the ids of the images.
    render(scene).save(out, "PNG", compress_level=3)
    return out.getvalue()


def get_box(obj: SceneObject) -> tuple[int, int, int, int]:
    """Return the box of a thing in the image: `(left, top, right, bottom)` in pixels, each 0 to `SIZE`.

    The box is amodal: it also covers what other things hide. The badge of a person or animal belongs to it, the rope of
    one that pulls does not. Boxes that reach over the edge of the image are clipped.

    Args:
        obj (`SceneObject`): one of the things of a scene.
    """
    edges = [
        (x + sprite.left, y + sprite.top, x + sprite.left + sprite.image.width, y + sprite.top + sprite.image.height)
        for sprite, x, y in _iter_sprites(obj)
    ]
    lefts, tops, rights, bottoms = zip(*edges, strict=True)
    return max(0, min(lefts)), max(0, min(tops)), min(SIZE, max(rights)), min(SIZE, max(bottoms))


def _iter_sprites(obj: SceneObject) -> Iterator[tuple[Drawing, int, int]]:
    """Yield the sprites of a thing, each with x and y of its foot in the image.

    The first is the thing itself, the second the word on an object, or the badge of a person or animal.
    """
    scale, pose = SCALE[obj.depth], obj.action or obj.verb
    if obj.kind_info.category == "object":
        yield _object(obj.kind, obj.color, obj.shape, scale), obj.x, obj.y
        if obj.word:
            style = get_text_style(obj.kind, obj.color, obj.shape)
            # Sprites are measured upwards from the foot, the image downwards from its upper edge.
            height = round(style.center[1] * scale)
            yield _word(obj.word, style.size, style.fill, style.halo, scale), obj.x, obj.y - height
        return
    actor = _actor(obj.kind, obj.color, pose, scale)
    yield actor if obj.facing > 0 else actor.mirror(), obj.x, obj.y
    if obj.shape:
        x, y = (
            person_badge_point(obj.kind, pose)
            if obj.kind_info.category == "person"
            else animal_badge_point(obj.kind, pose)
        )
        yield _badge(obj.shape, obj.word, scale), obj.x + round(x * scale) * obj.facing, obj.y - round(y * scale)


def _draw_rope(image: Image, obj: SceneObject, target: SceneObject) -> None:
    """Draw the rope with which `obj` pulls `target`."""
    from PIL import ImageDraw

    scale = SCALE[obj.depth]
    height = round(34 * scale)
    ends = ((obj.x, obj.y - height - 8), (target.x, target.y - height // 2))
    ImageDraw.Draw(image).line(ends, (120, 84, 48), 3)


# Large enough for all sprites: (4 persons x 13 poses + 11 animals x 6 poses) x 8 colors x 2 scales = 1,888.
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
