"""`compact publish`: in goes a release folder, out comes a tagged version of a dataset repository, whole or not.

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

from compact_hf.dataset.card import CHANGELOG, is_foreign_file, read_header
from compact_hf.dataset.changelog import published_changelog
from compact_hf.dataset.diff import Difference, Version, diff, highest_version, next_version, parse_version
from compact_hf.dataset.reader import HubReader
from compact_hf.dataset.validate import validate
from compact_hf.errors import ReleaseError
from compact_hf.hub.files import list_files
from compact_hf.hub.push import PushResult, RemoteState, get_remote_state, push
from compact_hf.storage import translate_disk_errors


@dataclass(frozen=True, slots=True)
class PublishedDataset:
    """What was published, or would be.

    Attributes:
        tag (`str`): `vX.Y.Z`, from the card's version.
        files (`dict[str, int]`): path -> bytes.
        difference (`Difference`, *optional*): to the highest version that is there; None where there is none.
        pushed (`PushResult`, *optional*): where it stands; None after a dry run.
    """

    tag: str
    files: dict[str, int]
    difference: Difference | None
    pushed: PushResult | None


def publish(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedDataset:
    """Publish a release as the next version of a dataset repository, in one piece.

    The same call goes on after an interruption; until it is done, readers see the version before.

    Args:
        directory (`str | Path`): a release that `validate` accepts. Its CHANGELOG.md becomes the repository's: the
            entry of this version gets the day (UTC) and what changed, and the entries that are there follow.
        repo_id (`str`): `namespace/name`; created where it is not there.
        private (`bool`, *optional*, defaults to False): creates it private, and refuses to publish into a public one.
        dry_run (`bool`, *optional*, defaults to False): only checks and lists.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: `directory` is no folder, or `repo_id` is not `namespace/name`.
        ReleaseError: the release is not valid, its version exists, is not above the highest one or not by as much as
            the difference demands, the repository holds something else, or the Hub does not hand out what it should.
        HubError: the Hub cannot be reached or refuses.
    """
    directory = Path(directory)
    files = list_files(directory)
    remote = get_remote_state(
        repo_id, repo_type="dataset"
    )  # before the validation, because a wrong name must not cost one
    if foreign_files := list(filter(is_foreign_file, remote.files)):
        raise ReleaseError(
            f"{repo_id} holds files that are no part of a release, and would be lost ({', '.join(foreign_files[:3])}"
            f"{', ...' if len(foreign_files) > 3 else ''}); remove them there, or choose another repository"
        )
    _check_valid(directory)
    header = read_header(directory)
    version = _check_version(repo_id, str(header["configs"][0]["version"]), remote.tags)
    latest = highest_version(remote.tags)
    difference = diff(f"{repo_id}@{latest.tag}", directory) if latest else None
    if latest and difference:
        _check_step(repo_id, latest, version, difference)
    changelog = _build_changelog(directory, repo_id, remote, version, difference)
    files = dict(sorted({**files, CHANGELOG: len(changelog)}.items()))
    if dry_run:
        return PublishedDataset(version.tag, files, difference, None)
    _write_changelog(changelog, directory)
    result = push(
        directory,
        repo_id,
        repo_type="dataset",
        message=f"Release {version.tag}",
        tag=version.tag,
        private=private,
        check=partial(_check_loadable, repo_id, header, files),
        on_progress=on_progress,
    )
    return PublishedDataset(version.tag, files, difference, result)


def _check_valid(directory: Path) -> None:
    report = validate(directory)
    if not report.is_valid:
        problem = report.problems[0]
        message = " ".join(filter(None, (problem.file, problem.row, problem.detail)))
        raise ReleaseError(
            f"{directory} is not a valid release ({problem.check}: {message}; {sum(report.counts.values())} "
            "problems in all); "
            f"nothing was published, see them with compact validate {directory}"
        )


def _check_version(repo_id: str, text: str, tags: tuple[str, ...]) -> Version:
    """Return the card's version if it is above the highest that is there."""
    version, latest = parse_version(text), highest_version(tags)
    if version is None:
        raise ReleaseError(f"the card's version {text!r} is not X.Y.Z; assemble the release again")
    if latest is not None and version <= latest:
        state = "exists" if version.tag in tags else "is not above it"
        raise ReleaseError(
            f"{repo_id} is at {latest.tag}, and {version.tag} {state}; a version is never replaced, assemble with a "
            "higher one"
        )
    return version


def _check_step(repo_id: str, latest: Version, version: Version, difference: Difference) -> None:
    lowest = next_version(latest, difference.step)
    if version < lowest:
        raise ReleaseError(
            f"{version} is too small a step from {latest.tag} of {repo_id}: "
            f"{'; '.join(difference.reasons()[:5])}, which "
            f"is a {difference.step} change; assemble with --version {lowest} or above"
        )


def _build_changelog(
    directory: Path, repo_id: str, remote: RemoteState, version: Version, difference: Difference | None
) -> bytes:
    local_text = (directory / CHANGELOG).read_text(encoding="utf-8") if (directory / CHANGELOG).is_file() else ""
    remote_text = HubReader.from_repo(repo_id, "main").read_text(CHANGELOG) if CHANGELOG in remote.files else ""
    today = datetime.now(UTC).date().isoformat()
    text = published_changelog(local_text, remote_text, version=str(version), date=today, difference=difference)
    return text.encode()


def _write_changelog(changelog: bytes, directory: Path) -> None:
    """Replace the folder's changelog at once: a kill must not leave half of it, nor a file that is foreign to it."""
    temp_file = directory.absolute().parent / f".{directory.absolute().name}.changelog"
    with translate_disk_errors(ReleaseError, directory / CHANGELOG, "nothing was published, make it writable"):
        temp_file.write_bytes(changelog)
        os.replace(temp_file, directory / CHANGELOG)


def _check_loadable(repo_id: str, header: dict[str, Any], files: dict[str, int], commit: str) -> None:
    """Raise where `datasets` does not find, at a commit on the Hub, the files of each config that the card lists."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    for config in header["configs"]:
        name = config["config_name"]
        try:
            with TemporaryDirectory() as cache:
                data_files = load_dataset_builder(repo_id, name, revision=commit, cache_dir=cache).config.data_files
        except (DatasetsError, ValueError, FileNotFoundError) as error:
            raise ReleaseError(
                f"config {name} cannot be loaded from the Hub ({' '.join(str(error).split())})"
            ) from error
        expected = {
            split["split"]: sorted(file for file in files if any(Path(file).match(glob) for glob in split["path"]))
            for split in config["data_files"]
        }
        actual = {split: sorted(url.partition(f"@{commit}/")[2] for url in urls) for split, urls in data_files.items()}
        if actual != expected:
            raise ReleaseError(
                f"config {name} would load other files from the Hub than from the folder; nothing merged"
            )
