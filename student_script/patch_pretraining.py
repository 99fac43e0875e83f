"""Seeing, what CLIP's pre-training is to LLaVA: a tower with random weights in, one that tells things apart out.

Every patch on which a thing stands is asked for all that is true of the thing: kind, color, shape, word, what it does
and what is done to it; every other patch, whether it is empty; all of them for the place. So one picture is hundreds of
small lessons, at a tenth of the cost of its description, and a patch learns to know the whole thing that it is part of.
The heads that answer are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compact_hf.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, SHAPES, VERBS, WORDS
from compact_hf.scenes.scene import SIZE, Scene, Thing

if TYPE_CHECKING:
    import torch

_ACTS: Final = tuple(dict.fromkeys([*(act for acts in ACTIONS.values() for act in acts), *VERBS]))
_ANSWERS: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("", *KINDS),
    "color": tuple(COLORS),
    "shape": ("", *SHAPES),
    "word": ("", *WORDS),
    "act": ("", *_ACTS),
    "suffered": ("", *VERBS),
    "place": PLACES,
}
"""What a patch is asked -> what it may answer; empty: nothing, or no thing is there."""
_UNASKED: Final = -100
_REACH: Final = 34
"""How far to either side of its middle a thing can be seen, at most, in the picture's pixels."""
_HEIGHT: Final = {"foreground": 105, "background": 85}


def heads(width: int) -> Any:
    """Return a layer that turns a patch's features (..., width) into the logits of all answers, one after the other."""
    import torch

    return torch.nn.Linear(width, sum(map(len, _ANSWERS.values())))


def lessons(scene: Scene, side: int) -> dict[str, list[int]]:
    """Return what each of the side x side patches, row by row, should answer each question; -100: it is not asked."""
    right: dict[str, list[int]] = {name: [] for name in _ANSWERS}
    suffered = {one.target: one.doing for one in scene.things if one.doing}
    edge = SIZE / side
    for patch in range(side * side):
        index = _on(scene, (patch % side + 0.5) * edge, (patch // side + 0.5) * edge)
        thing = scene.things[index] if index is not None else None
        told = _told(thing, suffered.get(index, "") if index is not None else "")
        for name, answers in _ANSWERS.items():
            said = scene.place if name == "place" else told.get(name)
            right[name].append(_UNASKED if said is None else answers.index(said))
    return right


def loss(logits: torch.Tensor, scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """Return the sum over the questions of the patches' mean loss; the logits are (scenes, side * side, answers)."""
    import torch

    given = [lessons(scene, side) for scene in scenes]
    parts = torch.split(logits.float(), [len(answers) for answers in _ANSWERS.values()], dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(
            part.flatten(0, 1), torch.tensor([right[name] for right in given]).flatten(), ignore_index=_UNASKED
        )
        for name, part in zip(_ANSWERS, parts, strict=True)
    ]
    return torch.stack(losses).sum()


def _told(thing: Thing | None, suffered: str) -> dict[str, str]:
    if thing is None:
        return {"kind": ""}
    act = thing.action or thing.doing
    return {
        "kind": thing.kind,
        "color": thing.color,
        "shape": thing.shape,
        "word": thing.word,
        "act": act,
        "suffered": suffered,
    }


def _on(scene: Scene, x: float, y: float) -> int | None:
    """Return the index of the thing that stands where a patch has its middle, the nearest if there are several."""
    near = [
        (abs(thing.x - x), i)
        for i, thing in enumerate(scene.things)
        if abs(thing.x - x) <= _REACH and thing.y - _HEIGHT[thing.depth] <= y <= thing.y
    ]
    return min(near)[1] if near else None
