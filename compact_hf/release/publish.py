"""`compact publish`: in goes a release folder, out comes a tagged version of a data set repository, whole or not.

    compact publish release org/compact

How it gets there in one piece is hub/push.py's; which versions may follow which, and that readers find every config, is
decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from compact_hf.errors import ReleaseError
from compact_hf.hub.contents import files_of
from compact_hf.hub.push import Pushed, push, standing
from compact_hf.release.card import header_of, is_foreign
from compact_hf.release.validate import validate

_TAG: Final = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, or would be.

    Attributes:
        tag (`str`): `vX.Y.Z`, from the card's version.
        files (`dict[str, int]`): path -> bytes.
        pushed (`Pushed`, *optional*): where it stands; None after a dry run.
    """

    tag: str
    files: dict[str, int]
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
        folder (`str | Path`): a release that `validate` accepts.
        repo_id (`str`): `namespace/name`; created where it is not there.
        private (`bool`, *optional*, defaults to False): creates it private, and refuses to publish into a public one.
        dry_run (`bool`, *optional*, defaults to False): only checks and lists.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: `folder` is no folder, or `repo_id` is not `namespace/name`.
        ReleaseError: the release is not valid, its version exists or is not above the highest one, the repository
            holds something else, or the Hub does not hand out what it should.
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
    tag = f"v{header['configs'][0]['version']}"
    _refuse_version(repo_id, tag, there.tags)
    if dry_run:
        return Published(tag, files, None)
    pushed = push(
        folder,
        repo_id,
        repo_type="dataset",
        message=f"Release {tag}",
        tag=tag,
        private=private,
        check=partial(_refuse_unreadable, repo_id, header, files),
        on_progress=on_progress,
    )
    return Published(tag, files, pushed)


def _refuse_invalid(folder: Path) -> None:
    report = validate(folder)
    if not report.is_valid:
        first = report.problems[0]
        told = " ".join(filter(None, (first.file, first.row, first.detail)))
        raise ReleaseError(
            f"{folder} is not a valid release ({first.check}: {told}; {sum(report.counts.values())} problems in all); "
            f"nothing was published, see them with compact validate {folder}"
        )


def _refuse_version(repo_id: str, tag: str, tags: tuple[str, ...]) -> None:
    numbers = {one: tuple(map(int, match.groups())) for one in (*tags, tag) if (match := _TAG.fullmatch(one))}
    if tag not in numbers:
        raise ReleaseError(f"the card's version {tag[1:]!r} is not X.Y.Z; assemble the release again")
    highest = max((one for one in tags if one in numbers), key=numbers.__getitem__, default=None)
    if highest is not None and numbers[tag] <= numbers[highest]:
        state = "exists" if tag in tags else "is not above it"
        raise ReleaseError(
            f"{repo_id} is at {highest}, and {tag} {state}; a version is never replaced, assemble with a higher one"
        )


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
