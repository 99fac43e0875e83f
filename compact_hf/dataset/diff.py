"""Compares two dataset releases: which rows, columns and configs differ, and which version number may follow.

    compact diff org/compact@v1.0.0 release

Rows are matched by id, a hash of image and text. The remaining rows are matched by image: two compositional rows about
the same image count as one changed row. Of files with identical bytes on both sides only the footer is read. Of other
files all columns are read except the images, which `image_id` represents; from the Hub this is about 1% of the bytes.
Memory use grows with the number of rows: two ids and a digest per row.

Version numbers: a major step if code that loads the previous version may fail (a column is missing, new or of another
type; a config or split is missing), a minor step if the same code loads other rows, and a patch if it loads the same
images and messages. A takedown is therefore a minor step, and results on 1.2.0 and 1.2.1 can be compared.
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

from compact_hf.dataset.reader import DatasetReader, DirectoryReader, open_dataset, read_parquet
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.dataset.schema import SPLITS, configs_from_subsets, parse_data_path, subset_order
from compact_hf.errors import ReleaseError
from compact_hf.hub.card import CARD, unmark_card
from compact_hf.parsing import parse_card_header
from compact_hf.reports.table import NotebookSummary, Table

Step = Literal["major", "minor", "patch"]

# X.Y.Z with an optional v, without leading zeros: 1.02.0 and 1.2.0 would be two tags of one version.
_VERSION: Final = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


class Version(NamedTuple):
    """A version number X.Y.Z; versions compare by major, then minor, then patch."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """The name of the version's tag on the Hub, such as `v1.0.0`."""
        return f"v{self}"


def parse_version(text: str) -> Version | None:
    """Parse a version; return None for text that is not one.

    Args:
        text (`str`): `X.Y.Z` or `vX.Y.Z`.
    """
    match = _VERSION.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def highest_version(tags: Iterable[str]) -> Version | None:
    """Return the highest version among tags, or None if there is none.

    Args:
        tags (`Iterable[str]`): names of tags; those not of the form `vX.Y.Z` are ignored.
    """
    return max((version for tag in tags if tag[:1] == "v" and (version := parse_version(tag))), default=None)


def next_version(version: Version, step: Step) -> Version:
    """Return the lowest version that may follow `version` after a change of this step.

    Args:
        version (`Version`): the previous version.
        step (`Step`): `major`, `minor` or `patch`.

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
"""Number of ids that a `Difference` lists per kind of change."""

# Metadata is not trained on: a row whose metadata differs is corrected, not changed.
_METADATA_COLUMNS: Final = ("source", "image_source", "image_license", "teacher", "verifier", "preset_version")
_KEY_COLUMNS: Final = ("id", "image_id", "source")
_MAX_OPEN_FILES: Final = 8  # on the Hub, where waiting for replies takes longer than the comparison
# Rows that are Python objects at the same time; only ids, digests and metadata are kept.
_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """Counts of the rows of one split of one config.

    Attributes:
        before (`int`): number of rows in the old release.
        after (`int`): number of rows in the new release.
        added (`int`): rows that only the new release has.
        removed (`int`): rows that only the old release has.
        changed (`int`): rows with other turns, messages or capabilities.
        corrected (`int`): rows with the same image and messages, but other metadata, such as the license.
    """

    before: int
    after: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class Difference(NotebookSummary):
    """The differences between two releases.

    Attributes:
        old (`str`): path or repository of the old release, as given.
        new (`str`): path or repository of the new release, as given.
        versions (`tuple[str, str]`): the versions that the two cards state; empty if a card states none.
        rows (`dict[tuple[str, str], Changes]`): the counts by (config, split), for each that either release has.
        columns (`dict[str, tuple[str, str]]`): for each column that differs, its type before and after; empty if a
            release does not have the column.
        examples (`dict[str, tuple[str, ...]]`): the first few ids for each kind of change; the new ids of changed rows.
        card (`bool`): whether the texts of the cards differ in more than the version.
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
        """Each (config, split) that had rows in the old release and has none in the new one."""
        return tuple(split_key for split_key, changes in self.rows.items() if changes.before and not changes.after)

    @property
    def step(self) -> Step:
        """The smallest step from the old to the new version number: major, minor or patch."""
        if self.columns or self.removed_splits:
            return "major"
        all_changes = self.rows.values()
        return (
            "minor" if any(changes.added or changes.removed or changes.changed for changes in all_changes) else "patch"
        )

    def reasons(self) -> list[str]:
        """Return a short phrase for each kind of change, most important first; empty if nothing changed."""
        lines = [f"column {name}: {old or 'none'} -> {new or 'none'}" for name, (old, new) in self.columns.items()]
        lines += [f"config {config} no longer has {split} rows" for config, split in self.removed_splits]
        # Only the config that has all rows: other configs share its files and would count a row again.
        all_changes = [changes for (config, _), changes in self.rows.items() if config == "all"]
        for kind in CHANGE_KINDS:
            if count := sum(getattr(changes, kind) for changes in all_changes):
                lines.append(f"{count:,} {'row' if count == 1 else 'rows'} {kind}")
        return lines or ["the card differs"] * self.card  # a card counts rows, so it changes with them

    def summary(self) -> Iterator[str | Table]:
        """Yield tables of rows, columns and example ids, and a summarizing sentence."""
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
        yield Table(("rows", "examples"), [(kind, " ".join(ids)) for kind, ids in self.examples.items()])
        reasons = "; ".join(self.reasons())
        yield f"{self.old} -> {self.new}: {reasons or 'nothing changed'}; a {self.step} change"

    def to_dict(self) -> dict[str, Any]:
        """Return the difference for JSON, with `rows` nested by config and split."""
        rows: dict[str, dict[str, Any]] = defaultdict(dict)
        for (config, split), changes in self.rows.items():
            rows[config][split] = asdict(changes)
        return asdict(self) | {"rows": rows, "step": self.step}


class _Entry(NamedTuple):
    """What is kept in memory of a row: its place, its keys, a digest of what is trained on, and its metadata."""

    split_key: SplitKey
    id: str
    image_id: str | None  # None for instruction rows: several of them may share an image
    content_digest: bytes
    metadata: _Metadata


class _Pair(NamedTuple):
    """A row that is in both releases or only in one."""

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
    """Compare two dataset releases.

    Args:
        a (`str | Path`): the old release: a directory, or `org/name[@revision]` (a dataset repository on the Hub; the
            default revision is main).
        b (`str | Path`): the new release, likewise.

    Returns:
        The differences.

    Raises:
        UsageError: one of them is neither a directory nor the name of a repository.
        ReleaseError: one of them is not a release, or a file of it cannot be read.
        HubError: the Hub cannot be reached or rejects the request.
    """
    old, new = open_dataset(a), open_dataset(b)
    # A hash is empty for a file that is not in LFS; such a file is compared row by row.
    same_files = {path for path, sha256 in old.file_hashes.items() if sha256 and new.file_hashes.get(path) == sha256}
    # (old, new): name -> Arrow type as text
    types = _column_types(old), _column_types(new)
    shared_columns = [name for name in types[0] if types[0][name] == types[1].get(name)]
    if missing := [name for name in _KEY_COLUMNS if name not in shared_columns]:
        raise ReleaseError(
            f"{a} and {b} cannot be compared: they do not both have a column {missing[0]} of the same type"
        )
    # All rows are counted from the footers; only the rows of files that differ are read.
    counts = _count_rows(old, new, same_files)
    pairs = list(
        _pair_rows(_iter_entries(old, same_files, shared_columns), _iter_entries(new, same_files, shared_columns))
    )
    cards = unmark_card(old.read_text(CARD)), unmark_card(new.read_text(CARD))
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
    """Return the types of the columns, read from the first file: all files of a release have the same schema."""
    if not reader.file_hashes:
        raise ReleaseError(
            f"{reader.name} is not a dataset release: no files such as data/k1/train-00000-of-00001.parquet"
        )
    schema = read_parquet(reader, next(iter(reader.file_hashes)), lambda file: file.schema_arrow)
    return {name: str(schema.field(name).type) for name in schema.names}


def _count_rows(
    old: DatasetReader, new: DatasetReader, same_files: set[str]
) -> tuple[Counter[SplitKey], Counter[SplitKey]]:
    """Return the number of rows by (subset, split) of both releases; shared files are read locally if possible."""
    # Identical files give the same counts, and a local read costs no request.
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
    """Yield the rows of all files that are not identical on both sides, in the order of the files."""
    paths = [path for path in reader.file_hashes if path not in same_files]
    read_rows = partial(_read_rows, columns=[name for name in columns if name != "images"])
    with ThreadPoolExecutor(_MAX_OPEN_FILES if not isinstance(reader, DirectoryReader) else 1) as pool:
        # `map` returns results in the order of the paths, whichever file is read first.
        for path, rows in zip(paths, pool.map(lambda path: read_parquet(reader, path, read_rows), paths), strict=True):
            split_key = parse_data_path(path) or ("", "")
            yield from (_Entry(split_key, *row) for row in rows)


def _read_rows(file: Any, columns: list[str]) -> list[tuple[str, str | None, bytes, _Metadata]]:
    """Return (id, image id, digest of the content, metadata) of each row; the image id of instruction rows is None."""
    # The id is part of the content, so a row with a new id counts as changed.
    content_columns = [name for name in columns if name not in _METADATA_COLUMNS]
    metadata_columns = [name for name in columns if name in _METADATA_COLUMNS]
    rows = []
    interned: dict[_Metadata, _Metadata] = {}  # most rows share the same metadata, so keep one copy of each
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        values = {name: batch.column(name).to_pylist() for name in columns}
        contents = zip(*(values[name] for name in content_columns), strict=True)
        # `zip` of no columns would yield no rows; an endless series of empty tuples yields one per row.
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
    # The digests of both releases are computed in this process and not stored, so `repr` is exact enough.
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()


def _pair_rows(old: Iterable[_Entry], new: Iterable[_Entry]) -> Iterator[_Pair]:
    """Yield each row that differs: first matched by id, then by image; the rest were added or removed."""
    # Step 1: match by id. What remains in `unmatched_old` has no row with this id in the new release.
    unmatched_old = {entry.id: entry for entry in old}
    unmatched_new: list[_Entry] = []
    for entry in new:
        if (match := unmatched_old.pop(entry.id, None)) is None:
            unmatched_new.append(entry)
        elif (pair := _Pair(match, entry)).kind:
            yield pair
    # Step 2: match the rest by image. Instruction rows are left out: several of them may share an image.
    by_image: dict[str, list[_Entry]] = defaultdict(list)
    for entry in reversed(unmatched_old.values()):  # reversed, so that pop() takes the first row of an image first
        if entry.image_id is not None:
            by_image[entry.image_id].append(entry)
    for entry in unmatched_new:
        candidates = by_image.get(entry.image_id or "")
        match = candidates.pop() if candidates else None
        if match is not None:
            del unmatched_old[match.id]
        yield _Pair(match, entry)
    # Step 3: no counterpart, so these rows were removed.
    yield from (_Pair(entry, None) for entry in unmatched_old.values())


def _count_changes(counts: tuple[Counter[SplitKey], Counter[SplitKey]], pairs: list[_Pair]) -> dict[SplitKey, Changes]:
    """Count the changes per config and split.

    A row that moved from subset k1 to k2 counts as removed in config k1 and as added in config k2.
    """
    # (old place, new place, kind) -> number of pairs; a place is None if the row is not in that release
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
                # Both places in this config and split: the row stayed. Only one: it moved in or out, or is new or gone.
                if old in split_keys and new in split_keys:
                    changes[str(kind)] += count
                elif old in split_keys or new in split_keys:
                    changes["removed" if old in split_keys else "added"] += count
            if any(totals):
                result[name, split] = Changes(*totals, **{str(kind): changes[kind] for kind in CHANGE_KINDS})
    return result


def _pick_examples(pairs: list[_Pair]) -> dict[ChangeKind, tuple[str, ...]]:
    """Return the first ids of each kind of change, in the order of subsets and ids."""
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
    """Return the version that a card states, or an empty string if it states none."""
    try:
        return str(parse_card_header(card)["configs"][0]["version"])
    # No header, or one of another tool: the card states no version.
    except (ValueError, LookupError, TypeError):
        return ""


def _mask_version(card: str, version: str) -> str:
    """Replace the version in a card's text, so that two cards can be compared without it."""
    return card.replace(version, "X.Y.Z") if version else card
