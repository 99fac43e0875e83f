"""What the Explore tab shows: a release or drawn scenes in, rows with pictures and links out, and a choice of them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from compact_hf.errors import ReleaseError
from compact_hf.records import Turn
from compact_hf.reports.contact_sheet import Shown
from compact_hf.scenes.questions import ask, supported
from compact_hf.scenes.scene import scene_of
from compact_hf.scenes.source import Scenes

_KS = (1, 2, 3)
_TURNS = 3
_VIEWER = "https://huggingface.co/datasets/{dataset}/viewer/{config}/train?row={number}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row as the tab shows it.

    Attributes:
        shown (`Shown`): picture and questions.
        name (`str`): what it is found by in this Space.
        link (`str`): to the row: the Hub's viewer, or this Space with this row alone.
    """

    shown: Shown
    name: str
    link: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows, and in words where they come from."""

    rows: tuple[Row, ...]
    origin: str


def of_scenes(count: int) -> Gallery:
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
            made.append(Row(Shown(source.read(ref), k, turns, ref), ref, _permalink(ref)))
    return Gallery(tuple(made), "scenes drawn here, with the questions that the scenes teacher asks")


def of_dataset(dataset: str, *, per_k: int) -> Gallery:
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
        rows = [
            [_row(row, dataset, config, number) for number, row in enumerate(islice(stream, per_k))]
            for config, stream in zip(configs, streams, strict=True)
        ]
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{dataset} cannot be read as a release ({error}); give a folder or ORG/NAME") from error
    if not any(rows):
        raise ReleaseError(f"{dataset} has no configs k1, k2, ...; give a release that `compact assemble` wrote")
    name = os.path.basename(os.path.abspath(dataset)) if os.path.isdir(dataset) else dataset
    return Gallery(tuple(_in_turn(rows)), f"`{name}`, the first {per_k} of each k")


def chosen(rows: Sequence[Row], k: int | None, capability: str | None) -> tuple[Row, ...]:
    """Return the rows of `k` with a question that needs `capability`; None stands for any."""
    return tuple(
        row
        for row in rows
        if k in (None, row.shown.k)
        and (capability is None or any(capability in turn.capabilities for turn in row.shown.turns))
    )


def _row(row: dict[str, Any], dataset: str, config: str, number: int) -> Row:
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
    name = str(row["id"])
    on_hub = not os.path.isdir(dataset)
    link = _VIEWER.format(dataset=dataset, config=config, number=number) if on_hub else _permalink(name)
    return Row(Shown(row["images"][0]["bytes"], row["k"], turns, f"{config}, row {number}"), name, link)


def _permalink(name: str) -> str:
    return f"?row={quote(name, safe='')}"


def _in_turn(rows: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield one row of each k, then the next of each, so that every page shows them all."""
    for place in range(max(map(len, rows))):
        yield from (of_one_k[place] for of_one_k in rows if place < len(of_one_k))
