"""Publishes a release directory as a tagged version of a dataset repository, completely or not at all.

    compact publish release org/compact

hub/push.py uploads and merges it in one step. This module checks what is required before: the release is valid, its
version number is higher by as large a step as its differences to the last version require (diff.py), CHANGELOG.md has
an entry for it, and `datasets` finds the files of every config in the upload.
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
from compact_hf.hub.card import check_remote_card, read_card
from compact_hf.hub.files import check_publishable, is_at_revision, list_files, list_names
from compact_hf.hub.push import PushResult, RemoteState, get_remote_state, push
from compact_hf.regular_files import read_regular_text
from compact_hf.storage import hidden_directory, translate_disk_errors
from compact_hf.wording import format_command, format_count


@dataclass(frozen=True, slots=True)
class PublishedDataset:
    """What was published, or what would be published.

    Attributes:
        tag (`str`): `vX.Y.Z`, from the version in the card.
        files (`dict[str, int]`): size of each file in bytes, by path.
        difference (`Difference`, *optional*): difference to the highest published version; None for the first one.
        pushed (`PushResult`, *optional*): the commit, tag and URL; None after a dry run.
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
    pull_request: bool = True,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedDataset:
    """Publish a release as the next version of a dataset repository, in one step.

    After an interruption, the same call resumes. Until it is complete, readers see the previous version. A version that
    was published with exactly these files is left as it is.

    Args:
        directory (`str | Path`): a release that `validate` accepts. Its CHANGELOG.md is replaced by that of the
            repository, with a new entry for this version that states the date (UTC) and the changes.
        repo_id (`str`): `namespace/name`; the repository is created if it does not exist.
        private (`bool`, *optional*, defaults to False): create a private repository, and refuse to publish to a public
            one.
        pull_request (`bool`, *optional*, defaults to True): upload to a pull request and merge it; if False, upload to
            a branch and make one commit on main, for a Hub or a repository without pull requests.
        dry_run (`bool`, *optional*, defaults to False): only check the release and list the files.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        What was published, or with `dry_run` what would be.

    Raises:
        UsageError: `directory` is not a directory or has a link out of it, or `repo_id` is not `namespace/name`.
        ReleaseError: the release is not valid; its version exists with other files, is not higher than the last one, or
            is too small a step; the repository contains other files; or `datasets` would not load the right files from
            the Hub.
        HubError: the Hub cannot be reached or rejects the request; or the card of the repository was edited there, and
            would be replaced by a generated one.
    """
    directory = Path(directory)
    files = list_files(directory)
    check_publishable(directory, list_names(directory))
    remote = get_remote_state(
        repo_id, repo_type="dataset"
    )  # before the validation, which takes long: a wrong name should fail at once
    if foreign_files := list(filter(is_foreign_file, remote.files)):
        raise ReleaseError(
            f"{repo_id} contains files that do not belong to a release and would be lost "
            f"({', '.join(foreign_files[:3])}{', ...' if len(foreign_files) > 3 else ''}): "
            "delete them on the Hub, or choose another repository"
        )
    _check_valid(directory)
    header = read_header(directory)
    version = _parse_card_version(str(header["configs"][0]["version"]))
    difference, changelog = None, b""
    # If the tag has these files, an earlier call was complete, or was killed after its last step.
    is_published = version.tag in remote.tags and is_at_revision(
        directory, repo_id, repo_type="dataset", revision=version.tag
    )
    if not is_published:
        _check_is_higher(repo_id, version, remote.tags)
        check_remote_card(
            repo_id, repo_type="dataset", remote_files=remote.files, card=read_card(directory), directory=directory
        )
        difference = _compare_with_latest(directory, repo_id, version, remote.tags)
        changelog = _build_changelog(directory, repo_id, remote, version, difference)
        # The size of the changelog as it will be published; the local file is still without the date.
        files = dict(sorted({**files, CHANGELOG: len(changelog)}.items()))
    # Nothing has been written so far, neither here nor on the Hub.
    if dry_run:
        return PublishedDataset(version.tag, files, difference, None)
    if not is_published:
        _write_changelog(changelog, directory)
    result = push(
        directory,
        repo_id,
        repo_type="dataset",
        message=f"Release {version.tag}",
        tag=version.tag,
        private=private,
        pull_request=pull_request,
        check=partial(_check_loadable, repo_id, header, files),
        on_progress=on_progress,
    )
    return PublishedDataset(version.tag, files, difference, result)


def _check_valid(directory: Path) -> None:
    report = validate(directory)
    if not report.is_valid:
        # The message has one line: the first problem and the total.
        problem = report.problems[0]
        message = " ".join(filter(None, (problem.file, problem.row, problem.detail)))
        raise ReleaseError(
            f"{directory} is not a valid release ({problem.check}: {message}; "
            f"{format_count(sum(report.counts.values()), 'problem')} in total) and was not published: list the "
            f"problems with {format_command('compact', 'validate', directory)}"
        )


def _parse_card_version(text: str) -> Version:
    version = parse_version(text)
    if version is None:
        raise ReleaseError(f"the card's version {text!r} is not of the form X.Y.Z: assemble the release again")
    return version


def _check_is_higher(repo_id: str, version: Version, tags: tuple[str, ...]) -> None:
    latest = highest_version(tags)
    if latest is not None and version <= latest:
        state = "exists already" if version.tag in tags else "is not higher"
        raise ReleaseError(
            f"{repo_id} is at {latest.tag}, and {version.tag} {state}; published versions are never replaced: "
            "assemble the release with a higher version"
        )


def _compare_with_latest(directory: Path, repo_id: str, version: Version, tags: tuple[str, ...]) -> Difference | None:
    """Return the difference to the highest published version, None for the first one; raise if the step is too small.

    The first version may have any number; later ones are compared with the highest tag, not with main.
    """
    latest = highest_version(tags)
    if latest is None:
        return None
    difference = diff(f"{repo_id}@{latest.tag}", directory)
    lowest = next_version(latest, difference.step)
    if version < lowest:
        raise ReleaseError(
            f"{version} is too small a step from {latest.tag} of {repo_id} "
            f"({'; '.join(difference.reasons()[:5])}, which is a {difference.step} change): "
            f"assemble with --version {lowest} or higher"
        )
    return difference


def _build_changelog(
    directory: Path, repo_id: str, remote: RemoteState, version: Version, difference: Difference | None
) -> bytes:
    """Return the repository's changelog with the entry of this version, dated today (UTC)."""
    local_text = read_regular_text(directory / CHANGELOG) if (directory / CHANGELOG).is_file() else ""
    remote_text = HubReader.from_repo(repo_id, "main").read_text(CHANGELOG) if CHANGELOG in remote.files else ""
    today = datetime.now(UTC).date().isoformat()
    text = published_changelog(local_text, remote_text, version=str(version), date=today, difference=difference)
    return text.encode()


def _write_changelog(changelog: bytes, directory: Path) -> None:
    """Replace the changelog atomically; the temporary file is outside the directory, so a kill leaves none in it."""
    with (
        translate_disk_errors(ReleaseError, directory / CHANGELOG, "nothing was published, make the file writable"),
        hidden_directory(Path(os.path.abspath(directory))) as hidden,
    ):
        temp_file = hidden / CHANGELOG
        temp_file.write_bytes(changelog)
        os.replace(temp_file, directory / CHANGELOG)


def _check_loadable(repo_id: str, header: dict[str, Any], files: dict[str, int], commit: str) -> None:
    """Raise unless `datasets` finds, at a commit on the Hub, exactly the files that the card lists for each config."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    for config in header["configs"]:
        name = config["config_name"]
        try:
            with TemporaryDirectory() as cache:
                data_files = load_dataset_builder(repo_id, name, revision=commit, cache_dir=cache).config.data_files
        except (DatasetsError, ValueError, FileNotFoundError) as error:
            raise ReleaseError(
                f"config {name} cannot be loaded from the Hub ({' '.join(str(error).split())}) and nothing was merged: "
                "run the same command to resume"
            ) from error
        expected = {
            split["split"]: sorted(file for file in files if any(Path(file).match(glob) for glob in split["path"]))
            for split in config["data_files"]
        }
        # The URLs are hf://datasets/NAME@COMMIT/PATH; only the path is compared.
        actual = {split: sorted(url.partition(f"@{commit}/")[2] for url in urls) for split, urls in data_files.items()}
        if actual != expected:
            raise ReleaseError(
                f"config {name} would load other files from the Hub than from the directory; nothing was merged"
            )
