"""What a patch is asked: of the thing that stands on it, and nothing about things where none stands."""

from __future__ import annotations

import patch_pretraining
from patch_pretraining import build_heads, loss, patch_labels

from compact_hf.scenes.scene import SIZE, build_scene

SIDE = 10


def test_a_patch_is_asked_about_the_thing_it_shows() -> None:
    for seed in range(20):
        scene = build_scene(seed)
        right = patch_labels(scene, SIDE)
        assert {len(answers) for answers in right.values()} == {SIDE * SIDE}
        for thing in scene.objects:
            patch = (thing.y - 20) * SIDE // SIZE * SIDE + thing.x * SIDE // SIZE
            nearest = min(scene.objects, key=lambda one: (one.depth != thing.depth, abs(one.x - thing.x)))
            if nearest is thing and not thing.is_grouped:
                said = {name: answers[right[name][patch]] for name, answers in patch_pretraining._CLASSES.items()}
                assert said["kind"] in {one.kind for one in scene.objects if abs(one.x - thing.x) < 50}
                assert said["place"] == scene.place


def test_an_empty_patch_is_asked_for_the_place_and_whether_it_is_empty() -> None:
    right = patch_labels(build_scene(0), SIDE)
    # The upper left corner is sky.
    assert right["kind"][0] == 0
    assert right["color"][0] == right["word"][0] == -100
    assert right["place"][0] >= 0


def test_right_answers_cost_nothing_and_wrong_ones_do() -> None:
    import torch

    scenes = [build_scene(seed) for seed in range(2)]
    sizes = [len(answers) for answers in patch_pretraining._CLASSES.values()]
    assert build_heads(8).out_features == sum(sizes)
    logits = torch.zeros(2, SIDE * SIDE, sum(sizes))
    guessing = loss(logits, scenes, SIDE)
    for row, scene in enumerate(scenes):
        right, start = patch_labels(scene, SIDE), 0
        for name, size in zip(patch_pretraining._CLASSES, sizes, strict=True):
            for patch, answer in enumerate(right[name]):
                if answer >= 0:
                    logits[row, patch, start + answer] = 50.0
            start += size
    assert loss(logits, scenes, SIDE) < 1e-3 < guessing
