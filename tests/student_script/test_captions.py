"""What the student is told about scenes: all of it is there, and a request means what the questions' grammar says."""

from __future__ import annotations

import random

import pytest
from captions import PLACE_REQUEST, SCENE_REQUEST, conversation, describe_part, describe_scene, glance

from compact_hf.scenes.phrases import read_phrase
from compact_hf.scenes.program import select_objects
from compact_hf.scenes.scene import build_scene


@pytest.mark.parametrize("seed", range(20))
def test_the_whole_names_every_thing_once(seed: int) -> None:
    scene = build_scene(seed)
    place, _, things = describe_scene(scene).removesuffix(".").partition(": ")
    named = things.split("; ")
    if scene.arrangement:
        assert named.pop() == f"in a {scene.arrangement}"
    assert place == (f"{scene.place} at night" if scene.night else scene.place)
    expected = sorted((thing.depth, thing.color, thing.kind, thing.word) for thing in scene.objects)
    found = []
    for phrase in named:
        _, depth, color, kind, *rest = phrase.split()
        found.append((depth, color, kind, next((word for word in rest if word.isupper()), "")))
    assert sorted(found) == expected


@pytest.mark.parametrize("seed", range(40))
def test_a_part_is_what_its_request_means(seed: int) -> None:
    scene = build_scene(seed)
    request, description = describe_part(scene, random.Random(seed))
    noun, constraints = read_phrase(request.removeprefix("Describe the ").removesuffix(".")) or ("", ())
    meant = select_objects(scene, noun, constraints)
    assert meant
    named = [tuple(phrase.split()[1:4]) for phrase in description.removesuffix(".").split("; ")]
    assert sorted(named) == sorted((thing.depth, thing.color, thing.kind) for thing in meant)


def test_a_deed_is_told_of_who_does_it_and_of_whom_it_is_done_to() -> None:
    scene = next(
        scene for scene in map(build_scene, range(100)) if any(one.verb == "painting" for one in scene.objects)
    )
    description = describe_scene(scene)
    assert " painting" in description
    assert " painted" in description


def test_conversations_are_about_the_whole_or_about_parts_and_drawn_by_the_generator() -> None:
    scene = build_scene(3)
    drawn = [conversation(scene, random.Random(seed)) for seed in range(40)]
    assert drawn == [conversation(scene, random.Random(seed)) for seed in range(40)]
    assert {len(exchanges) for exchanges in drawn} == {1, 3}
    assert all((exchanges[0][0] == SCENE_REQUEST) == (len(exchanges) == 1) for exchanges in drawn)


def test_a_glance_is_at_the_place_and_at_a_part() -> None:
    scene = build_scene(2)
    (request, place), (of_part, _) = glance(scene, random.Random(0))
    assert (request, place) == (PLACE_REQUEST, "street at night.")
    assert read_phrase(of_part.removeprefix("Describe the ").removesuffix("."))
