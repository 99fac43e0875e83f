"""Defines the loss that pre-trains the vision tower, the tiny model's substitute for CLIP's pre-training.

It classifies attributes per patch. A patch within an object predicts the attributes of the whole object: kind, color,
shape, word, action, and what is done to it. It also predicts whether it is the middle of the object, of which each
object has one, and the edges of the object's box. Other patches predict that they are empty, and all patches predict
the place. One image thus gives hundreds of training examples, at a tenth of the cost of a description. The heads are
discarded after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from captions import passive_verb

from compact_hf.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, SHAPES, VERBS, WORDS
from compact_hf.scenes.render import get_box
from compact_hf.scenes.scene import SIZE, Scene, SceneObject

if TYPE_CHECKING:
    import numpy as np
    import torch

# Some actions are those of persons and animals. Each occurs once, in a fixed order: the order of the classes.
_ALL_ACTIONS: Final = tuple(dict.fromkeys([*(act for acts in ACTIONS.values() for act in acts), *VERBS]))
_CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("", *KINDS),
    "color": tuple(COLORS),
    "shape": ("", *SHAPES),
    "word": ("", *WORDS),
    "act": ("", *_ALL_ACTIONS),
    "passive": ("", *VERBS.values()),
    "depth": ("background", "foreground"),
    "middle": ("", "middle"),
    "place": PLACES,
}
"""Attribute -> its classes; the empty string means that the object has no such attribute, or there is no object."""
_EDGES: Final = 4
# PyTorch's label for targets that do not count in the loss.
_IGNORE_INDEX: Final = -100
# An error of a tenth of the image's size in every edge weighs as much as one nat of a class.
_BOX_WEIGHT: Final = 10.0


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """The targets of all patches of one image, row by row.

    Attributes:
        classes (`np.ndarray`): class of every patch for every attribute, `(attributes, patches)`; -100 excludes a patch
            from the loss.
        edges (`np.ndarray`): distances from the middle of a patch to the left, upper, right and lower edge of the box
            of its object, as shares of the image's size, `(patches, 4)`; NaN if the patch is empty.
    """

    classes: np.ndarray
    edges: np.ndarray


def build_heads(width: int) -> Any:
    """Return a linear layer from a patch's features `(..., width)` to the logits of all classes and the four edges.

    The classes of all attributes are concatenated, followed by the edges.

    Args:
        width (`int`): hidden size of the tower.
    """
    import torch

    return torch.nn.Linear(width, sum(map(len, _CLASSES.values())) + _EDGES)


def patch_labels(scene: Scene, side: int) -> PatchLabels:
    """Return the targets of all patches of a scene's image.

    Args:
        scene (`Scene`): the scene in the image.
        side (`int`): number of patches per row and per column.
    """
    import numpy as np

    # The middle of each patch, in pixels of the scene's image: (patches, 2).
    rows, columns = np.divmod(np.arange(side * side), side)
    middles = np.stack([columns, rows], axis=1) * (SIZE / side) + SIZE / side / 2
    boxes = np.array([get_box(obj) for obj in scene.objects], dtype=float)
    box_middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Chebyshev distance from the middle of the box, 1 at its edges: (objects, patches).
    distances = (np.abs(middles - box_middles[:, None]) / (boxes[:, 2:] - boxes[:, :2])[:, None] * 2).max(axis=2)
    owner = np.where(distances.min(axis=0) <= 1, distances.argmin(axis=0), -1)
    # The middle belongs to its object even if a narrow box contains the center of no patch. If two objects have their
    # middles in a patch, it belongs to the one in front, which is later in the scene.
    middle_patches = (box_middles // (SIZE / side)).clip(0, side - 1).astype(int) @ (1, side)
    owner[middle_patches] = np.arange(len(boxes))
    # The last row of the tables is that of empty patches, whose owner is -1.
    attributes = [_get_attributes(scene, obj) for obj in scene.objects]
    table = np.array([*map(_encode, attributes), _encode({"kind": "", "middle": ""})])
    classes = table[owner].T
    names = list(_CLASSES)
    classes[names.index("place")] = PLACES.index(scene.place)
    classes[names.index("middle"), middle_patches] = 1
    edges = np.concatenate([middles - boxes[owner, :2], boxes[owner, 2:] - middles], axis=1) / SIZE
    edges[owner < 0] = np.nan
    return PatchLabels(classes, edges)


def loss(outputs: torch.Tensor, labels: Sequence[PatchLabels]) -> torch.Tensor:
    """Return the sum over attributes of the mean cross-entropy over patches, and of the mean error of the edges.

    Args:
        outputs (`torch.Tensor`): outputs of the heads, `(scenes, patches, classes + 4)`.
        labels (`Sequence[PatchLabels]`): the targets of the scenes.
    """
    import numpy as np
    import torch

    # (attributes, scenes, patches) and (scenes, patches, 4).
    classes = torch.from_numpy(np.stack([label.classes for label in labels], axis=1))
    edges = torch.from_numpy(np.stack([label.edges for label in labels])).float()
    *parts, edge_outputs = torch.split(outputs.float(), [*map(len, _CLASSES.values()), _EDGES], dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(part.flatten(0, 1), part_classes.flatten(), ignore_index=_IGNORE_INDEX)
        for part, part_classes in zip(parts, classes, strict=True)
    ]
    known = ~edges.isnan()
    box_loss = torch.nn.functional.l1_loss(edge_outputs[known], edges[known])
    return torch.stack([*losses, _BOX_WEIGHT * box_loss]).sum()


def _encode(attributes: dict[str, str]) -> list[int]:
    """Return the class of every attribute, -100 for those that are not given."""
    return [
        classes.index(attributes[name]) if name in attributes else _IGNORE_INDEX for name, classes in _CLASSES.items()
    ]


def _get_attributes(scene: Scene, obj: SceneObject) -> dict[str, str]:
    """Return the attributes that a patch of an object predicts."""
    return {
        "kind": obj.kind,
        "color": obj.color,
        "shape": obj.shape,
        "word": obj.word,
        "act": obj.action or obj.verb,
        "passive": passive_verb(scene, obj),
        "depth": obj.depth,
        "middle": "",
    }
