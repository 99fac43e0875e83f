"""What the Explore tab shows: a release or drawn scenes in, rows with images and links out, and a choice of them."""

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
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.scenes.questions import make_question, supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import SceneSource

_KS = (1, 2, 3)
_MAX_TURNS = 3
_VIEWER_URL = "https://huggingface.co/datasets/{dataset}/viewer/{config}/train?row={number}"


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """A row as the tab shows it.

    Attributes:
        item (`QuestionItem`): image and questions.
        name (`str`): what it is found by in this Space.
        link (`str`): to the row: the Hub's viewer, or this Space with this row alone.
    """

    item: QuestionItem
    name: str
    link: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows, and in words where they come from."""

    rows: tuple[GalleryRow, ...]
    origin: str


def draw_scenes(count: int) -> Gallery:
    """Draw `count` scenes and ask each up to three questions of one k, which goes round 1, 2, 3."""
    source = SceneSource(0, count)
    rows = []
    for seed, ref in enumerate(source.refs()):
        scene, rng = build_scene(seed), random.Random(seed)
        k = _KS[seed % len(_KS)]
        combinations = supported_combinations(scene, k)
        questions = [
            make_question(scene, item, rng) for item in rng.sample(combinations, min(_MAX_TURNS, len(combinations)))
        ]
        turns = tuple(
            Turn(item.question, item.answer, item.capabilities, item.capabilities, 100) for item in questions if item
        )
        if turns:
            rows.append(GalleryRow(QuestionItem(source.read(ref), k, turns, ref), ref, _permalink(ref)))
    return Gallery(tuple(rows), "scenes drawn here, with the questions that the scenes teacher asks")


def read_dataset(dataset: str, *, per_k: int) -> Gallery:
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
            [_build_row(row, dataset, config, number) for number, row in enumerate(islice(stream, per_k))]
            for config, stream in zip(configs, streams, strict=True)
        ]
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{dataset} cannot be read as a release ({error}); give a folder or ORG/NAME") from error
    if not any(rows):
        raise ReleaseError(f"{dataset} has no configs k1, k2, ...; give a release that `compact assemble` wrote")
    name = os.path.basename(os.path.abspath(dataset)) if os.path.isdir(dataset) else dataset
    return Gallery(tuple(_interleave(rows)), f"`{name}`, the first {per_k} of each k")


def filter_rows(rows: Sequence[GalleryRow], k: int | None, capability: str | None) -> tuple[GalleryRow, ...]:
    """Return the rows of `k` with a question that needs `capability`; None stands for any."""
    return tuple(
        row
        for row in rows
        if k in (None, row.item.k)
        and (capability is None or any(capability in turn.capabilities for turn in row.item.turns))
    )


def _build_row(row: dict[str, Any], dataset: str, config: str, number: int) -> GalleryRow:
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
    link = _VIEWER_URL.format(dataset=dataset, config=config, number=number) if on_hub else _permalink(name)
    return GalleryRow(QuestionItem(row["images"][0]["bytes"], row["k"], turns, f"{config}, row {number}"), name, link)


def _permalink(name: str) -> str:
    return f"?row={quote(name, safe='')}"


def _interleave(rows: Sequence[Sequence[GalleryRow]]) -> Iterator[GalleryRow]:
    """Yield one row of each k, then the next of each, so that every page shows them all."""
    for index in range(max(map(len, rows))):
        yield from (k_rows[index] for k_rows in rows if index < len(k_rows))
