"""Reads the rows for the tab Explore, from a dataset or from drawn scenes, and filters them."""

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
from compact_hf.hub.ref import page_url
from compact_hf.records import Turn
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.reports.markdown import format_code
from compact_hf.scenes.questions import make_question, supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import SceneSource

_KS = (1, 2, 3)
_MAX_TURNS = 3


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """A row for the tab Explore.

    Attributes:
        item (`QuestionItem`): the image with its questions.
        name (`str`): the name of the row in links to this Space.
        link (`str`): link to the scene in the tab Compose, to the row in the Hub's dataset viewer, or to this Space
            with only this row.
        link_text (`str`): what the link does.
    """

    item: QuestionItem
    name: str
    link: str
    link_text: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows and a description of their origin.

    Attributes:
        rows (`tuple[GalleryRow, ...]`): the rows.
        origin (`str`): where they come from, for visitors.
    """

    rows: tuple[GalleryRow, ...]
    origin: str


def draw_scenes(count: int) -> Gallery:
    """Draw `count` scenes with up to three questions each; k is 1, 2 and 3 in turn."""
    source = SceneSource(0, count)
    rows = []
    for seed, ref in enumerate(source.refs()):
        # Seeded, so that links to a scene show the same questions after a restart.
        scene, rng = build_scene(seed), random.Random(seed)
        k = _KS[seed % len(_KS)]
        combinations = supported_combinations(scene, k)
        questions = [
            make_question(scene, item, rng) for item in rng.sample(combinations, min(_MAX_TURNS, len(combinations)))
        ]
        turns = tuple(
            Turn(item.question, item.answer, item.capabilities, item.capabilities, 100) for item in questions if item
        )
        # A scene may support no question of this k.
        if turns:
            item = QuestionItem(source.read(ref), k, turns, f"Scene {seed}")
            rows.append(GalleryRow(item, ref, f"?scene={seed}", f"Open scene {seed} in Compose"))
    return Gallery(tuple(rows), "scenes drawn by this Space")


def read_dataset(dataset: str, *, per_k: int) -> Gallery:
    """Return the first rows of each k of a dataset. They are streamed, so that a large dataset is not downloaded.

    Args:
        dataset (`str`): a dataset directory or a Hub repository.
        per_k (`int`): number of rows per k.

    Raises:
        ReleaseError: the dataset cannot be read, or has no compositional rows.
    """
    from datasets import get_dataset_config_names, load_dataset

    try:
        configs = [name for name in get_dataset_config_names(dataset) if re.fullmatch(r"k\d+", name)]
        # The images are not decoded: the cards use their encoded bytes.
        streams = [load_dataset(dataset, name, split="train", streaming=True).decode(False) for name in configs]
        rows = [
            [_build_row(row, dataset, config, number) for number, row in enumerate(islice(stream, per_k))]
            for config, stream in zip(configs, streams, strict=True)
        ]
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{dataset} cannot be read as a dataset ({error}): give a directory or ORG/NAME") from error
    if not any(rows):
        raise ReleaseError(f"{dataset} has no configs k1, k2, ...: give a dataset that `compact assemble` wrote")
    # Visitors see only the last part of a path of this machine.
    name = os.path.basename(os.path.abspath(dataset)) if os.path.isdir(dataset) else dataset
    return Gallery(tuple(_interleave(rows)), f"the first {per_k} of each k in {format_code(name)}")


def filter_rows(rows: Sequence[GalleryRow], k: int | None, capability: str | None) -> tuple[GalleryRow, ...]:
    """Return the rows of this `k` with a question that needs `capability`; None means any."""
    return tuple(
        row
        for row in rows
        if k in (None, row.item.k)
        and (capability is None or any(capability in turn.capabilities for turn in row.item.turns))
    )


def _build_row(row: dict[str, Any], dataset: str, config: str, number: int) -> GalleryRow:
    """Return a row for the gallery, with a link to its number (from 0) in the Hub's dataset viewer."""
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
    if os.path.isdir(dataset):
        link, link_text = f"?row={quote(name, safe='')}", "Open this image alone"
    else:
        link = f"{page_url(dataset, kind='datasets')}/viewer/{config}/train?row={number}"
        link_text = "See it in the dataset on the Hub"
    item = QuestionItem(row["images"][0]["bytes"], row["k"], turns, f"Image {number + 1}")
    return GalleryRow(item, name, link, link_text)


def _interleave(rows: Sequence[Sequence[GalleryRow]]) -> Iterator[GalleryRow]:
    """Yield the first row of each k, then the second of each k, and so on, so that every page has all k."""
    for index in range(max(map(len, rows))):
        yield from (k_rows[index] for k_rows in rows if index < len(k_rows))
