"""`compact publish` for a Gradio Space or a metric of `evaluate`, which is one: in goes a folder, out comes a Space.

    compact publish spaces_demo org/space --wheel dist/compact_hf-0.1.0-py3-none-any.whl

What is uploaded is a copy of the folder, which stays as it is. As long as this package is on no index, its wheel goes
along, and the Space's requirements name it there: a Space is built from its requirements before its own files are in
place, so that a path would not be found.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from compact_hf.errors import HubError, UsageError
from compact_hf.hub.files import list_files
from compact_hf.hub.push import PushResult, get_remote_state, push

CARD: Final = "README.md"
REQUIREMENTS: Final = "requirements.txt"
_HUB_MANAGED_FILES: Final = {".gitattributes", CARD}  # what a Space made on the Hub's page holds
_IGNORED: Final = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
_PACKAGE_LINE: Final = re.compile(r"^(compact_hf(?:\[[^]]*\])?)[^\n]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PublishedSpace:
    """What was published, or would be.

    Attributes:
        files (`dict[str, int]`): path -> bytes.
        index_package (`str`, *optional*): what of this package the Space takes from the index, such as
            `compact_hf[eval]`; None where it takes nothing of it, or a wheel goes along.
        push_result (`PushResult`, *optional*): where it stands; None after a dry run.
    """

    files: dict[str, int]
    index_package: str | None
    push_result: PushResult | None


def is_space_directory(directory: str | Path) -> bool:
    """Whether a folder is a Space: its README.md has a header that names its `sdk`."""
    return "sdk" in _read_card_header(Path(directory) / CARD)


def publish_space(
    directory: str | Path,
    repo_id: str,
    *,
    wheel: str | Path | None = None,
    private: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedSpace:
    """Publish a Space's folder in one piece; the same call goes on after an interruption.

    Args:
        directory (`str | Path`): with a README.md that names `sdk: gradio` and the `app_file`, and requirements.txt.
        repo_id (`str`): `namespace/name`; created where it is not there.
        wheel (`str | Path`, *optional*): of this package, for a Space whose requirements name it.
        private (`bool`, *optional*, defaults to False): creates it private, and refuses to publish into a public one.
        dry_run (`bool`, *optional*, defaults to False): only checks and lists.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: the folder is no Space that can start, the wheel is none or of no use, or both `wheel` and `private`
            are given: whoever builds a Space could not fetch a wheel that is not public.
        HubError: the repository holds something else, or the Hub cannot be reached or refuses.
    """
    directory = Path(directory)
    _check_complete(directory)
    if wheel is not None and private:
        raise UsageError("--wheel and --private exclude each other: a Space's build could not fetch a private wheel")
    existing = set(get_remote_state(repo_id, repo_type="space").files) - _HUB_MANAGED_FILES
    app = _read_card_header(directory / CARD)["app_file"]
    if existing and app not in existing:
        raise HubError(f"{repo_id} holds something else ({sorted(existing)[0]}, no {app}); choose another name")
    with TemporaryDirectory(prefix="compact-publish-") as temp_directory:
        staging = Path(temp_directory) / "space"
        shutil.copytree(directory, staging, ignore=_IGNORED)
        if wheel is not None:
            _add_wheel(staging, Path(wheel), repo_id)
        requirement = _PACKAGE_LINE.search((staging / REQUIREMENTS).read_text(encoding="utf-8"))
        push_result = None
        if not dry_run:
            message = f"Publish {_read_card_header(directory / CARD).get('title') or directory.name}"
            push_result = push(
                staging, repo_id, repo_type="space", message=message, private=private, on_progress=on_progress
            )
        return PublishedSpace(
            list_files(staging), requirement[1] if requirement and wheel is None else None, push_result
        )


def _check_complete(directory: Path) -> None:
    header = _read_card_header(directory / CARD)
    if header.get("sdk") != "gradio":
        raise UsageError(f"{directory / CARD} names the sdk {header.get('sdk')!r}; only Gradio Spaces can be published")
    app = header.get("app_file")
    for name in (str(app), REQUIREMENTS):
        if not (directory / name).is_file():
            raise UsageError(f"{directory} has no {name}; a Gradio Space needs its app_file and {REQUIREMENTS}")


def _read_card_header(card: Path) -> dict[str, Any]:
    """Return a card's header, nothing where there is none.

    Raises:
        UsageError: it is no YAML.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    if not card.is_file():
        return {}
    try:
        return metadata_load(card) or {}
    except (YAMLError, ValueError) as error:
        raise UsageError(f"{card} has a header that is no YAML ({' '.join(str(error).split())}); mend it") from error


def _add_wheel(staging: Path, wheel: Path, repo_id: str) -> None:
    """Put the wheel into the Space, and its address with its hash into the requirements."""
    from huggingface_hub import constants

    if not wheel.is_file() or not re.fullmatch(r"compact_hf-[^-]+-.+\.whl", wheel.name):
        raise UsageError(f"{wheel} is no wheel of compact_hf; make one with: pip wheel --no-deps -w dist .")
    path = staging / REQUIREMENTS
    requirements = path.read_text(encoding="utf-8")
    url = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    new_requirements, count = _PACKAGE_LINE.subn(rf"\1 @ {url}#sha256={digest}", requirements)
    if not count:
        raise UsageError(f"{REQUIREMENTS} does not name compact_hf, so the Space has no use for a wheel of it")
    path.write_text(new_requirements, encoding="utf-8")
    shutil.copyfile(wheel, staging / wheel.name)
