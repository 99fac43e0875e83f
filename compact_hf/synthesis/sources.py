"""SOURCE as people write it: a folder of pictures, or `scenes:N`."""

from __future__ import annotations

from typing import Final

from compact_hf.images.folder import Folder
from compact_hf.images.source import Source
from compact_hf.scenes.source import Scenes, parse_scenes

_SCENES: Final = "scenes"


def open_source(text: str) -> Source:
    """Return the source that `text` names: `scenes:N`, `scenes:A-B`, or the path of a folder.

    Raises:
        UsageError: not a number of scenes, or scenes that are reserved for evaluation.
        SourceError: no such folder.
    """
    return parse_scenes(text) if text.partition(":")[0] == _SCENES else Folder(text)


def reopen_source(identity: str) -> Source:
    """Return the source that a journal names, to read its pictures again.

    Raises:
        SourceError: the folder is gone.
    """
    return Scenes(0, 1) if identity == _SCENES else Folder(identity)
