"""Lists the kinds of rows that a release may contain: those of the installed methods, and instruction rows.

The names of methods in a dataset are untrusted input, so only methods that an installed package registers are
imported, never a path.
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
INSTRUCTION_TEXT: Final = "instruction_text"  # the subset of instruction rows without an image


class InstructionRows(RowKind):
    """Rows that are copied from an instruction file; they are only in the training split."""

    name = INSTRUCTION
    config = INSTRUCTION
    text_subsets = frozenset((INSTRUCTION_TEXT,))
    has_validation = False

    @classmethod
    def get_subset(cls, record: Record) -> str:
        """See `RowKind.get_subset`; it depends on whether the row has an image."""
        return INSTRUCTION_TEXT if record["image_id"] is None else INSTRUCTION

    @classmethod
    def has_subset(cls, subset: str) -> bool:
        """See `RowKind.has_subset`."""
        return subset in (INSTRUCTION, INSTRUCTION_TEXT)

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        """See `RowKind.check`; instruction rows have no teacher, verifier or preset."""
        for name in ("teacher", "verifier", "preset_version"):
            if record[name]:
                yield "instruction row with other facts", f"{name} is {record[name]}"


def get_row_kind(source: str) -> type[RowKind] | None:
    """Return the kind of rows with a given `source`, or None if no installed package registers it.

    Args:
        source (`str`): name of a method, or `instruction`.
    """
    return _registered_kinds().get(source)


def get_subset_kind(subset: str) -> type[RowKind] | None:
    """Return the kind of rows in a subset, or None if no installed kind has such a subset.

    Args:
        subset (`str`): name of the subset, such as `k2`.
    """
    return next((kind for kind in _registered_kinds().values() if kind.has_subset(subset)), None)


def get_row_kinds() -> list[type[RowKind]]:
    """Return all kinds in the order of their columns: by config, so that the columns of a config are adjacent."""
    return sorted(_registered_kinds().values(), key=lambda kind: (kind.config or kind.name, kind.name))


def _registered_kinds() -> dict[str, type[RowKind]]:
    """Return the kinds by `source`; they are looked up again if `sys.path` changes."""
    return _find_kinds(tuple(sys.path))


@lru_cache(maxsize=1)
def _find_kinds(path: tuple[str, ...]) -> dict[str, type[RowKind]]:  # noqa: ARG001  # only the cache key
    return {**list_methods(), INSTRUCTION: InstructionRows}
