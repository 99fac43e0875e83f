"""`compact publish`: in goes a release folder, out comes a tagged version of a data set repository, whole or not.

    compact publish release org/compact

How it gets there in one piece is hub/push.py's. Here stands what has to be so beforehand: a valid release, a version
that goes up by as much as its difference to the last one demands (diff.py), an entry in CHANGELOG.md, and that
readers find every config.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compact_hf.dataset.card import CHANGELOG, header_of, is_foreign
from compact_hf.dataset.changelog import published_text
from compact_hf.dataset.diff import Difference, Version, diff, highest, lowest_after, version_of
from compact_hf.dataset.reader import Repository
from compact_hf.dataset.validate import validate
from compact_hf.errors import ReleaseError
from compact_hf.hub.files import files_of
from compact_hf.hub.push import Pushed, Standing, push, standing


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, or would be.

    Attributes:
        tag (`str`): `vX.Y.Z`, from the card's version.
        files (`dict[str, int]`): path -> bytes.
        difference (`Difference`, *optional*): to the highest version that is there; None where there is none.
        pushed (`Pushed`, *optional*): where it stands; None after a dry run.
    """

    tag: str
    files: dict[str, int]
    difference: Difference | None
    pushed: Pushed | None


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda told: None,
) -> Published:
    """Publish a release as the next version of a data set repository, in one piece.

    The same call goes on after an interruption; until it is done, readers see the version before.

    Args:
        folder (`str | Path`): a release that `validate` accepts. Its CHANGELOG.md becomes the repository's: the entry
            of this version gets the day (UTC) and what changed, and the entries that are there follow.
        repo_id (`str`): `namespace/name`; created where it is not there.
        private (`bool`, *optional*, defaults to False): creates it private, and refuses to publish into a public one.
        dry_run (`bool`, *optional*, defaults to False): only checks and lists.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: `folder` is no folder, or `repo_id` is not `namespace/name`.
        ReleaseError: the release is not valid, its version exists, is not above the highest one or not by as much as
            the difference demands, the repository holds something else, or the Hub does not hand out what it should.
        HubError: the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    files = files_of(folder)
    there = standing(repo_id, repo_type="dataset")  # before the validation, because a wrong name must not cost one
    if foreign := list(filter(is_foreign, there.files)):
        raise ReleaseError(
            f"{repo_id} holds files that are no part of a release, and would be lost ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}); remove them there, or choose another repository"
        )
    _refuse_invalid(folder)
    header = header_of(folder)
    version = _risen(repo_id, str(header["configs"][0]["version"]), there.tags)
    last = highest(there.tags)
    difference = diff(f"{repo_id}@{last.tag}", folder) if last else None
    if last and difference:
        _refuse_small_step(repo_id, last, version, difference)
    changelog = _changelog(folder, repo_id, there, version, difference)
    files = dict(sorted({**files, CHANGELOG: len(changelog)}.items()))
    if dry_run:
        return Published(version.tag, files, difference, None)
    _put(changelog, folder)
    pushed = push(
        folder,
        repo_id,
        repo_type="dataset",
        message=f"Release {version.tag}",
        tag=version.tag,
        private=private,
        check=partial(_refuse_unreadable, repo_id, header, files),
        on_progress=on_progress,
    )
    return Published(version.tag, files, difference, pushed)


def _refuse_invalid(folder: Path) -> None:
    report = validate(folder)
    if not report.is_valid:
        first = report.problems[0]
        told = " ".join(filter(None, (first.file, first.row, first.detail)))
        raise ReleaseError(
            f"{folder} is not a valid release ({first.check}: {told}; {sum(report.counts.values())} problems in all); "
            f"nothing was published, see them with compact validate {folder}"
        )


def _risen(repo_id: str, stated: str, tags: tuple[str, ...]) -> Version:
    """Return the card's version if it is above the highest that is there."""
    version, last = version_of(stated), highest(tags)
    if version is None:
        raise ReleaseError(f"the card's version {stated!r} is not X.Y.Z; assemble the release again")
    if last is not None and version <= last:
        state = "exists" if version.tag in tags else "is not above it"
        raise ReleaseError(
            f"{repo_id} is at {last.tag}, and {version.tag} {state}; a version is never replaced, assemble with a "
            "higher one"
        )
    return version


def _refuse_small_step(repo_id: str, last: Version, version: Version, difference: Difference) -> None:
    lowest = lowest_after(last, difference.step)
    if version < lowest:
        raise ReleaseError(
            f"{version} is too small a step from {last.tag} of {repo_id}: {'; '.join(difference.reasons()[:5])}, which "
            f"is a {difference.step} change; assemble with --version {lowest} or above"
        )


def _changelog(folder: Path, repo_id: str, there: Standing, version: Version, difference: Difference | None) -> bytes:
    own = (folder / CHANGELOG).read_text(encoding="utf-8") if (folder / CHANGELOG).is_file() else ""
    history = Repository.at(repo_id, "main").text(CHANGELOG) if CHANGELOG in there.files else ""
    today = datetime.now(UTC).date().isoformat()
    text = published_text(own, history, version=str(version), date=today, difference=difference)
    return text.encode()


def _put(changelog: bytes, folder: Path) -> None:
    """Replace the folder's changelog at once: a kill must not leave half of it, nor a file that is foreign to it."""
    new = folder.absolute().parent / f".{folder.absolute().name}.changelog"
    try:
        new.write_bytes(changelog)
        os.replace(new, folder / CHANGELOG)
    except OSError as error:
        raise ReleaseError(
            f"{folder / CHANGELOG} cannot be written ({error.strerror}); nothing was published, make it writable"
        ) from error


def _refuse_unreadable(repo_id: str, header: dict[str, Any], files: dict[str, int], commit: str) -> None:
    """Raise where `datasets` does not find, at a commit on the Hub, the files of each config that the card lists."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    for config in header["configs"]:
        name = config["config_name"]
        try:
            with TemporaryDirectory() as cache:
                found = load_dataset_builder(repo_id, name, revision=commit, cache_dir=cache).config.data_files
        except (DatasetsError, ValueError, FileNotFoundError) as error:
            raise ReleaseError(
                f"config {name} cannot be loaded from the Hub ({' '.join(str(error).split())})"
            ) from error
        expected = {
            split["split"]: sorted(one for one in files if any(Path(one).match(glob) for glob in split["path"]))
            for split in config["data_files"]
        }
        got = {split: sorted(url.partition(f"@{commit}/")[2] for url in urls) for split, urls in found.items()}
        if got != expected:
            raise ReleaseError(
                f"config {name} would load other files from the Hub than from the folder; nothing merged"
            )
