"""Tests properties of scenes: a seed determines the scene, and its ground truth is consistent and visible."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from compact_hf.records import from_json, to_json
from compact_hf.scenes.kinds import ACTIONS, COLORS, INDOORS, KINDS, PLACES, SHAPES, VERBS, WORDS
from compact_hf.scenes.render import render, render_png
from compact_hf.scenes.scene import EVALUATION_SEEDS, SIZE, Depth, Scene, SceneObject, build_scene

seeds = st.integers(min_value=0, max_value=10**9)


def images_differ(first: Scene, second: Scene) -> bool:
    """Return whether the images of two scenes differ."""
    return ImageChops.difference(render(first), render(second)).getbbox() is not None


def scene_with(obj: SceneObject) -> Scene:
    """Return a scene with a single thing."""
    return Scene(0, "beach", False, "", (obj,))


@given(seeds)
def test_seed_is_a_scene_and_its_bytes(seed: int) -> None:
    assert build_scene(seed) == build_scene(seed)
    assert render_png(build_scene(seed)) == render_png(build_scene(seed))


def test_bytes_do_not_depend_on_what_was_drawn_before() -> None:
    from compact_hf.scenes import render as module

    first = render_png(build_scene(11))
    for cached in (module._actor, module._object, module._word, module._badge, module._backdrop):
        cached.cache_clear()
    assert render_png(build_scene(11)) == first


def test_pictures_are_the_size_they_say_and_all_different() -> None:
    files = {render_png(build_scene(seed)) for seed in range(20)}
    assert len(files) == 20
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            assert (image.mode, image.size, image.format) == ("RGB", (SIZE, SIZE), "PNG")
            assert not image.info


@given(seeds)
def test_truth_survives_json(seed: int) -> None:
    assert from_json(Scene, to_json(build_scene(seed))) == build_scene(seed)


@given(seeds)
def test_everything_stands_in_the_picture_where_nobody_argues(seed: int) -> None:
    scene = build_scene(seed)
    assert scene.objects
    for obj in scene.objects:
        assert 20 <= obj.x <= SIZE - 20
        assert 150 <= obj.y <= SIZE
        assert scene.place in obj.kind_info.odd_places or obj.kind_info.fits(scene.place)


@given(seeds)
def test_who_acts_acts_on_a_neighbour_and_faces_it(seed: int) -> None:
    scene = build_scene(seed)
    for obj in scene.objects:
        assert bool(obj.verb) == (obj.target >= 0)
        if obj.verb:
            target = scene.objects[obj.target]
            assert target.depth == obj.depth
            assert (target.x - obj.x) * obj.facing > 0
            assert not obj.action
            assert obj.kind_info.category == "person" or obj.verb == "chasing"


@given(seeds)
def test_groups_are_of_one_kind(seed: int) -> None:
    scene = build_scene(seed)
    grouped = [obj for obj in scene.objects if obj.is_grouped]
    assert bool(grouped) == bool(scene.arrangement)
    assert len({obj.kind for obj in grouped}) <= 1
    assert not grouped or 3 <= len(grouped) <= 5


def test_every_place_and_kind_comes_up() -> None:
    scenes = [build_scene(seed) for seed in range(300)]
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {obj.kind for scene in scenes for obj in scene.objects} == set(KINDS)


def test_places_differ_and_night_shows() -> None:
    outdoors = [place for place in PLACES if place not in INDOORS]
    places = [(place, False) for place in PLACES] + [(place, True) for place in outdoors]
    images = {render(Scene(0, place, night, "", ())).tobytes() for place, night in places}
    assert len(images) == len(places)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_shows_its_color(kind: str) -> None:
    images = {
        render(scene_with(SceneObject(kind, color, 168, 300, "foreground", shape="round"))).tobytes()
        for color in COLORS
    }
    assert len(images) == len(COLORS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_large_enough_to_be_made_out(kind: str) -> None:
    depth: Depth = "foreground" if KINDS[kind].is_small else "background"
    empty = render(Scene(0, "beach", False, "", ()))
    for action in ("", *ACTIONS[KINDS[kind].category]):
        image = render(scene_with(SceneObject(kind, "red", 168, 250, depth, shape="round", action=action)))
        box = ImageChops.difference(image, empty).getbbox()
        assert box is not None
        assert max(box[2] - box[0], box[3] - box[1]) >= 36, action


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.category != "object"])
def test_every_action_and_deed_shows(kind: str) -> None:
    plain = SceneObject(kind, "red", 168, 300, "foreground")
    objects = [plain, *(replace(plain, action=action) for action in ACTIONS[plain.kind_info.category])]
    cup = SceneObject("cup", "blue", 250, 300, "foreground")
    verbs = VERBS if plain.kind_info.category == "person" else ("chasing",)
    images = {render(scene_with(obj)).tobytes() for obj in objects}
    images |= {
        render(Scene(0, "beach", False, "", (replace(plain, verb=verb, target=1), cup))).tobytes() for verb in verbs
    }
    assert len(images) == len(objects) + len(verbs)


@given(seeds)
def test_words_and_shapes_show(seed: int) -> None:
    scene = build_scene(seed)
    for i, obj in enumerate(scene.objects):
        for name, values in (("word", WORDS), ("shape", SHAPES)):
            value = getattr(obj, name)
            if value:
                changed = replace(obj, **{name: next(changed for changed in values if changed != value)})
                # In a scene of its own, because things in front may cover it.
                assert images_differ(
                    scene_with(replace(obj, verb="", target=-1)), scene_with(replace(changed, verb="", target=-1))
                ), i


def test_evaluation_seeds_draw_scenes_like_any_other() -> None:
    assert build_scene(EVALUATION_SEEDS.start).objects
