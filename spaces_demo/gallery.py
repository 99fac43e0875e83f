"""What the Explore tab shows: a release or drawn scenes in, `Shown` pictures out, and the choice among them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from compact_hf.errors import ReleaseError
from compact_hf.pictures.contact_sheet import Shown
from compact_hf.records import Turn
from compact_hf.scenes.layout import scene_of
from compact_hf.scenes.questions import ask, supported
from compact_hf.scenes.source import Scenes

_KS = (1, 2, 3)
_TURNS = 3


def of_scenes(count: int) -> tuple[Shown, ...]:
    """Draw `count` scenes and ask each up to three questions of one k, which goes round 1, 2, 3."""
    source = Scenes(0, count)
    made = []
    for seed, ref in enumerate(source.refs()):
        scene, rng = scene_of(seed), random.Random(seed)
        k = _KS[seed % len(_KS)]
        combinations = supported(scene, k)
        asked = [ask(scene, one, rng) for one in rng.sample(combinations, min(_TURNS, len(combinations)))]
        turns = tuple(Turn(one.question, one.answer, one.capabilities, one.capabilities, 100) for one in asked if one)
        if turns:
            made.append(Shown(source.read(ref), k, turns, ref))
    return tuple(made)


def of_dataset(dataset: str, *, per_k: int) -> tuple[Shown, ...]:
    """Return the first `per_k` rows of every k of a release, streamed, so that a large one is not downloaded.

    Args:
        dataset (`str`): a release's folder or its Hub repository.

    Raises:
        ReleaseError: it cannot be read, or has no compositional rows.
    """
    from datasets import get_dataset_config_names, load_dataset

    try:
        configs = [name for name in get_dataset_config_names(dataset) if re.fullmatch(r"k\d+", name)]
        streams = [load_dataset(dataset, name, split="train", streaming=True).decode(False) for name in configs]
        rows = [list(islice(stream, per_k)) for stream in streams]
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{dataset} cannot be read as a release ({error}); give a folder or ORG/NAME") from error
    if not any(rows):
        raise ReleaseError(f"{dataset} has no configs k1, k2, ...; give a release that `compact assemble` wrote")
    return tuple(_shown(row) for row in _in_turn(rows))


def chosen(shown: Sequence[Shown], k: int | None, capability: str | None) -> tuple[Shown, ...]:
    """Return the pictures of `k` with a question that needs `capability`; None stands for any."""
    return tuple(
        one
        for one in shown
        if k in (None, one.k) and (capability is None or any(capability in turn.capabilities for turn in one.turns))
    )


def _shown(row: dict[str, Any]) -> Shown:
    turns = tuple(
        Turn(
            turn["question"],
            turn["answer"],
            tuple(turn["capabilities"]),
            tuple(turn["verified_capabilities"]),
            turn["confidence"],
        )
        for turn in row["turns"]
    )
    return Shown(row["images"][0]["bytes"], row["k"], turns, row["id"])


def _in_turn(rows: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield one row of each k, then the next of each, so that every page shows them all."""
    for place in range(max(map(len, rows))):
        yield from (of_one_k[place] for of_one_k in rows if place < len(of_one_k))
