"""Which kinds of rows a dataset may hold: those of the methods that are installed, and instruction rows.

A name in a dataset is data, so only what is registered by a package is imported for it, never a path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from compact_hf.methods.registry import list_methods
from compact_hf.methods.row_kind import Record, RowDefect, RowKind

INSTRUCTION: Final = "instruction"
"""`source` of instruction rows, and the subset of those with an image."""
INSTRUCTION_TEXT: Final = "instruction_text"


class InstructionRows(RowKind):
    """Rows that are taken from an instruction file as they are, for training only."""

    name = INSTRUCTION
    config = INSTRUCTION
    text_subsets = frozenset((INSTRUCTION_TEXT,))
    has_validation = False

    @classmethod
    def get_subset(cls, record: Record) -> str:
        """See `RowKind.get_subset`: by whether there is an image."""
        return INSTRUCTION_TEXT if record["image_id"] is None else INSTRUCTION

    @classmethod
    def has_subset(cls, subset: str) -> bool:
        """See `RowKind.has_subset`."""
        return subset in (INSTRUCTION, INSTRUCTION_TEXT)

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        """See `RowKind.check`: such rows have no teacher, verifier or preset."""
        for name in ("teacher", "verifier", "preset_version"):
            if record[name]:
                yield "instruction row with other facts", f"{name} is {record[name]}"


def get_row_kind(source: str) -> type[RowKind] | None:
    """Return the kind of the rows that name this source, None where no package that is installed registers it."""
    return _registered_kinds().get(source)


def get_subset_kind(subset: str) -> type[RowKind] | None:
    """Return the kind of the rows in a subset, None where no kind that is installed has such subsets."""
    return next((kind for kind in _registered_kinds().values() if kind.has_subset(subset)), None)


def get_row_kinds() -> list[type[RowKind]]:
    """Return all kinds, in the order in which their columns stand: by config, so that those of one stand together."""
    return sorted(_registered_kinds().values(), key=lambda kind: (kind.config or kind.name, kind.name))


def _registered_kinds() -> dict[str, type[RowKind]]:
    return _find_kinds(tuple(sys.path))


@lru_cache(maxsize=1)
def _find_kinds(path: tuple[str, ...]) -> dict[str, type[RowKind]]:  # noqa: ARG001  # packages are found on it
    return {**list_methods(), INSTRUCTION: InstructionRows}
