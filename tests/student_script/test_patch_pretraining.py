"""Checks the labels of patches: attributes of the object in the patch, and none if there is no object."""

from __future__ import annotations

import numpy as np
import patch_pretraining
import pytest
from patch_pretraining import PatchLabels, build_heads, loss, patch_labels

from compact_hf.scenes.kinds import VERBS
from compact_hf.scenes.render import get_box
from compact_hf.scenes.scene import SIZE, build_scene

GRID_SIZE = 12
EDGE = SIZE / GRID_SIZE


def name_classes(labels: PatchLabels, patch: int) -> dict[str, str]:
    """Return the names of a patch's classes; attributes that do not count in the loss are left out."""
    return {
        name: values[number]
        for (name, values), number in zip(patch_pretraining._CLASSES.items(), labels.classes[:, patch], strict=True)
        if number >= 0
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_patch_is_asked_about_the_thing_whose_box_it_is_in(seed: int) -> None:
    scene = build_scene(seed)
    labels = patch_labels(scene, GRID_SIZE)
    boxes = {get_box(obj): obj for obj in scene.objects}
    passive_verbs = {scene.objects[actor.target]: VERBS[actor.verb] for actor in scene.objects if actor.verb}
    owners = 0
    for patch in range(GRID_SIZE * GRID_SIZE):
        x, y = (patch % GRID_SIZE + 0.5) * EDGE, (patch // GRID_SIZE + 0.5) * EDGE
        names = name_classes(labels, patch)
        assert names["place"] == scene.place
        inside = [obj for (left, top, right, bottom), obj in boxes.items() if left <= x <= right and top <= y <= bottom]
        if not inside and not names["middle"]:
            assert set(names) == {"kind", "middle", "place"}
            assert names["kind"] == ""
            assert np.isnan(labels.edges[patch]).all()
            continue
        left, top, right, bottom = labels.edges[patch] * SIZE
        obj = boxes[round(x - left), round(y - top), round(x + right), round(y + bottom)]
        assert names["middle"] or obj in inside
        assert [names[name] for name in ("kind", "color", "shape", "word", "depth", "act", "passive")] == [
            obj.kind, obj.color, obj.shape, obj.word, obj.depth, obj.action or obj.verb, passive_verbs.get(obj, "")
        ]  # fmt: skip
        owners += 1
    assert owners > 20


@pytest.mark.parametrize("seed", range(60))
def test_every_thing_has_one_middle_which_belongs_to_it_even_if_it_is_narrow(seed: int) -> None:
    scene = build_scene(seed)
    labels = patch_labels(scene, GRID_SIZE)
    middles = {patch for patch in range(GRID_SIZE**2) if name_classes(labels, patch)["middle"]}
    expected = {}
    for obj in scene.objects:
        left, top, right, bottom = get_box(obj)
        # A thing in front replaces one behind it.
        expected[int((top + bottom) / 2 // EDGE) * GRID_SIZE + int((left + right) / 2 // EDGE)] = obj
    assert middles == set(expected)
    for patch, obj in expected.items():
        assert name_classes(labels, patch)["kind"] == obj.kind
        width = labels.edges[patch][[0, 2]].sum() * SIZE
        assert width == pytest.approx(get_box(obj)[2] - get_box(obj)[0])


def test_right_outputs_cost_nothing_and_wrong_ones_do() -> None:
    import torch

    labels = [patch_labels(build_scene(seed), GRID_SIZE) for seed in range(2)]
    sizes = [len(classes) for classes in patch_pretraining._CLASSES.values()]
    assert build_heads(8).out_features == sum(sizes) + 4
    outputs = torch.zeros(2, GRID_SIZE * GRID_SIZE, sum(sizes) + 4)
    uniform_loss = loss(outputs, labels)
    for row, label in enumerate(labels):
        start = 0
        for classes, size in zip(label.classes, sizes, strict=True):
            for patch, number in enumerate(classes):
                if number >= 0:
                    outputs[row, patch, start + number] = 50.0
            start += size
        outputs[row, :, start:] = torch.from_numpy(np.nan_to_num(label.edges))
    assert loss(outputs, labels) < 1e-3 < uniform_loss
    # A tenth of the image's size in every edge of every box.
    outputs[..., -4:] += 0.1
    assert loss(outputs, labels).item() == pytest.approx(1.0, abs=1e-3)
