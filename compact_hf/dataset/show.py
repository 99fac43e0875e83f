"""`compact show`: in goes a run, a release or its repository, out comes a contact sheet, HTML and PNG, to look at.

compact show run --k 3 --rejects
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compact_hf.dataset.examples import Found, Wanted
from compact_hf.dataset.reader import Held, held
from compact_hf.dataset.show_release import of_release
from compact_hf.dataset.show_run import of_run
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.address import HUB
from compact_hf.reports import cards, contact_sheet
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.shards import runs_in

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
    return _written(folder, page, cards.sheet(found.shown), len(found.shown))


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
