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

from compact_hf.dataset.card import CARD, parse_header
from compact_hf.dataset.reader import DatasetReader, DirectoryReader, open_dataset, read_parquet
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.dataset.schema import SPLITS, configs_from_subsets, parse_data_path, subset_order
from compact_hf.errors import ReleaseError
from compact_hf.reports.table import NotebookSummary, Table

Step = Literal["major", "minor", "patch"]

_VERSION: Final = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


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


def parse_version(text: str) -> Version | None:
    """Return the version that `X.Y.Z` or `vX.Y.Z` names, None for any other text."""
    match = _VERSION.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def highest_version(tags: Iterable[str]) -> Version | None:
    """Return the highest version among tags, None where none of them is one; tags without `v` are not ours."""
    return max((version for tag in tags if tag[:1] == "v" and (version := parse_version(tag))), default=None)


def next_version(version: Version, step: Step) -> Version:
    """Return the lowest version that may follow `version` where a change takes this step.

    >>> str(next_version(Version(1, 2, 3), "minor"))
    '1.3.0'
    """
    match step:
        case "major":
            return Version(version.major + 1, 0, 0)
        case "minor":
            return Version(version.major, version.minor + 1, 0)
        case "patch":
            return Version(version.major, version.minor, version.patch + 1)


ChangeKind = Literal["added", "removed", "changed", "corrected"]
SplitKey = tuple[str, str]
_Metadata = tuple[str | None, ...]

CHANGE_KINDS: Final[tuple[ChangeKind, ...]] = ("added", "removed", "changed", "corrected")
MAX_EXAMPLES: Final = 3
"""Ids that a difference names of each kind."""

# What is said about a row, apart from what is trained on: other values correct a row and do not change it.
_METADATA_COLUMNS: Final = ("source", "image_source", "image_license", "teacher", "verifier", "preset_version")
_KEY_COLUMNS: Final = ("id", "image_id", "source")
_MAX_OPEN_FILES: Final = 8  # of the Hub: its answers take longer than our work
_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows of one split of one config.

    Attributes:
        before, after (`int`): how many there are.
        added, removed (`int`): there on one side only.
        changed (`int`): the same row with other turns, messages or capabilities.
        corrected (`int`): the same image and messages, and something else said about them, such as the licence.
    """

    before: int
    after: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class Difference(NotebookSummary):
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
    rows: dict[SplitKey, Changes]
    columns: dict[str, tuple[str, str]]
    examples: dict[ChangeKind, tuple[str, ...]]
    card: bool

    @property
    def removed_splits(self) -> tuple[SplitKey, ...]:
        """(config, split) that had rows and have none."""
        return tuple(split_key for split_key, changes in self.rows.items() if changes.before and not changes.after)

    @property
    def step(self) -> Step:
        """What a version of the new one has to go up by at least."""
        if self.columns or self.removed_splits:
            return "major"
        all_changes = self.rows.values()
        return (
            "minor" if any(changes.added or changes.removed or changes.changed for changes in all_changes) else "patch"
        )

    def reasons(self) -> list[str]:
        """Return what changed, most important first, each in a few words; nothing where nothing did."""
        lines = [f"column {name}: {old or 'none'} -> {new or 'none'}" for name, (old, new) in self.columns.items()]
        lines += [f"config {config} has no {split} rows any more" for config, split in self.removed_splits]
        all_changes = [changes for (config, _), changes in self.rows.items() if config == "all"]
        for kind in CHANGE_KINDS:
            if count := sum(getattr(changes, kind) for changes in all_changes):
                lines.append(f"{count:,} {'row' if count == 1 else 'rows'} {kind}")
        return lines or ["the card differs"] * self.card  # which counts rows, and so differs with them

    def summary(self) -> Iterator[str | Table]:
        """Yield the tables of rows, columns and examples, and a sentence that sums them up."""
        yield Table(
            ("config", "split", "before", "after", *CHANGE_KINDS),
            [
                (*key, changes.before, changes.after, *(getattr(changes, kind) for kind in CHANGE_KINDS))
                for key, changes in self.rows.items()
            ],
        )
        yield Table(
            ("column", "before", "after"),
            [(name, *(type_name or "none" for type_name in types)) for name, types in self.columns.items()],
        )
        yield Table(("rows", "such as"), [(kind, " ".join(ids)) for kind, ids in self.examples.items()])
        reasons = "; ".join(self.reasons())
        yield f"{self.old} -> {self.new}: {reasons or 'nothing changed'}; a {self.step} change"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it: `rows` by config, then by split."""
        rows: dict[str, dict[str, Any]] = defaultdict(dict)
        for (config, split), changes in self.rows.items():
            rows[config][split] = asdict(changes)
        return asdict(self) | {"rows": rows, "step": self.step}


class _Entry(NamedTuple):
    """What is kept of a row: where it lies, its keys, a digest of what is trained on, and what is said about it."""

    split_key: SplitKey
    id: str
    image_id: str | None  # None for instruction rows, which share images
    content_digest: bytes
    metadata: _Metadata


class _Pair(NamedTuple):
    """A row on both sides, or on one."""

    old: _Entry | None
    new: _Entry | None

    @property
    def kind(self) -> ChangeKind | None:
        if self.old is None or self.new is None:
            return "added" if self.old is None else "removed"
        if self.old.id != self.new.id or self.old.content_digest != self.new.content_digest:
            return "changed"
        return "corrected" if self.old.metadata != self.new.metadata else None


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare two releases.

    Args:
        a, b (`str | Path`): the one before and the one after: a folder, or `org/name[@revision]` (a dataset repository
            on the Hub; main without a revision).

    Raises:
        UsageError: one is neither a folder nor named like a repository.
        ReleaseError: one holds no release, or a file of it cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    old, new = open_dataset(a), open_dataset(b)
    same_files = {path for path, sha256 in old.file_hashes.items() if sha256 and new.file_hashes.get(path) == sha256}
    types = _column_types(old), _column_types(new)
    shared_columns = [name for name in types[0] if types[0][name] == types[1].get(name)]
    if missing := [name for name in _KEY_COLUMNS if name not in shared_columns]:
        raise ReleaseError(f"{a} and {b} cannot be compared: not both have a column {missing[0]} of the same type")
    counts = _count_rows(old, new, same_files)
    pairs = list(
        _pair_rows(_iter_entries(old, same_files, shared_columns), _iter_entries(new, same_files, shared_columns))
    )
    cards = old.read_text(CARD), new.read_text(CARD)
    versions = _card_version(cards[0]), _card_version(cards[1])
    return Difference(
        old=old.name,
        new=new.name,
        versions=versions,
        rows=_count_changes(counts, pairs),
        columns={
            name: (types[0].get(name, ""), types[1].get(name, ""))
            for name in types[0] | types[1]
            if name not in shared_columns
        },
        examples=_pick_examples(pairs),
        card=_mask_version(cards[0], versions[0]) != _mask_version(cards[1], versions[1]),
    )


def _column_types(reader: DatasetReader) -> dict[str, str]:
    """Return column -> type, by the first file: all files of a release have one schema (validate.py)."""
    if not reader.file_hashes:
        raise ReleaseError(f"{reader.name} holds no release: there are no files data/k1/train-00000-of-00001.parquet")
    schema = read_parquet(reader, next(iter(reader.file_hashes)), lambda file: file.schema_arrow)
    return {name: str(schema.field(name).type) for name in schema.names}


def _count_rows(
    old: DatasetReader, new: DatasetReader, same_files: set[str]
) -> tuple[Counter[SplitKey], Counter[SplitKey]]:
    """Return (subset, split) -> rows, of both; what is the same is looked at once, in a folder where there is one."""
    preferred_reader = new if isinstance(new, DirectoryReader) else old
    totals: tuple[Counter[SplitKey], Counter[SplitKey]] = (Counter(), Counter())
    for reader, total in zip((old, new), totals, strict=True):
        for path in reader.file_hashes:
            split_key = parse_data_path(path)
            if split_key is not None:
                total[split_key] += read_parquet(
                    preferred_reader if path in same_files else reader, path, lambda file: file.metadata.num_rows
                )
    return totals


def _iter_entries(reader: DatasetReader, same_files: set[str], columns: list[str]) -> Iterator[_Entry]:
    """Yield the rows of all files but those that are the same on both sides, in the order of the files."""
    paths = [path for path in reader.file_hashes if path not in same_files]
    read_rows = partial(_read_rows, columns=[name for name in columns if name != "images"])
    with ThreadPoolExecutor(_MAX_OPEN_FILES if not isinstance(reader, DirectoryReader) else 1) as pool:
        for path, rows in zip(paths, pool.map(lambda path: read_parquet(reader, path, read_rows), paths), strict=True):
            split_key = parse_data_path(path) or ("", "")
            yield from (_Entry(split_key, *row) for row in rows)


def _read_rows(file: Any, columns: list[str]) -> list[tuple[str, str | None, bytes, _Metadata]]:
    """Return of each row its id, its image where it is no instruction row, a digest, and what is said about it."""
    content_columns = [name for name in columns if name not in _METADATA_COLUMNS]
    metadata_columns = [name for name in columns if name in _METADATA_COLUMNS]
    rows = []
    interned: dict[_Metadata, _Metadata] = {}  # few rows differ in it
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        values = {name: batch.column(name).to_pylist() for name in columns}
        contents = zip(*(values[name] for name in content_columns), strict=True)
        metadata = zip(*(values[name] for name in metadata_columns), strict=True) if metadata_columns else repeat(())
        for id_, image_id, source, row_content, row_metadata in zip(
            *(values[name] for name in _KEY_COLUMNS), contents, metadata, strict=False
        ):
            rows.append(
                (
                    id_,
                    None if source == INSTRUCTION else image_id,
                    _digest(row_content),
                    interned.setdefault(row_metadata, row_metadata),
                )
            )
    return rows


def _digest(values: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()


def _pair_rows(old: Iterable[_Entry], new: Iterable[_Entry]) -> Iterator[_Pair]:
    """Yield every row that is not the same on both sides: matched by id, then by image, then alone."""
    unmatched_old = {entry.id: entry for entry in old}
    unmatched_new: list[_Entry] = []
    for entry in new:
        if (match := unmatched_old.pop(entry.id, None)) is None:
            unmatched_new.append(entry)
        elif (pair := _Pair(match, entry)).kind:
            yield pair
    by_image: dict[str, list[_Entry]] = defaultdict(list)
    for entry in reversed(unmatched_old.values()):  # the first of an image is taken first
        if entry.image_id is not None:
            by_image[entry.image_id].append(entry)
    for entry in unmatched_new:
        candidates = by_image.get(entry.image_id or "")
        match = candidates.pop() if candidates else None
        if match is not None:
            del unmatched_old[match.id]
        yield _Pair(match, entry)
    yield from (_Pair(entry, None) for entry in unmatched_old.values())


def _count_changes(counts: tuple[Counter[SplitKey], Counter[SplitKey]], pairs: list[_Pair]) -> dict[SplitKey, Changes]:
    """Count the changes as a reader of each config meets them: what moved from k1 to k2 is gone from the one."""
    pair_counts = Counter(
        (pair.old and pair.old.split_key, pair.new and pair.new.split_key, pair.kind) for pair in pairs
    )
    result: dict[SplitKey, Changes] = {}
    for name, subsets in configs_from_subsets(subset for subset, _ in counts[0] | counts[1]).items():
        for split in SPLITS:
            split_keys = {(subset, split) for subset in subsets}
            totals = [sum(count for split_key, count in side.items() if split_key in split_keys) for side in counts]
            changes: Counter[str] = Counter()
            for (old, new, kind), count in pair_counts.items():
                if old in split_keys and new in split_keys:
                    changes[str(kind)] += count
                elif old in split_keys or new in split_keys:
                    changes["removed" if old in split_keys else "added"] += count
            if any(totals):
                result[name, split] = Changes(*totals, **{str(kind): changes[kind] for kind in CHANGE_KINDS})
    return result


def _pick_examples(pairs: list[_Pair]) -> dict[ChangeKind, tuple[str, ...]]:
    examples: dict[ChangeKind, tuple[str, ...]] = {}
    for kind in CHANGE_KINDS:
        entries = ((pair.new or pair.old) for pair in pairs if pair.kind == kind)
        ordered = sorted(
            (entry for entry in entries if entry), key=lambda entry: (subset_order(entry.split_key[0]), entry.id)
        )
        if ordered:
            examples[kind] = tuple(entry.id for entry in ordered[:MAX_EXAMPLES])
    return examples


def _card_version(card: str) -> str:
    """Return the version that a card states, an empty string where it states none."""
    try:
        return str(parse_header(card)["configs"][0]["version"])
    except (ValueError, LookupError, TypeError):
        return ""


def _mask_version(card: str, version: str) -> str:
    return card.replace(version, "X.Y.Z") if version else card
