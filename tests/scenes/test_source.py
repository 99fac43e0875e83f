"""Tests scenes as an image source: which scenes a text selects, what is refused, and how scenes are read."""

from __future__ import annotations

import pytest

from compact_hf.errors import SourceError, UsageError
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import EVALUATION_SEEDS, build_scene
from compact_hf.scenes.source import SceneSource, parse_scenes, parse_seed, reserved_scenes

FIRST = EVALUATION_SEEDS.start
LAST = EVALUATION_SEEDS.stop - 1


@pytest.mark.parametrize(
    ("text", "scenes"),
    [
        ("scenes:1", SceneSource(0, 1)),
        ("scenes:200", SceneSource(0, 200)),
        ("scenes:5-9", SceneSource(5, 9)),
        (f"scenes:{FIRST}", SceneSource(0, FIRST)),
        (f"scenes:{LAST + 1}-{LAST + 3}", SceneSource(LAST + 1, LAST + 3)),
    ],
)
def test_text_stands_for_scenes(text: str, scenes: SceneSource) -> None:
    assert parse_scenes(text) == scenes


@pytest.mark.parametrize(
    "text", ["scenes", "scenes:", "scenes:ten", "scenes:-3", "scenes:1.5", "photos:3", "scenes:1-2-3", ""]
)
def test_other_texts_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UsageError, match=r"scenes:N .*scenes:A-B"):
        parse_scenes(text)


@pytest.mark.parametrize("text", ["scenes:0", "scenes:4-4", "scenes:9-5"])
def test_no_scene_at_all_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="at least one"):
        parse_scenes(text)


@pytest.mark.parametrize(
    "text",
    [f"scenes:{FIRST}-{FIRST + 1}", f"scenes:{LAST}-{LAST + 1}", f"scenes:{FIRST + 1}", f"scenes:0-{LAST + 9}"],
)
def test_evaluation_scenes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="reserved for evaluation"):
        parse_scenes(text)


def test_evaluation_scenes_can_be_had_on_purpose() -> None:
    assert list(reserved_scenes(2).refs()) == [f"scene:{FIRST}", f"scene:{FIRST + 1}"]
    for n in (0, len(EVALUATION_SEEDS) + 1):
        with pytest.raises(UsageError, match=f"asked for {n} "):
            reserved_scenes(n)


def test_refs_are_in_the_order_of_seeds_and_read_as_pictures() -> None:
    scenes = parse_scenes("scenes:9-12")
    assert list(scenes.refs()) == ["scene:9", "scene:10", "scene:11"]
    assert scenes.read("scene:10") == render_png(build_scene(10))
    assert parse_seed("scene:10") == 10


@pytest.mark.parametrize("ref", ["photo.jpg", "scene:", "scene:-1", "scene:1x", "scene:" + "9" * 19])
def test_other_refs_cannot_be_read(ref: str) -> None:
    with pytest.raises(SourceError, match="scene:SEED"):
        SceneSource(0, 1).read(ref)
