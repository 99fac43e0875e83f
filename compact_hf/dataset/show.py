"""`compact show`: a contact sheet, HTML and PNG, of samples of a run, a dataset or its repository.

    compact show run --k 3 --rejects

Outcomes of a run stream by, and images are read once they are chosen: a run may be larger than memory, and may still be
running. Of a dataset little is read: of each k's files, those for training first, row groups in an order by hash until
there are enough questions in them, and images only of those groups. Rows are ordered by their images' hashes, so that a
row group is as good a sample as any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.examples import Chosen, Found, Sample, Wanted, any_draft
from compact_hf.dataset.reader import Held, held, of_file
from compact_hf.dataset.schema import order_of, place_of
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.address import HUB
from compact_hf.images.source import Source
from compact_hf.methods.compact.conversation import Outcome, outcome_of
from compact_hf.methods.compact.preset import CONVERSING
from compact_hf.records import Picture, Turn
from compact_hf.reports import contact_sheet
from compact_hf.runs.image_index import read_again
from compact_hf.runs.journal import FILE_NAME, Finished, Journal
from compact_hf.runs.shards import runs_in
from compact_hf.runs.sources import reopen_source

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
                chosen.offer(wanted.rank(record["id"]), _dataset_sample(record, turns, partial(group.picture, row)))


def _turn(turn: dict[str, Any]) -> Turn:
    names = {name: tuple(turn[name]) for name in ("capabilities", "verified_capabilities")}
    return Turn(turn["question"], turn["answer"], confidence=turn["confidence"], **names)


def _dataset_sample(record: dict[str, Any], turns: tuple[Turn, ...], read: Any) -> Sample:
    caption = f"{record['image_source']}, {record['image_license']}, row {record['id'][:8]}"
    return Sample(record["k"], turns, caption, record["teacher"], record["verifier"], read)


def of_run(run: Path, wanted: Wanted, *, rejects: bool) -> Found:
    """Choose among a run's pictures.

    Args:
        run (`Path`): a run folder, or a folder that holds the shards of one.
        wanted (`Wanted`): which, and how many.
        rejects (`bool`): show drafts that were dropped instead of questions that were kept.

    Raises:
        UsageError: it makes no conversations, or there is nothing that is wanted.
        JournalError: it cannot be read.
        SourceError: a picture is gone, or is another one now.
    """
    chosen = Chosen(wanted)
    ks: set[int] = set()
    with ExitStack() as opened:
        for folder in runs_in(run):
            journal = opened.enter_context(Journal.read(folder))
            if (method := journal.identity["method"]) not in CONVERSING:
                raise UsageError(f"{run} is a run of {method}, which keeps no questions; give one of compact generate")
            source = reopen_source(journal.identity["source"])
            for finished, outcome in _outcomes(journal):
                if any_draft(outcome.rejects) if rejects else outcome.conversation:
                    ks.add(outcome.k)
                sample = _run_sample(journal, source, finished, outcome, wanted, rejects=rejects)
                if sample is not None and wanted.k in (None, outcome.k):
                    chosen.offer(wanted.rank(finished.image_id), sample)
        found = chosen.found()
    if not found.shown:
        what = "dropped drafts" if rejects else "kept questions"
        have = f"there are some of k = {', '.join(map(str, sorted(ks)))}" if ks else "there are none at all so far"
        raise UsageError(f"{run} has no {' '.join(filter(None, (what, wanted.told())))}; {have}")
    return found


def _outcomes(journal: Journal) -> Iterator[tuple[Finished, Outcome]]:
    return ((finished, outcome_of(finished.body)) for finished in journal.outcomes())


def _run_sample(
    journal: Journal, source: Source, finished: Finished, outcome: Outcome, wanted: Wanted, *, rejects: bool
) -> Sample | None:
    turns = wanted.turns(outcome.conversation.turns) if outcome.conversation and not rejects else ()
    dropped = wanted.drafts(outcome.rejects) if rejects else ()
    if not turns and not dropped:
        return None
    identity = journal.identity
    return Sample(
        outcome.k,
        turns,
        finished.ref,
        identity["teacher"],
        identity["verifier"],
        partial(_read, journal, source, finished),
        dropped,
    )


def _read(journal: Journal, source: Source, finished: Finished) -> bytes:
    picture = journal.picture(finished.image_id, finished.ref)
    # Where the run's last start found it gone, reading it again says so.
    return read_again(source, picture or Picture(finished.image_id, finished.ref, 0, 0, ""))


PAGE: Final = "contact_sheet.html"
PICTURE: Final = "contact_sheet.png"

_NO_NAME: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet. A notebook shows it as its picture.

    Attributes:
        page (`Path`): one HTML file that needs nothing beside it.
        picture (`Path`): the same as a PNG file.
        shown (`int`): how many pictures there are on it.
    """

    page: Path
    picture: Path
    shown: int

    def _repr_png_(self) -> bytes:
        return self.picture.read_bytes()


def show(
    where: str | Path,
    out: str | Path | None = None,
    *,
    k: int | None = None,
    capability: str | None = None,
    rejects: bool = False,
    n: int = 12,
    seed: int = 0,
) -> Sheet:
    """Write a contact sheet: a few pictures with their questions, answers and capabilities, as even over k as can be.

    Which ones is decided by hash, so that the same call shows the same. A run may still go on, and may be larger than
    memory; of a repository only the row groups that are looked into are fetched.

    Args:
        where (`str | Path`): a run folder (or one with the shards of a run), a release, or `org/name[@revision]` on the
            Hub, with or without `hf://datasets/` before it.
        out (`str | Path`, *optional*, defaults to `NAME-sheet` here): the folder for the two files, in place of
            earlier ones.
        k (`int`, *optional*): 1 to 10; only pictures of this k.
        capability (`str`, *optional*): only questions that were to need it.
        rejects (`bool`, *optional*, defaults to False): of a run: the drafts that were dropped, and why, at most four a
            picture, instead of what was kept.
        n (`int`, *optional*, defaults to 12): 1 to 120 pictures.
        seed (`int`, *optional*, defaults to 0): another one shows other pictures.

    Raises:
        UsageError: an argument that is out of range, or nothing that could be shown.
        JournalError, SourceError: the run cannot be read, or its pictures are gone.
        ReleaseError: the release is damaged, or `out` cannot be written.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    named = None if capability is None else re.sub(r"[\s-]+", "_", capability.strip().lower())
    wanted = Wanted(k, named, n, seed)
    is_run = _is_run(where)
    if rejects and not is_run:
        raise UsageError(f"{where} is no run, and only a run keeps what was dropped; give the folder of the run")
    found = of_run(Path(where), wanted, rejects=rejects) if is_run else of_release(_release(where), wanted)
    name = Path(where).resolve().name if Path(where).is_dir() else str(where).removeprefix(HUB)
    folder = Path(out) if out is not None else Path(f"{_NO_NAME.sub('-', name)}-sheet")
    title = f"{name}: {'what was dropped' if rejects else 'questions and answers'}"
    page = contact_sheet.page(found.shown, title=title, summary=list(_summary(found, wanted, rejects=rejects)))
    return _written(folder, page, contact_sheet.sheet(found.shown), len(found.shown))


def _is_run(where: str | Path) -> bool:
    folder = Path(where)
    return folder.is_dir() and any((run / FILE_NAME).is_file() for run in runs_in(folder))


def _release(where: str | Path) -> Held:
    if Path(where).is_dir():
        if not (Path(where) / "data").is_dir():
            raise UsageError(f"{where} is neither a run (no {FILE_NAME}) nor a release (no folder data); give one")
    elif Path(where).exists() or Path(where).is_absolute() or str(where).removeprefix(HUB).count("/") != 1:
        raise UsageError(f"{where} is no folder; give a run, a release, or org/name[@revision] on the Hub")
    return held(where if Path(where).is_dir() else str(where).removeprefix(HUB), hashed=False)


def _summary(found: Found, wanted: Wanted, *, rejects: bool) -> Iterator[str]:
    pictures = f"{len(found.shown)} {'picture' if len(found.shown) == 1 else 'pictures'}"
    what = f"{'dropped drafts' if rejects else 'questions'} {wanted.told()}".strip()
    yield f"{pictures} with {what}, chosen by hash (seed {wanted.seed})."
    yield f"Written by {', '.join(found.teachers)}; checked by {', '.join(found.verifiers)}."
    if rejects:
        yield "Below each draft stand why it was dropped, and the capabilities that it was to need: k of them."
    else:
        yield (
            "Below each answer stand the capabilities that were asked for: k of them. The verifier found the same, "
            "unless the line above them says otherwise."
        )


def _written(folder: Path, page: str, picture: bytes, count: int) -> Sheet:
    sheet = Sheet(folder / PAGE, folder / PICTURE, count)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in ((sheet.page, page.encode()), (sheet.picture, picture)):
            half = path.with_name(f".{path.name}.part")
            half.write_bytes(data)
            os.replace(half, path)
    except OSError as error:
        raise ReleaseError(f"{folder} cannot be written ({error.strerror}); give another --out") from error
    return sheet
