"""Validating a release: in goes its folder or its repository, out comes a report of every defect.

    compact validate release
    compact validate org/compact@v1.0.0

Files are checked side by side, each as a stream of row groups; what grows with the number of rows is only the ids,
which must be unique. The rules for one row are in row_checks.py.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.card import CARD, foreign_files, header_of, listed_configs, picture_defects, text_defects
from compact_hf.dataset.row_checks import defects
from compact_hf.dataset.schema import configs, features, features_in_card, file_name, order_of, place_of
from compact_hf.dataset.stats import Facts, Shards, Tally
from compact_hf.dataset.writer import MAX_GROUP_ROWS
from compact_hf.errors import UsageError
from compact_hf.hub.download import snapshot
from compact_hf.images.address import HUB

MAX_SHOWN: Final = 10
"""Problems of one check that a report names; the rest are only counted."""

_REPOSITORY: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>.+))?")

Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A defect and where it is: `row` is the row's id, empty where the whole file (or folder) is meant."""

    check: str
    file: str
    row: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What validation found.

    Attributes:
        problems (`tuple[Problem, ...]`): the first `MAX_SHOWN` of each check.
        counts (`dict[str, int]`): check -> how many problems there are; empty for a valid release.
        rows (`dict[tuple[str, str], int]`): (leaf, split) -> rows.
    """

    problems: tuple[Problem, ...]
    counts: dict[str, int]
    rows: dict[Place, int]

    @property
    def is_valid(self) -> bool:
        return not self.counts


@dataclass(slots=True)
class _Findings:
    """Problems as they are found, and what has to be compared between files."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    rows: Counter[Place] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    pictures: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "validation": set()})
    tally: Tally = field(default_factory=Tally)

    def add(self, problem: Problem) -> None:
        self.counts[problem.check] += 1
        if self.counts[problem.check] <= MAX_SHOWN:
            self.problems.append(problem)

    def merge(self, other: _Findings) -> None:
        before = self.counts.copy()
        self.counts += other.counts
        for problem in other.problems:
            before[problem.check] += 1
            if before[problem.check] <= MAX_SHOWN:
                self.problems.append(problem)
        self.rows += other.rows
        self.ids += other.ids
        for split, pictures in other.pictures.items():
            self.pictures[split] |= pictures
        self.tally.merge(other.tally)


def validate(path: str | Path) -> Report:
    """Check a release.

    Args:
        path (`str | Path`): the folder of the release; or, where there is no such folder, `org/name[@revision]` on the
            Hub, with or without `hf://datasets/` before it, which is downloaded into the Hub's cache.

    Raises:
        UsageError: `path` is neither a folder nor such a name.
        HubUnavailableError: the Hub cannot be reached, or keeps failing.
        HubError: there is no such repository or revision for this token.
    """
    path = _folder_of(path)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.parquet"))
    files = {name: place for name in names if (place := place_of(name))}
    schema = features().arrow_schema  # here and not in the threads: `datasets` must not be imported by two at once
    findings = _Findings()
    for name in foreign_files(path):
        findings.add(Problem("file that is no part of a release", name))
    for problem in _numbering(files):
        findings.add(problem)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding lets go of Python's lock
        for of_file in pool.map(partial(_check_file, path, schema), files, files.values()):
            findings.merge(of_file)
    for problem in [*_between_files(findings), *_card(path, set(files.values()), findings.rows)]:
        findings.add(problem)
    if not findings.counts:  # else there is nothing whole to compare the text with
        for problem in _card_text(path, files, findings):
            findings.add(problem)
    return Report(tuple(findings.problems), dict(findings.counts), dict(findings.rows))


def _folder_of(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    match = _REPOSITORY.fullmatch(str(path).removeprefix(HUB))
    if match is None:
        raise UsageError(f"{path} is not a folder; give the folder of a release, or org/name[@revision] on the Hub")
    return snapshot(match["name"], repo_type="dataset", revision=match["revision"])


def _numbering(files: Mapping[str, Place]) -> Iterator[Problem]:
    if not files:
        yield Problem("no data files", "data")
    count = Counter(files.values())
    expected = {file_name(*place, index, total) for place, total in count.items() for index in range(total)}
    for name in sorted(files.keys() - expected):
        yield Problem("data files are missing or too many", name, detail=f"{count[files[name]]} are there")


def _check_file(root: Path, schema: Any, name: str, place: Place) -> _Findings:
    import pyarrow as pa

    findings = _Findings()
    try:
        _check_rows(root, schema, name, place, findings)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        findings.add(Problem("unreadable file", name, detail=" ".join(str(error).split())))
    return findings


def _check_rows(root: Path, schema: Any, name: str, place: Place, findings: _Findings) -> None:
    import pyarrow.parquet as pq

    leaf, split = place
    with pq.ParquetFile(root / name, pre_buffer=False) as file:
        findings.rows[place] += file.metadata.num_rows
        if wrong := _schema_difference(file.schema_arrow, schema):
            findings.add(Problem("schema differs", name, detail=wrong))
            return
        for batch in file.iter_batches(batch_size=MAX_GROUP_ROWS):
            for record in batch.to_pylist():
                found = list(defects(record, leaf=leaf, split=split))
                for check, detail in found:
                    findings.add(Problem(check, name, str(record["id"]), detail))
                if not found:
                    findings.tally.record(record)
                findings.ids.append(str(record["id"]))
                if record["image_id"] is not None:
                    findings.pictures[split].add(record["image_id"])


def _schema_difference(schema: Any, expected: Any) -> str:
    """Return what differs between a file's schema and a release's, an empty string where nothing does."""
    if schema.names != expected.names:
        return f"columns {', '.join(schema.names)}; should be {', '.join(expected.names)}"
    for name in expected.names:
        if schema.field(name).type != expected.field(name).type:
            return f"{name} is {schema.field(name).type}; should be {expected.field(name).type}"
    if (schema.metadata or {}).get(b"huggingface") != expected.metadata[b"huggingface"]:
        return "the features for `datasets` are missing or others"
    return ""


def _between_files(findings: _Findings) -> Iterator[Problem]:
    for row, times in Counter(findings.ids).items():
        if times > 1:
            yield Problem("repeated id", "data", row, f"{times} times")
    for image_id in sorted(findings.pictures["train"] & findings.pictures["validation"]):
        yield Problem("picture in both splits", "data", detail=f"image_id {image_id}")


def _card(path: Path, places: Collection[Place], rows: Mapping[Place, int]) -> Iterator[Problem]:
    try:
        header = header_of(path)
    except (OSError, ValueError) as error:
        yield Problem("card cannot be read", CARD, detail=str(error))
        return
    if not header:
        yield Problem("card cannot be read", CARD, detail="no card, or no header in it")
        return
    try:
        version = str(header["configs"][0]["version"])
        counted = _counts_of(header)
    except (KeyError, IndexError, TypeError) as error:
        yield Problem("card cannot be read", CARD, detail=f"configs or dataset_info lack {error}")
        return
    if header["configs"] != listed_configs(places, version):
        yield Problem("card's configs are not those of the files", CARD)
    if any(info.get("features") != features_in_card() for info in header["dataset_info"]):
        yield Problem("card's features differ", CARD)
    for name, leaves in configs(leaf for leaf, _ in places).items():
        there: Counter[str] = Counter()
        for (leaf, split), count in rows.items():
            there[split] += count if leaf in leaves else 0
        if +there != Counter(counted.pop(name, {})):
            yield Problem("card's counts are wrong", CARD, detail=f"config {name} has {dict(+there)}")
    for name in counted:
        yield Problem("card's counts are wrong", CARD, detail=f"config {name} has no files")


def _card_text(path: Path, files: Mapping[str, Place], findings: _Findings) -> Iterator[Problem]:
    """Compare the card's text and pictures with what was counted in the rows."""
    sizes: Counter[Place] = Counter()
    for name, place in files.items():
        sizes[place] += (path / name).stat().st_size
    count = Counter(files.values())
    places = sorted(findings.rows, key=lambda place: (order_of(place[0]), place[1]))
    shards = {place: Shards(findings.rows[place], count[place], 0, sizes[place]) for place in places}
    text = (path / CARD).read_text(encoding="utf-8")
    facts = Facts(str(header_of(path)["configs"][0]["version"]), shards, findings.tally)
    for check, detail in text_defects(text, facts):
        yield Problem(check, CARD, detail=detail)
    for check, name, detail in picture_defects(path, text, findings.tally.combinations):
        yield Problem(check, name, detail=detail)


def _counts_of(header: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return config -> split -> rows as the card says."""
    return {
        info["config_name"]: {split["name"]: split["num_examples"] for split in info["splits"]}
        for info in header["dataset_info"]
    }
