"""Defines the loss that pre-trains the vision tower, the tiny model's substitute for CLIP's pre-training.

It classifies attributes per patch. A patch within an object predicts the attributes of the whole object: kind, color,
shape, word, action, and what is done to it. Other patches predict that they are empty, and all patches predict the
place. One image thus gives hundreds of training examples, at a tenth of the cost of a description. The classification
heads are discarded after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compact_hf.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, SHAPES, VERBS, WORDS
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

if TYPE_CHECKING:
    import torch

# Some actions are those of persons and animals. Each occurs once, in a fixed order: the order of the classes.
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
"""Attribute -> its classes; the empty string means that the object has no such attribute, or there is no object."""
# PyTorch's label for targets that do not count in the loss.
_IGNORE_INDEX: Final = -100
_HALF_WIDTH: Final = 34
"""Maximum half width of an object, in pixels of the image."""
_HEIGHT: Final = {"foreground": 105, "background": 85}  # maximum heights of objects, in pixels of the image


def build_heads(width: int) -> Any:
    """Return a linear layer from a patch's features `(..., width)` to the logits of all classes `(..., classes)`.

    The classes of all attributes are concatenated.

    Args:
        width (`int`): hidden size of the tower.
    """
    import torch

    return torch.nn.Linear(width, sum(map(len, _CLASSES.values())))


def patch_labels(scene: Scene, side: int) -> dict[str, list[int]]:
    """Return the class of every patch, row by row, for each attribute; -100 excludes a patch from the loss.

    Args:
        scene (`Scene`): the scene in the image.
        side (`int`): number of patches per row and per column.
    """
    labels: dict[str, list[int]] = {name: [] for name in _CLASSES}
    # Index of an object -> what is done to it; of several actors the last one counts.
    passive_verbs = {actor.target: actor.verb for actor in scene.objects if actor.verb}
    edge = SIZE / side
    for patch in range(side * side):
        # The center of the patch, in pixels of the scene's image.
        index = _find_object(scene, (patch % side + 0.5) * edge, (patch // side + 0.5) * edge)
        obj = scene.objects[index] if index is not None else None
        attributes = _get_attributes(obj, passive_verbs.get(index, "") if index is not None else "")
        for name, classes in _CLASSES.items():
            # An empty patch has no color, shape and so on, so these are excluded from its loss.
            value = scene.place if name == "place" else attributes.get(name)
            labels[name].append(_IGNORE_INDEX if value is None else classes.index(value))
    return labels


def loss(logits: torch.Tensor, scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """Return the sum over attributes of the mean cross-entropy over patches.

    Args:
        logits (`torch.Tensor`): shape `(scenes, side * side, classes)`.
        scenes (`Sequence[Scene]`): the scenes of the batch.
        side (`int`): number of patches per row and per column.
    """
    import torch

    labels = [patch_labels(scene, side) for scene in scenes]
    # One tensor (scenes, patches, classes of the attribute) per attribute.
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
    """Return the attributes that a patch of an object predicts; an empty patch predicts only that there is none."""
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
    """Return the index of the object at the center of a patch, the nearest one if there are several."""
    candidates = [
        (abs(obj.x - x), i)
        for i, obj in enumerate(scene.objects)
        # y is from the upper edge: an object is the box from its foot up to the maximum height.
        if abs(obj.x - x) <= _HALF_WIDTH and obj.y - _HEIGHT[obj.depth] <= y <= obj.y
    ]
    return min(candidates)[1] if candidates else None
