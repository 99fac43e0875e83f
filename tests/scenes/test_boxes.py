"""Checks the boxes of things against the pixels that the same thing changes when it is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.scenes.render import get_box, render
from compact_hf.scenes.scene import SIZE, Scene, SceneObject, build_scene

Box = tuple[int, int, int, int]


def drawn_box(scene: Scene, obj: SceneObject) -> Box:
    """Return the box of all pixels that a thing changes when it is the only one in a scene."""
    # Without its verb there is no rope; the pose of a verb is that of an action with the same name.
    alone = replace(obj, action=obj.action or obj.verb, verb="", target=-1)
    empty = np.asarray(render(replace(scene, objects=()))).astype(int)
    changed = (np.asarray(render(replace(scene, objects=(alone,)))) != empty).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@given(st.integers(min_value=0, max_value=10**9))
def test_the_box_is_that_of_the_pixels(seed: int) -> None:
    scene = build_scene(seed)
    for obj in scene.objects:
        left, top, right, bottom = get_box(obj)
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        # Antialiased edges may have the color of what is behind them.
        assert np.abs(np.subtract(drawn_box(scene, obj), (left, top, right, bottom))).max() <= 2


def test_known_boxes() -> None:
    boxes = {(obj.color, obj.kind, obj.depth): get_box(obj) for obj in build_scene(7).objects}
    assert boxes["red", "cushion", "background"] == (68, 139, 137, 200)
    # It reaches over the left edge and is clipped.
    assert boxes["red", "boy", "background"][0] == 0


def test_a_badge_widens_the_box_and_hidden_parts_count() -> None:
    badge = SceneObject("cat", "red", 150, 200, "background", shape="round", word="TEA")
    plain = get_box(replace(badge, shape="", word=""))
    with_badge = get_box(badge)
    assert with_badge != plain
    assert all(inner <= outer for inner, outer in zip(with_badge[:2], plain[:2], strict=True))
    assert all(inner >= outer for inner, outer in zip(with_badge[2:], plain[2:], strict=True))
    hidden = SceneObject("boy", "red", 150, 200, "background")
    hiding = SceneObject("tent", "blue", 150, 202, "foreground")
    scene = Scene(0, "beach", False, "", (hidden, hiding))
    assert get_box(scene.objects[0]) == drawn_box(scene, hidden)


def test_a_rope_is_outside_the_box() -> None:
    puller = SceneObject("man", "red", 60, 322, "foreground", verb="pulling", target=1)
    scene = Scene(0, "beach", False, "", (puller, SceneObject("kite", "blue", 260, 322, "foreground", shape="round")))
    assert get_box(puller)[2] < 120
    assert get_box(scene.objects[1])[0] > 200


def test_a_mirrored_thing_has_a_mirrored_box() -> None:
    obj = SceneObject("woman", "pink", 168, 322, "foreground", facing=1, shape="square", action="reading")
    left, top, right, bottom = get_box(obj)
    mirrored_left, mirrored_top, mirrored_right, mirrored_bottom = get_box(replace(obj, facing=-1))
    assert (top, bottom) == (mirrored_top, mirrored_bottom)
    # Badges are rounded to whole pixels.
    assert abs(left - (2 * 168 - mirrored_right)) <= 1
    assert abs(right - (2 * 168 - mirrored_left)) <= 1
