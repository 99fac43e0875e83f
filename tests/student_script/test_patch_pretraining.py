"""Checks the labels of patches: attributes of the object in the patch, and none if there is no object."""

from __future__ import annotations

import patch_pretraining
from patch_pretraining import build_heads, loss, patch_labels

from compact_hf.scenes.scene import SIZE, build_scene

GRID_SIZE = 10


def test_a_patch_is_asked_about_the_thing_it_shows() -> None:
    for seed in range(20):
        scene = build_scene(seed)
        labels = patch_labels(scene, GRID_SIZE)
        assert {len(answers) for answers in labels.values()} == {GRID_SIZE * GRID_SIZE}
        for obj in scene.objects:
            patch = (obj.y - 20) * GRID_SIZE // SIZE * GRID_SIZE + obj.x * GRID_SIZE // SIZE
            nearest = min(scene.objects, key=lambda candidate: (candidate.depth != obj.depth, abs(candidate.x - obj.x)))
            if nearest is obj and not obj.is_grouped:
                label_names = {
                    name: answers[labels[name][patch]] for name, answers in patch_pretraining._CLASSES.items()
                }
                assert label_names["kind"] in {
                    candidate.kind for candidate in scene.objects if abs(candidate.x - obj.x) < 50
                }
                assert label_names["place"] == scene.place


def test_an_empty_patch_is_asked_for_the_place_and_whether_it_is_empty() -> None:
    labels = patch_labels(build_scene(0), GRID_SIZE)
    # The upper left corner is sky.
    assert labels["kind"][0] == 0
    assert labels["color"][0] == labels["word"][0] == -100
    assert labels["place"][0] >= 0


def test_right_answers_cost_nothing_and_wrong_ones_do() -> None:
    import torch

    scenes = [build_scene(seed) for seed in range(2)]
    sizes = [len(answers) for answers in patch_pretraining._CLASSES.values()]
    assert build_heads(8).out_features == sum(sizes)
    logits = torch.zeros(2, GRID_SIZE * GRID_SIZE, sum(sizes))
    uniform_loss = loss(logits, scenes, GRID_SIZE)
    for row, scene in enumerate(scenes):
        labels, start = patch_labels(scene, GRID_SIZE), 0
        for name, size in zip(patch_pretraining._CLASSES, sizes, strict=True):
            for patch, answer in enumerate(labels[name]):
                if answer >= 0:
                    logits[row, patch, start + answer] = 50.0
            start += size
    assert loss(logits, scenes, GRID_SIZE) < 1e-3 < uniform_loss
