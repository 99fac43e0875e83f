"""Samples of a release: in goes a folder or a repository on the Hub, out come pictures with their questions.

Little is read: of each k's files, those for training first, row groups in an order by hash until there are enough
questions in them; pictures only of those groups. Rows lie in the order of their pictures' hashes, so that a row group
is as good a sample as any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from compact_hf.dataset.examples import Chosen, Found, Sample, Wanted
from compact_hf.dataset.layout import order_of, place_of
from compact_hf.dataset.reader import Held, of_file
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.records import Turn

_COLUMNS: Final = ("id", "k", "turns", "image_id", "image_source", "image_license", "teacher", "verifier")
_PICTURES: Final = "images"


def of_release(release: Held, wanted: Wanted) -> Found:
    """Choose among a release's compositional rows.

    Raises:
        UsageError: there is nothing that is wanted.
        ReleaseError: there are no data files of a release, or one cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    if not release.data:
        raise ReleaseError(f"{release.name} holds no data files of a release; give what `compact assemble` wrote")
    of_leaf: dict[str, list[str]] = {}
    for path in release.data:
        leaf, _ = place_of(path) or ("", "")
        if leaf.startswith("k"):
            of_leaf.setdefault(leaf, []).append(path)
    chosen = Chosen(wanted)
    for leaf in sorted(of_leaf, key=order_of):
        if wanted.k in (None, int(leaf[1:])):
            _offer(release, of_leaf[leaf], int(leaf[1:]), chosen)
    found = chosen.found()
    if not found.shown:
        there = ", ".join(sorted(of_leaf, key=order_of)) or "the instruction part only, which has no k"
        raise UsageError(f"{release.name} has no questions {wanted.told()}; there is {there}")
    return found


@dataclass(slots=True)
class _Group:
    """A row group of a file. Pictures are read all at once, when the first is asked for, of the rows in `rows`."""

    release: Held
    path: str
    index: int
    rows: list[int] = field(default_factory=list)
    _pictures: dict[int, bytes] = field(default_factory=dict)

    def picture(self, row: int) -> bytes:
        if not self._pictures:
            self._pictures = of_file(self.release, self.path, self._read)
        return self._pictures[row]

    def _read(self, file: Any) -> dict[int, bytes]:
        column = file.read_row_group(self.index, columns=[_PICTURES])[_PICTURES]
        return {row: column[row].as_py()[0]["bytes"] for row in self.rows}


def _offer(release: Held, paths: Iterable[str], k: int, chosen: Chosen) -> None:
    """Offer what is wanted in the files of one leaf, until there is enough of it."""
    wanted = chosen.wanted

    def order(path: str) -> tuple[bool, int]:
        return (place_of(path) or ("", ""))[1] != "train", wanted.rank(path)

    for path in sorted(paths, key=order):
        if chosen.enough_of(k):
            return
        of_file(release, path, partial(_offer_groups, release, path, k, chosen))


def _offer_groups(release: Held, path: str, k: int, chosen: Chosen, file: Any) -> None:
    wanted = chosen.wanted
    if missing := {*_COLUMNS, _PICTURES} - set(file.schema_arrow.names):
        raise ReleaseError(f"{path} of {release.name} lacks {', '.join(sorted(missing))}; it is no file of a release")
    for index in sorted(range(file.num_row_groups), key=partial(wanted.rank, path)):
        if chosen.enough_of(k):
            return
        group = _Group(release, path, index)
        for row, record in enumerate(file.read_row_group(index, columns=list(_COLUMNS)).to_pylist()):
            if turns := wanted.turns([_turn(turn) for turn in record["turns"]]):
                group.rows.append(row)
                chosen.offer(wanted.rank(record["id"]), _sample(record, turns, partial(group.picture, row)))


def _turn(turn: dict[str, Any]) -> Turn:
    names = {name: tuple(turn[name]) for name in ("capabilities", "verified_capabilities")}
    return Turn(turn["question"], turn["answer"], confidence=turn["confidence"], **names)


def _sample(record: dict[str, Any], turns: tuple[Turn, ...], read: Any) -> Sample:
    caption = f"{record['image_source']}, {record['image_license']}, row {record['id'][:8]}"
    return Sample(record["k"], turns, caption, record["teacher"], record["verifier"], read)
