"""Checks that descriptions are complete, and that requests mean what the grammar of questions defines."""

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
    place, _, object_phrases = describe_scene(scene).removesuffix(".").partition(": ")
    phrases = object_phrases.split("; ")
    if scene.arrangement:
        assert phrases.pop() == f"in a {scene.arrangement}"
    assert place == (f"{scene.place} at night" if scene.night else scene.place)
    expected = sorted((obj.depth, obj.color, obj.kind, obj.word) for obj in scene.objects)
    described = []
    for phrase in phrases:
        _, depth, color, kind, *rest = phrase.split()
        described.append((depth, color, kind, next((word for word in rest if word.isupper()), "")))
    assert sorted(described) == expected


@pytest.mark.parametrize("seed", range(40))
def test_a_part_is_what_its_request_means(seed: int) -> None:
    scene = build_scene(seed)
    request, description = describe_part(scene, random.Random(seed))
    noun, constraints = read_phrase(request.removeprefix("Describe the ").removesuffix(".")) or ("", ())
    objects = select_objects(scene, noun, constraints)
    assert objects
    described = [tuple(phrase.split()[1:4]) for phrase in description.removesuffix(".").split("; ")]
    assert sorted(described) == sorted((obj.depth, obj.color, obj.kind) for obj in objects)


def test_a_deed_is_told_of_who_does_it_and_of_whom_it_is_done_to() -> None:
    scene = next(
        scene for scene in map(build_scene, range(100)) if any(obj.verb == "painting" for obj in scene.objects)
    )
    description = describe_scene(scene)
    assert " painting" in description
    assert " painted" in description


def test_conversations_are_about_the_whole_or_about_parts_and_drawn_by_the_generator() -> None:
    scene = build_scene(3)
    conversations = [conversation(scene, random.Random(seed)) for seed in range(40)]
    assert conversations == [conversation(scene, random.Random(seed)) for seed in range(40)]
    assert {len(exchanges) for exchanges in conversations} == {1, 3}
    assert all((exchanges[0][0] == SCENE_REQUEST) == (len(exchanges) == 1) for exchanges in conversations)


def test_a_glance_is_at_the_place_and_at_a_part() -> None:
    scene = build_scene(2)
    (request, place), (part_request, _) = glance(scene, random.Random(0))
    assert (request, place) == (PLACE_REQUEST, "street at night.")
    assert read_phrase(part_request.removeprefix("Describe the ").removesuffix("."))
