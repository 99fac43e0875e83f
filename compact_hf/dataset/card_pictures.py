"""The pictures in a card: how often each combination of capabilities is asked for in, PNG files beside the card out.

Each carries its own description and a digest of the counts that it shows, so that `validate` can tell a picture of
other data without drawing it anew. The same counts give the same bytes (with the same matplotlib).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.records import digest

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

Combinations = Mapping[tuple[str, ...], int]

FOLDER: Final = "assets"
_NAMES: Final = ("k-distribution", "coverage", "cooccurrence")
PATH: Final = re.compile(rf"{FOLDER}/({'|'.join(_NAMES)})\.png")
"""Path of a card's picture inside a release."""

_COUNTS: Final = "Counts"  # PNG's text chunk with the digest


def paths(combinations: Combinations) -> tuple[str, ...]:
    """Return the paths of the pictures that a release of these counts has: none without a question."""
    if not combinations:
        return ()
    has_pairs = any(len(combination) > 1 for combination in combinations)
    return tuple(_path(name) for name in (_NAMES if has_pairs else _NAMES[:-1]))


def drawn(combinations: Combinations) -> dict[str, Plot]:
    """Return path -> the picture to be put there."""
    from compact_hf.reports import plots

    made = (plots.k_distribution, plots.coverage, plots.cooccurrence)
    by_path = {_path(name): draw for name, draw in zip(_NAMES, made, strict=True)}
    return {path: by_path[path](combinations) for path in paths(combinations)}


def write_pictures(pictures: Mapping[str, Plot], combinations: Combinations, folder: Path) -> None:
    """Write the pictures below a release's folder."""
    for path, plot in pictures.items():
        (folder / path).parent.mkdir(exist_ok=True)
        notes = {"Description": plot.alt, _COUNTS: _digest(combinations)}
        (folder / path).write_bytes(plot.png(notes=notes))


def picture_defects(folder: Path, card: str, combinations: Combinations) -> Iterator[tuple[str, str, str]]:
    """Yield (check, path, detail) for each defect of the pictures in `folder` with this card and these counts."""
    from PIL import Image

    expected = paths(combinations)
    for path in map(_path, _NAMES):
        if path not in expected:
            if (folder / path).exists():
                yield "card's picture shows other data", path, "there is nothing that it could show"
            continue
        if f'src="{path}"' not in card:
            yield "card does not show its picture", path, "assemble the release again"
        try:
            with Image.open(folder / path) as picture:
                picture.load()
                shown = picture.info.get(_COUNTS)
        except FileNotFoundError:
            yield "card's picture is missing", path, "assemble the release again"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # the second is Pillow's for broken PNG
            yield "card's picture cannot be read", path, " ".join(str(error).split())
        else:
            if shown != _digest(combinations):
                yield "card's picture shows other data", path, "assemble the release again"


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.png"


def _digest(combinations: Combinations) -> str:
    return digest(sorted(combinations.items()))
