"""Finds the largest and the smallest of some values, and names them in a sentence, without ranking equal values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K")

_MAX_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Extremes(Generic[K]):
    """The keys of the largest and of the smallest values.

    Attributes:
        highest (`tuple[K, ...]`): all keys with the largest value, in their order.
        lowest (`tuple[K, ...]`): all keys with the smallest value, in their order.
    """

    highest: tuple[K, ...]
    lowest: tuple[K, ...]


def find_extremes(values: Mapping[K, float]) -> Extremes[K] | None:
    """Return the keys of the largest and of the smallest values, or None if no two values differ.

    Args:
        values (`Mapping[K, float]`): the values by key; may be empty.
    """
    highest, lowest = max(values.values(), default=0), min(values.values(), default=0)
    if highest == lowest:
        return None
    return Extremes(
        tuple(key for key, value in values.items() if value == highest),
        tuple(key for key, value in values.items() if value == lowest),
    )


def join_names(names: Iterable[str]) -> str:
    """Return names as a list in a sentence, such as `a, b and c` or `a, b, c and 4 others`.

    Args:
        names (`Iterable[str]`): at least one name.
    """
    shown = list(names)
    if len(shown) > _MAX_NAMES + 1:
        shown[_MAX_NAMES:] = [f"{len(shown) - _MAX_NAMES} others"]
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last
