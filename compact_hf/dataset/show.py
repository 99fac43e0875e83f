"""`compact show`: a contact sheet, HTML and PNG, of samples of a run, a dataset or its repository.

    compact show run --k 3 --rejects

Outcomes of a run stream by, and images are read once they are chosen: a run may be larger than memory, and may still be
running. Of a dataset little is read: of each k's files, those for training first, row groups in an order by hash until
there are enough questions in them, and images only of those groups. Rows are ordered by their images' hashes, so that a
row group is as good a sample as any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.examples import Reservoir, Sample, SampleQuery, SampleSet, has_draft
from compact_hf.dataset.reader import DatasetReader, open_dataset, read_parquet
from compact_hf.dataset.schema import parse_data_path, subset_order
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.address import HUB_PREFIX
from compact_hf.images.source import ImageSource
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.preset import CONVERSATION_METHODS
from compact_hf.records import ImageInfo, Turn
from compact_hf.reports import contact_sheet
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.runs.shards import find_runs
from compact_hf.runs.sources import reopen_source
from compact_hf.storage import write_atomically

_COLUMNS: Final = ("id", "k", "turns", "image_id", "image_source", "image_license", "teacher", "verifier")
_IMAGE_COLUMN: Final = "images"


def read_dataset_samples(reader: DatasetReader, query: SampleQuery) -> SampleSet:
    """Choose among a release's compositional rows.

    Raises:
        UsageError: there is nothing that is wanted.
        ReleaseError: there are no data files of a release, or one cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    if not reader.file_hashes:
        raise ReleaseError(f"{reader.name} holds no data files of a release; give what `compact assemble` wrote")
    paths_by_subset: dict[str, list[str]] = {}
    for path in reader.file_hashes:
        subset, _ = parse_data_path(path) or ("", "")
        if subset.startswith("k"):
            paths_by_subset.setdefault(subset, []).append(path)
    reservoir = Reservoir(query)
    for subset in sorted(paths_by_subset, key=subset_order):
        if query.k in (None, int(subset[1:])):
            _add_candidates(reader, paths_by_subset[subset], int(subset[1:]), reservoir)
    sample_set = reservoir.read_samples()
    if not sample_set.items:
        available = ", ".join(sorted(paths_by_subset, key=subset_order)) or "the instruction part only, which has no k"
        raise UsageError(f"{reader.name} has no questions {query.describe()}; there is {available}")
    return sample_set


@dataclass(slots=True)
class _RowGroup:
    """A row group of a file. Images are read all at once, when the first is asked for, of the rows in `rows`."""

    reader: DatasetReader
    path: str
    index: int
    rows: list[int] = field(default_factory=list)
    _images: dict[int, bytes] = field(default_factory=dict)

    def read_image(self, row: int) -> bytes:
        if not self._images:
            self._images = read_parquet(self.reader, self.path, self._read_images)
        return self._images[row]

    def _read_images(self, file: Any) -> dict[int, bytes]:
        column = file.read_row_group(self.index, columns=[_IMAGE_COLUMN])[_IMAGE_COLUMN]
        return {row: column[row].as_py()[0]["bytes"] for row in self.rows}


def _add_candidates(reader: DatasetReader, paths: Iterable[str], k: int, reservoir: Reservoir) -> None:
    """Offer what is wanted in the files of one subset, until there is enough of it."""
    query = reservoir.query

    def sort_key(path: str) -> tuple[bool, int]:
        return (parse_data_path(path) or ("", ""))[1] != "train", query.rank(path)

    for path in sorted(paths, key=sort_key):
        if reservoir.is_full(k):
            return
        read_parquet(reader, path, partial(_add_row_groups, reader, path, k, reservoir))


def _add_row_groups(reader: DatasetReader, path: str, k: int, reservoir: Reservoir, file: Any) -> None:
    query = reservoir.query
    if missing := {*_COLUMNS, _IMAGE_COLUMN} - set(file.schema_arrow.names):
        raise ReleaseError(f"{path} of {reader.name} lacks {', '.join(sorted(missing))}; it is no file of a release")
    for index in sorted(range(file.num_row_groups), key=partial(query.rank, path)):
        if reservoir.is_full(k):
            return
        group = _RowGroup(reader, path, index)
        for row, record in enumerate(file.read_row_group(index, columns=list(_COLUMNS)).to_pylist()):
            if turns := query.select_turns([_parse_turn(turn) for turn in record["turns"]]):
                group.rows.append(row)
                reservoir.add(query.rank(record["id"]), _dataset_sample(record, turns, partial(group.read_image, row)))


def _parse_turn(turn: dict[str, Any]) -> Turn:
    capabilities = {name: tuple(turn[name]) for name in ("capabilities", "verified_capabilities")}
    return Turn(turn["question"], turn["answer"], confidence=turn["confidence"], **capabilities)


def _dataset_sample(record: dict[str, Any], turns: tuple[Turn, ...], read_image: Any) -> Sample:
    caption = f"{record['image_source']}, {record['image_license']}, row {record['id'][:8]}"
    return Sample(record["k"], turns, caption, record["teacher"], record["verifier"], read_image)


def read_run_samples(run: Path, query: SampleQuery, *, rejects: bool) -> SampleSet:
    """Choose among a run's images.

    Args:
        run (`Path`): a run folder, or a folder that holds the shards of one.
        query (`SampleQuery`): which, and how many.
        rejects (`bool`): show drafts that were dropped instead of questions that were kept.

    Raises:
        UsageError: it makes no conversations, or there is nothing that is wanted.
        JournalError: it cannot be read.
        SourceError: an image is gone, or is another one now.
    """
    reservoir = Reservoir(query)
    ks: set[int] = set()
    with ExitStack() as stack:
        for directory in find_runs(run):
            journal = stack.enter_context(Journal.read(directory))
            if (method := journal.identity["method"]) not in CONVERSATION_METHODS:
                raise UsageError(f"{run} is a run of {method}, which keeps no questions; give one of compact generate")
            source = reopen_source(journal.identity["source"])
            for finished, outcome in _iter_outcomes(journal):
                if has_draft(outcome.rejects) if rejects else outcome.conversation:
                    ks.add(outcome.k)
                sample = _run_sample(journal, source, finished, outcome, query, rejects=rejects)
                if sample is not None and query.k in (None, outcome.k):
                    reservoir.add(query.rank(finished.image_id), sample)
        sample_set = reservoir.read_samples()
    if not sample_set.items:
        subject = "dropped drafts" if rejects else "kept questions"
        available = f"there are some of k = {', '.join(map(str, sorted(ks)))}" if ks else "there are none at all so far"
        raise UsageError(f"{run} has no {' '.join(filter(None, (subject, query.describe())))}; {available}")
    return sample_set


def _iter_outcomes(journal: Journal) -> Iterator[tuple[FinishedImage, Outcome]]:
    return ((finished, parse_outcome(finished.body)) for finished in journal.outcomes())


def _run_sample(
    journal: Journal,
    source: ImageSource,
    finished: FinishedImage,
    outcome: Outcome,
    query: SampleQuery,
    *,
    rejects: bool,
) -> Sample | None:
    turns = query.select_turns(outcome.conversation.turns) if outcome.conversation and not rejects else ()
    drafts = query.select_drafts(outcome.rejects) if rejects else ()
    if not turns and not drafts:
        return None
    identity = journal.identity
    return Sample(
        outcome.k,
        turns,
        finished.ref,
        identity["teacher"],
        identity["verifier"],
        partial(_read_image, journal, source, finished),
        drafts,
    )


def _read_image(journal: Journal, source: ImageSource, finished: FinishedImage) -> bytes:
    image = journal.get_image(finished.image_id, finished.ref)
    # Where the run's last start found it gone, reading it again says so.
    return reread_verified(source, image or ImageInfo(finished.image_id, finished.ref, 0, 0, ""))


PAGE_NAME: Final = "contact_sheet.html"
IMAGE_NAME: Final = "contact_sheet.png"

_UNSAFE_CHARS: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet. A notebook shows it as its image.

    Attributes:
        page (`Path`): one HTML file that needs nothing beside it.
        image (`Path`): the same as a PNG file.
        count (`int`): how many images there are on it.
    """

    page: Path
    image: Path
    count: int

    def _repr_png_(self) -> bytes:
        return self.image.read_bytes()


def show(
    path: str | Path,
    out: str | Path | None = None,
    *,
    k: int | None = None,
    capability: str | None = None,
    rejects: bool = False,
    n: int = 12,
    seed: int = 0,
) -> Sheet:
    """Write a contact sheet: a few images with their questions, answers and capabilities, as even over k as can be.

    Which ones is decided by hash, so that the same call shows the same. A run may still go on, and may be larger than
    memory; of a repository only the row groups that are looked into are fetched.

    Args:
        path (`str | Path`): a run folder (or one with the shards of a run), a release, or `org/name[@revision]` on the
            Hub, with or without `hf://datasets/` before it.
        out (`str | Path`, *optional*, defaults to `NAME-sheet` here): the folder for the two files, in place of
            earlier ones.
        k (`int`, *optional*): 1 to 10; only images of this k.
        capability (`str`, *optional*): only questions that were to need it.
        rejects (`bool`, *optional*, defaults to False): of a run: the drafts that were dropped, and why, at most four a
            image, instead of what was kept.
        n (`int`, *optional*, defaults to 12): 1 to 120 images.
        seed (`int`, *optional*, defaults to 0): another one shows other images.

    Raises:
        UsageError: an argument that is out of range, or nothing that could be shown.
        JournalError, SourceError: the run cannot be read, or its images are gone.
        ReleaseError: the release is damaged, or `out` cannot be written.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    capability_name = None if capability is None else re.sub(r"[\s-]+", "_", capability.strip().lower())
    query = SampleQuery(k, capability_name, n, seed)
    is_run = _is_run(path)
    if rejects and not is_run:
        raise UsageError(f"{path} is no run, and only a run keeps what was dropped; give the folder of the run")
    sample_set = (
        read_run_samples(Path(path), query, rejects=rejects)
        if is_run
        else read_dataset_samples(_open_dataset(path), query)
    )
    name = Path(path).resolve().name if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX)
    directory = Path(out) if out is not None else Path(f"{_UNSAFE_CHARS.sub('-', name)}-sheet")
    title = f"{name}: {'what was dropped' if rejects else 'questions and answers'}"
    page = contact_sheet.render_page(
        sample_set.items, title=title, summary=list(_iter_summary(sample_set, query, rejects=rejects))
    )
    return _write_sheet(directory, page, contact_sheet.render_sheet(sample_set.items), len(sample_set.items))


def _is_run(path: str | Path) -> bool:
    directory = Path(path)
    return directory.is_dir() and any((run / FILE_NAME).is_file() for run in find_runs(directory))


def _open_dataset(path: str | Path) -> DatasetReader:
    if Path(path).is_dir():
        if not (Path(path) / "data").is_dir():
            raise UsageError(f"{path} is neither a run (no {FILE_NAME}) nor a release (no folder data); give one")
    elif Path(path).exists() or Path(path).is_absolute() or str(path).removeprefix(HUB_PREFIX).count("/") != 1:
        raise UsageError(f"{path} is no folder; give a run, a release, or org/name[@revision] on the Hub")
    return open_dataset(path if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX), compute_hashes=False)


def _iter_summary(sample_set: SampleSet, query: SampleQuery, *, rejects: bool) -> Iterator[str]:
    images = f"{len(sample_set.items)} {'picture' if len(sample_set.items) == 1 else 'pictures'}"
    subject = f"{'dropped drafts' if rejects else 'questions'} {query.describe()}".strip()
    yield f"{images} with {subject}, chosen by hash (seed {query.seed})."
    yield f"Written by {', '.join(sample_set.teachers)}; checked by {', '.join(sample_set.verifiers)}."
    if rejects:
        yield "Below each draft stand why it was dropped, and the capabilities that it was to need: k of them."
    else:
        yield (
            "Below each answer stand the capabilities that were asked for: k of them. The verifier found the same, "
            "unless the line above them says otherwise."
        )


def _write_sheet(directory: Path, page: str, image: bytes, count: int) -> Sheet:
    sheet = Sheet(directory / PAGE_NAME, directory / IMAGE_NAME, count)
    try:
        write_atomically(sheet.page, page)
        write_atomically(sheet.image, image)
    except OSError as error:
        raise ReleaseError(f"{directory} cannot be written ({error.strerror}); give another --out") from error
    return sheet
