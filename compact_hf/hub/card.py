"""Marks the cards that this package writes, so that one that was edited by hand is recognized and never overwritten.

The mark is an HTML comment on the last line, with a digest of the text above it. The Hub does not show it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from compact_hf.errors import HubError
from compact_hf.hub.errors import translate_read_errors

CARD: Final = "README.md"

_MARK: Final = "<!-- written by compact_hf ({digest}); once it is edited, it is never overwritten -->"
_MARK_PATTERN: Final = re.compile(r"<!-- written by compact_hf \(([0-9a-f]{16})\); [^>]* -->\Z")
_HEADER: Final = re.compile(r"\A---\n.*?^---$", re.DOTALL | re.MULTILINE)
# Texts of generated cards without a mark: by the templates of the Hub and PEFT, by TRL, and by an earlier version.
_GENERATED_TEXTS: Final = (
    "[More Information Needed]",
    "- generated_from_trainer",
    "take this line out, and it leaves your own words alone. -->",
)


def mark_card(text: str) -> str:
    """Return a card with the mark at its end.

    Args:
        text (`str`): the generated text.
    """
    return f"{text.rstrip()}\n\n{_MARK.format(digest=_digest(text))}\n"


def unmark_card(text: str) -> str:
    """Return a card without its mark, to compare it with another one.

    Args:
        text (`str`): content of README.md.
    """
    return _MARK_PATTERN.sub("", text.rstrip()).rstrip()


def is_edited(text: str) -> bool:
    """Return whether a card was written or changed by hand. One that has only a header, or no text, was not.

    Args:
        text (`str`): content of README.md.
    """
    text = text.rstrip()
    if mark := _MARK_PATTERN.search(text):
        return mark[1] != _digest(text[: mark.start()])
    return bool(_HEADER.sub("", text).strip()) and not any(generated in text for generated in _GENERATED_TEXTS)


def read_card(directory: Path) -> str:
    """Return the text of the card in a directory, an empty string if there is none.

    Args:
        directory (`Path`): the directory.

    Raises:
        OSError: the card cannot be read.
    """
    path = directory / CARD
    # Undecodable bytes are replaced: they show that the card was edited.
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_remote_card(repo_id: str, *, repo_type: str) -> str:
    """Return the text of the card on main of a repository, an empty string if there is none.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.

    Raises:
        HubError: the Hub cannot be reached or rejects the request.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    with translate_read_errors(repo_id):
        try:
            path = hf_hub_download(repo_id, CARD, repo_type=repo_type, revision="main")
        except (EntryNotFoundError, RepositoryNotFoundError):
            return ""
        return read_card(Path(path).parent)


def check_remote_card(
    repo_id: str, *, repo_type: str, remote_files: Collection[str], card: str, directory: Path
) -> None:
    """Raise if publishing would replace a card that was edited on the Hub by a generated one.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        remote_files (`Collection[str]`): paths of the files on main.
        card (`str`): the text to publish. If it was edited too, it may replace any other.
        directory (`Path`): the directory that is published, for the message.

    Raises:
        HubError: the card on the Hub was edited, or cannot be read.
    """
    if CARD not in remote_files or is_edited(card):
        return
    remote_card = read_remote_card(repo_id, repo_type=repo_type)
    if is_edited(remote_card) and remote_card.strip() != card.strip():
        raise HubError(
            f"{CARD} of {repo_id} was edited on the Hub and would be replaced: make the same changes in "
            f"{directory / CARD}, or delete it on the Hub, and publish again"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()[:16]
