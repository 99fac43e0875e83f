"""Publishes a directory as a Gradio Space, or as a metric of `evaluate`, which is also a Space.

    compact publish spaces_demo org/space --wheel dist/compact_hf-0.1.0-py3-none-any.whl

A copy of the directory is uploaded; the directory itself is not changed. As long as this package is not on PyPI, its
wheel is uploaded too, and requirements.txt refers to it by its URL on the Hub. A relative path would not work: the
requirements of a Space are installed before its own files are in place.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from compact_hf.errors import HubError, UsageError
from compact_hf.hub.card import CARD, read_card, read_remote_card
from compact_hf.hub.files import check_publishable, list_files, list_names
from compact_hf.hub.push import PushResult, get_remote_state, push
from compact_hf.parsing import read_card_header

REQUIREMENTS: Final = "requirements.txt"
_HUB_MANAGED_FILES: Final = {".gitattributes", CARD}  # files of a Space that was created on the website of the Hub
# Gradio writes a *.pyi next to each module that defines a component.
_IGNORED: Final = shutil.ignore_patterns("__pycache__", ".*", "*.pyc", "*.pyi")
# A line of requirements.txt that names this package; group 1 is the name with extras, without the version.
_PACKAGE_LINE: Final = re.compile(r"^(compact_hf(?:\[[^]]*\])?)[^\n]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PublishedSpace:
    """What was published, or what would be published.

    Attributes:
        files (`dict[str, int]`): size of each file in bytes, by path.
        index_package (`str`, *optional*): the requirement that the Space installs from PyPI, such as
            `compact_hf[eval]`; None if it does not use this package, or if a wheel is uploaded.
        push_result (`PushResult`, *optional*): the commit and URL; None after a dry run.
    """

    files: dict[str, int]
    index_package: str | None
    push_result: PushResult | None


def is_space_directory(directory: str | Path) -> bool:
    """Return whether a directory is a Space: its README.md has a header with `sdk`.

    Args:
        directory (`str | Path`): the directory.
    """
    return "sdk" in _read_card_header(Path(directory) / CARD)


def publish_space(
    directory: str | Path,
    repo_id: str,
    *,
    wheel: str | Path | None = None,
    private: bool = False,
    pull_request: bool = True,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedSpace:
    """Publish the directory of a Space in one step. After an interruption, the same call resumes.

    Args:
        directory (`str | Path`): directory with requirements.txt, the app, and a README.md that names `sdk: gradio` and
            the `app_file`.
        repo_id (`str`): `namespace/name`; the Space is created if it does not exist.
        wheel (`str | Path`, *optional*): wheel of this package, for a Space whose requirements name the package.
        private (`bool`, *optional*, defaults to False): create a private Space, and refuse to publish to a public one.
        pull_request (`bool`, *optional*, defaults to True): upload to a pull request and merge it; if False, upload to
            a branch and make one commit on main, for a Hub or a repository without pull requests.
        dry_run (`bool`, *optional*, defaults to False): only check the directory and list the files.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        What was published, or with `dry_run` what would be.

    Raises:
        UsageError: the directory is not a complete Gradio Space or has a link out of it, the wheel is not one of this
            package or is not needed, or both `wheel` and `private` are given: the build of a Space cannot download a
            private wheel.
        HubError: the repository contains something else, a Space with a wheel is private or would be, or the Hub cannot
            be reached or rejects the request.
    """
    directory = Path(directory)
    check_publishable(directory, (name for name in list_names(directory) if not _is_ignored(name)))
    _check_complete(directory)
    if wheel is not None and private:
        raise UsageError(
            "--wheel and --private cannot be combined: the build of a Space cannot download a private wheel"
        )
    # Before anything is copied: a repository with other files would lose them, unless it has the same app.
    remote_files = get_remote_state(repo_id, repo_type="space").files
    existing = set(remote_files) - _HUB_MANAGED_FILES
    app = _read_card_header(directory / CARD)["app_file"]
    if existing and app not in existing:
        raise HubError(f"{repo_id} contains something else ({sorted(existing)[0]}, but no {app}): choose another name")
    with TemporaryDirectory(prefix="compact-publish-") as temp_directory:
        # The wheel and its URL are added to a copy, so that the directory stays as it is.
        staging = Path(temp_directory) / "space"
        shutil.copytree(directory, staging, ignore=_IGNORED)
        if wheel is not None:
            _add_wheel(staging, Path(wheel), repo_id)
        requirement = _PACKAGE_LINE.search((staging / REQUIREMENTS).read_text(encoding="utf-8"))
        if CARD in remote_files and read_remote_card(repo_id, repo_type="space").strip() != read_card(staging).strip():
            on_progress(f"{CARD} of {repo_id} differs from {directory / CARD}, which replaces it")
        push_result = None
        if not dry_run:
            message = f"Publish {_read_card_header(directory / CARD).get('title') or directory.name}"
            push_result = push(
                staging,
                repo_id,
                repo_type="space",
                message=message,
                private=private,
                public_because=""
                if wheel is None
                else "the build of a Space cannot download a private wheel; a package index needs none",
                pull_request=pull_request,
                on_progress=on_progress,
            )
        return PublishedSpace(
            list_files(staging), requirement[1] if requirement and wheel is None else None, push_result
        )


def _is_ignored(name: str) -> bool:
    """Return whether a file is not copied, because `_IGNORED` matches its name or that of a directory above it."""
    return any(_IGNORED("", [part]) for part in PurePosixPath(name).parts)


def _check_complete(directory: Path) -> None:
    """Raise UsageError unless the directory is a Gradio Space with its app and its requirements."""
    header = _read_card_header(directory / CARD)
    if header.get("sdk") != "gradio":
        raise UsageError(f"{directory / CARD} names the sdk {header.get('sdk')!r}: only Gradio Spaces can be published")
    app = header.get("app_file")
    for name in (str(app), REQUIREMENTS):
        if not (directory / name).is_file():
            raise UsageError(f"{directory} has no {name}: a Gradio Space needs its app_file and {REQUIREMENTS}")


def _read_card_header(card: Path) -> dict[str, Any]:
    """Return the header of a card, an empty dict if there is none.

    Raises:
        UsageError: the header is not YAML.
    """
    if not card.is_file():
        return {}
    try:
        return read_card_header(card)
    except (OSError, ValueError) as error:
        raise UsageError(f"the header of {card} is not valid YAML ({error}): fix it") from error


def _add_wheel(staging: Path, wheel: Path, repo_id: str) -> None:
    """Add the wheel to the Space, and its URL with its hash to the requirements."""
    from huggingface_hub import constants

    if not wheel.is_file() or not re.fullmatch(r"compact_hf-[^-]+-.+\.whl", wheel.name):
        raise UsageError(f"{wheel} is not a wheel of compact_hf: build one with `pip wheel --no-deps -w dist .`")
    path = staging / REQUIREMENTS
    requirements = path.read_text(encoding="utf-8")
    url = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}"
    # pip compares the download with this hash, and a new wheel gets a new URL.
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    new_requirements, count = _PACKAGE_LINE.subn(rf"\1 @ {url}#sha256={digest}", requirements)
    if not count:
        raise UsageError(f"{REQUIREMENTS} does not name compact_hf, so the Space needs no wheel of it: omit --wheel")
    path.write_text(new_requirements, encoding="utf-8")
    shutil.copyfile(wheel, staging / wheel.name)
