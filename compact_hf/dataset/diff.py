"""`compact diff A B`: which rows, columns and configs differ, and which version may follow.

    compact diff org/compact@v1.0.0 release

A row is known by its id, a hash of its image and text; of what is left, compositional rows of the same image are one
row with other turns. Of files with the same bytes on both sides only the footer is read, of the others every column but
the images themselves, which `image_id` stands for: from the Hub this is a hundredth of the bytes. Memory grows with the
number of rows by two ids and a digest for each.

Versions: a higher major version if code that loads the one before may fail (a column is gone, new or of another type; a
config or a split is gone); a higher minor one if the same code loads other rows; a higher patch if it loads the very
same images and messages. So a takedown is minor: what loaded before still loads, but two results on 1.2.0 and 1.2.1 may
be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compact_hf.dataset.card import CARD, header_in
from compact_hf.dataset.reader import Folder, Held, held, of_file
from compact_hf.dataset.schema import SPLITS, configs, order_of, place_of
from compact_hf.errors import ReleaseError

Step = Literal["major", "minor", "patch"]

_NUMBERS: Final = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


class Version(NamedTuple):
    """Three numbers that compare as versions do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """As the Hub's tags are called."""
        return f"v{self}"


def version_of(text: str) -> Version | None:
    """Return the version that `X.Y.Z` or `vX.Y.Z` names, None for any other text."""
    match = _NUMBERS.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def highest(tags: Iterable[str]) -> Version | None:
    """Return the highest version among tags, None where none of them is one; tags without `v` are not ours."""
    return max((found for tag in tags if tag[:1] == "v" and (found := version_of(tag))), default=None)


def lowest_after(version: Version, step: Step) -> Version:
    """Return the lowest version that may follow `version` where a change takes this step.

    >>> str(lowest_after(Version(1, 2, 3), "minor"))
    '1.3.0'
    """
    match step:
        case "major":
            return Version(version.major + 1, 0, 0)
        case "minor":
            return Version(version.major, version.minor + 1, 0)
        case "patch":
            return Version(version.major, version.minor, version.patch + 1)


Kind = Literal["added", "removed", "changed", "corrected"]
Place = tuple[str, str]
_About = tuple[str | None, ...]

KINDS: Final[tuple[Kind, ...]] = ("added", "removed", "changed", "corrected")
MAX_EXAMPLES: Final = 3
"""Ids that a difference names of each kind."""

# What is said about a row, apart from what is trained on: other values correct a row and do not change it.
_ABOUT: Final = ("source", "image_source", "image_license", "teacher", "verifier", "preset_version")
_KEYS: Final = ("id", "image_id", "k")
_FILES_AT_ONCE: Final = 8  # of the Hub: its answers take longer than our work
_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows of one split of one config.

    Attributes:
        before, after (`int`): how many there are.
        added, removed (`int`): there on one side only.
        changed (`int`): the same row with other turns, messages or capabilities.
        corrected (`int`): the same picture and messages, and something else said about them, such as the licence.
    """

    before: int
    after: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """How a release differs from another.

    Attributes:
        old, new (`str`): the two, as they were given.
        versions (`tuple[str, str]`): theirs, by their cards; empty where the card does not say.
        rows (`dict[tuple[str, str], Changes]`): (config, split) -> its rows, for all of either side.
        columns (`dict[str, tuple[str, str]]`): column -> its type before and after, empty where it is not there.
        examples (`dict[str, tuple[str, ...]]`): kind of change -> the first few ids; of changed rows, the new ones.
        card (`bool`): whether the card's text differs in more than its version.
    """

    old: str
    new: str
    versions: tuple[str, str]
    rows: dict[Place, Changes]
    columns: dict[str, tuple[str, str]]
    examples: dict[Kind, tuple[str, ...]]
    card: bool

    @property
    def lost(self) -> tuple[Place, ...]:
        """(config, split) that had rows and have none."""
        return tuple(place for place, changes in self.rows.items() if changes.before and not changes.after)

    @property
    def step(self) -> Step:
        """What a version of the new one has to go up by at least."""
        if self.columns or self.lost:
            return "major"
        counted = self.rows.values()
        return "minor" if any(one.added or one.removed or one.changed for one in counted) else "patch"

    def reasons(self) -> list[str]:
        """Return what changed, most important first, each in a few words; nothing where nothing did."""
        told = [f"column {name}: {old or 'none'} -> {new or 'none'}" for name, (old, new) in self.columns.items()]
        told += [f"config {config} has no {split} rows any more" for config, split in self.lost]
        of_all = [changes for (config, _), changes in self.rows.items() if config == "all"]
        for kind in KINDS:
            if count := sum(getattr(changes, kind) for changes in of_all):
                told.append(f"{count:,} {'row' if count == 1 else 'rows'} {kind}")
        return told or ["the card differs"] * self.card  # which counts rows, and so differs with them

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it: `rows` by config, then by split."""
        rows: dict[str, dict[str, Any]] = defaultdict(dict)
        for (config, split), changes in self.rows.items():
            rows[config][split] = asdict(changes)
        return asdict(self) | {"rows": rows, "step": self.step}


class _Entry(NamedTuple):
    """What is kept of a row: where it lies, its keys, a digest of what is trained on, and what is said about it."""

    place: Place
    id: str
    picture: str | None  # None for instruction rows, which share pictures
    content: bytes
    about: _About


class _Pair(NamedTuple):
    """A row on both sides, or on one."""

    old: _Entry | None
    new: _Entry | None

    @property
    def kind(self) -> Kind | None:
        if self.old is None or self.new is None:
            return "added" if self.old is None else "removed"
        if self.old.id != self.new.id or self.old.content != self.new.content:
            return "changed"
        return "corrected" if self.old.about != self.new.about else None


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare two releases.

    Args:
        a, b (`str | Path`): the one before and the one after: a folder, or `org/name[@revision]` (a data set repository
            on the Hub; main without a revision).

    Raises:
        UsageError: one is neither a folder nor named like a repository.
        ReleaseError: one holds no release, or a file of it cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    old, new = held(a), held(b)
    same = {path for path, sha256 in old.data.items() if sha256 and new.data.get(path) == sha256}
    types = _types(old), _types(new)
    shared = [name for name in types[0] if types[0][name] == types[1].get(name)]
    if missing := [name for name in _KEYS if name not in shared]:
        raise ReleaseError(f"{a} and {b} cannot be compared: not both have a column {missing[0]} of the same type")
    counts = _counts(old, new, same)
    pairs = list(_paired(_entries(old, same, shared), _entries(new, same, shared)))
    cards = old.text(CARD), new.text(CARD)
    versions = _version(cards[0]), _version(cards[1])
    return Difference(
        old=old.name,
        new=new.name,
        versions=versions,
        rows=_by_config(counts, pairs),
        columns={
            name: (types[0].get(name, ""), types[1].get(name, "")) for name in types[0] | types[1] if name not in shared
        },
        examples=_examples(pairs),
        card=_but_version(cards[0], versions[0]) != _but_version(cards[1], versions[1]),
    )


def _types(release: Held) -> dict[str, str]:
    """Return column -> type, by the first file: all files of a release have one schema (validate.py)."""
    if not release.data:
        raise ReleaseError(f"{release.name} holds no release: there are no files data/k1/train-00000-of-00001.parquet")
    schema = of_file(release, next(iter(release.data)), lambda file: file.schema_arrow)
    return {name: str(schema.field(name).type) for name in schema.names}


def _counts(old: Held, new: Held, same: set[str]) -> tuple[Counter[Place], Counter[Place]]:
    """Return (leaf, split) -> rows, of both; what is the same is looked at once, in a folder where there is one."""
    near = new if isinstance(new, Folder) else old
    totals: tuple[Counter[Place], Counter[Place]] = (Counter(), Counter())
    for release, total in zip((old, new), totals, strict=True):
        for path in release.data:
            place = place_of(path)
            if place is not None:
                total[place] += of_file(near if path in same else release, path, lambda file: file.metadata.num_rows)
    return totals


def _entries(release: Held, same: set[str], columns: list[str]) -> Iterator[_Entry]:
    """Yield the rows of all files but those that are the same on both sides, in the order of the files."""
    paths = [path for path in release.data if path not in same]
    read = partial(_rows, columns=[name for name in columns if name != "images"])
    with ThreadPoolExecutor(_FILES_AT_ONCE if not isinstance(release, Folder) else 1) as pool:
        for path, rows in zip(paths, pool.map(lambda path: of_file(release, path, read), paths), strict=True):
            place = place_of(path) or ("", "")
            yield from (_Entry(place, *row) for row in rows)


def _rows(file: Any, columns: list[str]) -> list[tuple[str, str | None, bytes, _About]]:
    """Return of each row its id, its picture where it is compositional, a digest, and what is said about it."""
    content = [name for name in columns if name not in _ABOUT]
    about = [name for name in columns if name in _ABOUT]
    rows = []
    once: dict[_About, _About] = {}  # few rows differ in it
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        values = {name: batch.column(name).to_pylist() for name in columns}
        of_rows = zip(*(values[name] for name in content), strict=True)
        said = zip(*(values[name] for name in about), strict=True) if about else repeat(())
        for id_, picture, k, text, words in zip(*(values[name] for name in _KEYS), of_rows, said, strict=False):
            rows.append((id_, None if k is None else picture, _digest(text), once.setdefault(words, words)))
    return rows


def _digest(values: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()


def _paired(old: Iterable[_Entry], new: Iterable[_Entry]) -> Iterator[_Pair]:
    """Yield every row that is not the same on both sides: matched by id, then by picture, then alone."""
    before = {entry.id: entry for entry in old}
    unmatched: list[_Entry] = []
    for entry in new:
        if (match := before.pop(entry.id, None)) is None:
            unmatched.append(entry)
        elif (pair := _Pair(match, entry)).kind:
            yield pair
    by_picture: dict[str, list[_Entry]] = defaultdict(list)
    for entry in reversed(before.values()):  # the first of a picture is taken first
        if entry.picture is not None:
            by_picture[entry.picture].append(entry)
    for entry in unmatched:
        others = by_picture.get(entry.picture or "")
        match = others.pop() if others else None
        if match is not None:
            del before[match.id]
        yield _Pair(match, entry)
    yield from (_Pair(entry, None) for entry in before.values())


def _by_config(counts: tuple[Counter[Place], Counter[Place]], pairs: list[_Pair]) -> dict[Place, Changes]:
    """Count the changes as a reader of each config meets them: what moved from k1 to k2 is gone from the one."""
    kinds = Counter((one.old and one.old.place, one.new and one.new.place, one.kind) for one in pairs)
    found: dict[Place, Changes] = {}
    for name, leaves in configs(leaf for leaf, _ in counts[0] | counts[1]).items():
        for split in SPLITS:
            of = {(leaf, split) for leaf in leaves}
            totals = [sum(count for place, count in side.items() if place in of) for side in counts]
            changes: Counter[str] = Counter()
            for (old, new, kind), count in kinds.items():
                if old in of and new in of:
                    changes[str(kind)] += count
                elif old in of or new in of:
                    changes["removed" if old in of else "added"] += count
            if any(totals):
                found[name, split] = Changes(*totals, **{str(kind): changes[kind] for kind in KINDS})
    return found


def _examples(pairs: list[_Pair]) -> dict[Kind, tuple[str, ...]]:
    examples: dict[Kind, tuple[str, ...]] = {}
    for kind in KINDS:
        ids = ((one.new or one.old) for one in pairs if one.kind == kind)
        ordered = sorted((entry for entry in ids if entry), key=lambda entry: (order_of(entry.place[0]), entry.id))
        if ordered:
            examples[kind] = tuple(entry.id for entry in ordered[:MAX_EXAMPLES])
    return examples


def _version(card: str) -> str:
    """Return the version that a card states, an empty string where it states none."""
    try:
        return str(header_in(card)["configs"][0]["version"])
    except (ValueError, LookupError, TypeError):
        return ""


def _but_version(card: str, version: str) -> str:
    return card.replace(version, "X.Y.Z") if version else card
