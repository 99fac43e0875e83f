"""Checks that descriptions are complete and true, and that requests mean what the grammar of questions defines."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from captions import (
    SCENE_REQUEST,
    Part,
    box_part,
    call_for_part,
    conversation,
    describe_part,
    describe_scene,
    draw_part,
    point_at_part,
    tell_about_part,
    text_conversation,
)

from compact_hf.scenes.phrases import PLURALS, read_phrase
from compact_hf.scenes.program import select_objects
from compact_hf.scenes.render import get_box
from compact_hf.scenes.scene import SIZE, build_scene


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


@pytest.mark.parametrize("seed", range(60))
def test_a_part_is_what_its_request_means(seed: int) -> None:
    scene = build_scene(seed)
    part = draw_part(scene, random.Random(seed))
    request, description = describe_part(part)
    noun, constraints = read_phrase(request.removeprefix("Describe the ").removesuffix(".")) or ("", ())
    objects = select_objects(scene, noun, constraints)
    assert sorted(objects, key=lambda obj: (obj.depth, obj.x)) == part.objects
    if not objects:
        assert description == "none."
        return
    described = [tuple(phrase.split()[1:4]) for phrase in description.removesuffix(".").split("; ")]
    assert sorted(described) == sorted((obj.depth, obj.color, obj.kind) for obj in objects)


@pytest.mark.parametrize("seed", range(60))
def test_points_lie_in_their_boxes_and_boxes_are_those_of_the_drawing(seed: int) -> None:
    part = draw_part(build_scene(seed), random.Random(seed))
    (_, points), (_, boxes) = point_at_part(part), box_part(part)
    if not part.objects:
        assert points == boxes == "none"
        return
    for obj, (x, y), box in zip(part.objects, json.loads(f"[{points}]"), json.loads(f"[{boxes}]"), strict=True):
        left, top, right, bottom = get_box(obj)
        assert box == [round(100 * edge / SIZE) for edge in (left, top, right, bottom)]
        assert left < x * SIZE / 100 < right
        assert top < y * SIZE / 100 < bottom


def test_a_count_is_a_number_from_0_to_12_and_the_request_does_not_tell_it() -> None:
    answers: Counter[str] = Counter()
    for seed in range(1000):
        scene = build_scene(seed)
        for request, description in conversation(scene, random.Random(seed)):
            if not request.startswith("Count "):
                continue
            answers[description] += 1
            if request == "Count all things.":
                assert description == str(len(scene.objects))
                continue
            phrase = request.removeprefix("Count the ").removesuffix(".")
            noun, constraints = read_phrase(phrase) or ("", ())
            assert PLURALS[noun] in phrase
            assert description == str(len(select_objects(scene, noun, constraints)))
    assert set(answers) == {str(number) for number in range(13)}
    assert answers["1"] < 0.4 * answers.total()


@pytest.mark.parametrize("tool", ["detect", "crop"])
def test_calls_are_json_with_the_words_of_the_request(tool: str) -> None:
    with_box = 0
    for seed in range(100):
        part = draw_part(build_scene(seed), random.Random(seed))
        request, text = call_for_part(part, tool)
        assert request == f"Call the tool {tool} for {part.phrase}."
        call = json.loads(text)
        assert call["name"] == tool
        if tool == "crop" and len(part.objects) == 1:
            assert str(call["arguments"]["box"]) == box_part(part)[1]
            with_box += 1
        else:
            assert call["arguments"] == {"query": part.phrase.removeprefix("the ")}
    assert (with_box > 0) == (tool == "crop")


def test_no_place_is_asked_for_if_the_scene_is_only_described() -> None:
    calls = 0
    for seed in range(300):
        for request, description in text_conversation(build_scene(seed), random.Random(seed)):
            calls += request.startswith("Call ")
            assert not re.search(r"\[\d+, \d+", description)
    assert calls > 50


def test_sentences_tell_about_one_thing_or_how_many_there_are() -> None:
    scene = build_scene(7)
    obj = scene.objects[1]
    assert tell_about_part(Part(scene, "the cushions", "the cushion", "cushions", [obj])) == (
        "Tell me about the cushion.",
        f"There is a red cushion in the left half of the background. Its shape is {obj.shape}. It says {obj.word}. "
        "The cushion is being pushed.",
    )
    part = Part(scene, "the rabbits", "the rabbits", "rabbits", list(scene.objects[5:]))
    assert tell_about_part(part)[1] == "There are 4 rabbits."
    nothing = Part(scene, "the cars", "the cars", "cars", [])
    assert tell_about_part(nothing)[1] == "There are no cars."


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
    assert {(exchanges[0][0] == SCENE_REQUEST, len(exchanges)) for exchanges in conversations} == {
        (True, 9),
        (False, 8),
    }
