"""Seeing, what CLIP's pre-training is to LLaVA: a tower with random weights in, one that tells things apart out.

Every patch on which a thing stands is asked for all that is true of the thing: kind, color, shape, word, what it does
and what is done to it; every other patch, whether it is empty; all of them for the place. So one image is hundreds of
small lessons, at a tenth of the cost of its description, and a patch learns to know the whole thing that it is part of.
The heads that answer are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compact_hf.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, SHAPES, VERBS, WORDS
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

if TYPE_CHECKING:
    import torch

_ALL_ACTIONS: Final = tuple(dict.fromkeys([*(act for acts in ACTIONS.values() for act in acts), *VERBS]))
_CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("", *KINDS),
    "color": tuple(COLORS),
    "shape": ("", *SHAPES),
    "word": ("", *WORDS),
    "act": ("", *_ALL_ACTIONS),
    "suffered": ("", *VERBS),
    "place": PLACES,
}
"""What a patch is asked -> what it may answer; empty: nothing, or no thing is there."""
_IGNORE_INDEX: Final = -100
_HALF_WIDTH: Final = 34
"""How far to either side of its middle a thing can be seen, at most, in the image's pixels."""
_HEIGHT: Final = {"foreground": 105, "background": 85}


def build_heads(width: int) -> Any:
    """Return a layer that turns a patch's features (..., width) into the logits of all answers, one after the other."""
    import torch

    return torch.nn.Linear(width, sum(map(len, _CLASSES.values())))


def patch_labels(scene: Scene, side: int) -> dict[str, list[int]]:
    """Return what each of the side x side patches, row by row, should answer each question; -100: it is not asked."""
    labels: dict[str, list[int]] = {name: [] for name in _CLASSES}
    passive_verbs = {actor.target: actor.verb for actor in scene.objects if actor.verb}
    edge = SIZE / side
    for patch in range(side * side):
        index = _find_object(scene, (patch % side + 0.5) * edge, (patch // side + 0.5) * edge)
        obj = scene.objects[index] if index is not None else None
        attributes = _get_attributes(obj, passive_verbs.get(index, "") if index is not None else "")
        for name, classes in _CLASSES.items():
            value = scene.place if name == "place" else attributes.get(name)
            labels[name].append(_IGNORE_INDEX if value is None else classes.index(value))
    return labels


def loss(logits: torch.Tensor, scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """Return the sum over the questions of the patches' mean loss; the logits are (scenes, side * side, answers)."""
    import torch

    labels = [patch_labels(scene, side) for scene in scenes]
    parts = torch.split(logits.float(), [len(classes) for classes in _CLASSES.values()], dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(
            part.flatten(0, 1),
            torch.tensor([scene_labels[name] for scene_labels in labels]).flatten(),
            ignore_index=_IGNORE_INDEX,
        )
        for name, part in zip(_CLASSES, parts, strict=True)
    ]
    return torch.stack(losses).sum()


def _get_attributes(obj: SceneObject | None, passive_verb: str) -> dict[str, str]:
    if obj is None:
        return {"kind": ""}
    action = obj.action or obj.verb
    return {
        "kind": obj.kind,
        "color": obj.color,
        "shape": obj.shape,
        "word": obj.word,
        "act": action,
        "suffered": passive_verb,
    }


def _find_object(scene: Scene, x: float, y: float) -> int | None:
    """Return the index of the thing that stands where a patch has its middle, the nearest if there are several."""
    candidates = [
        (abs(obj.x - x), i)
        for i, obj in enumerate(scene.objects)
        if abs(obj.x - x) <= _HALF_WIDTH and obj.y - _HEIGHT[obj.depth] <= y <= obj.y
    ]
    return min(candidates)[1] if candidates else None
