"""What a base was assembled from, beside its weights: the parts in, `assembly.json` out, and back.

    {"format": 1, "dtype": "stored", "tokens": {"<image>": 32000, "<pad>": 32001}, "rows": 32064,
     "parts": {"language model": {"name": ..., "commit": ..., "files": {name: bytes, or "sha256:..." of a local part}}},
     "made_with": {"compact_hf": ..., "transformers": ...}}

It holds no path and no time: the same parts give the same file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import UsageError
from compact_hf.models.llava.processor import IMAGE_TOKEN, PAD_TOKEN

if TYPE_CHECKING:
    from transformers import LlavaConfig

    from compact_hf.models.llava.parts import Part

RECORD: Final = "assembly.json"
_FORMAT: Final = 1
_LIBRARIES: Final = ("compact_hf", "transformers")


@dataclass(frozen=True, slots=True)
class Record:
    """What tells one base from another, and what made it.

    Attributes:
        parts (`dict[str, Any]`): role -> name, commit and files.
        dtype (`str`): as asked for.
        tokens (`dict[str, int]`): those that were added.
        rows (`int`): of the vocabulary.
        made_with (`dict[str, str]`): library -> version.
    """

    parts: dict[str, Any]
    dtype: str
    tokens: dict[str, int]
    rows: int
    made_with: dict[str, str]

    @classmethod
    def of(cls, parts: tuple[Part, ...], dtype: str, config: LlavaConfig) -> Record:
        """Return the record of a base to be; reads every file of a local part."""
        tokens = {IMAGE_TOKEN: config.image_token_index, PAD_TOKEN: config.image_token_index + 1}
        made_with = {name: version(name) for name in _LIBRARIES}
        return cls(
            {part.role: part.identity() for part in parts}, dtype, tokens, config.text_config.vocab_size, made_with
        )

    @property
    def identity(self) -> tuple[Any, ...]:
        """What has to be equal for two bases to be the same: all but the versions."""
        return self.parts, self.dtype, self.tokens, self.rows

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")


def record_at(folder: Path) -> Record:
    """Read the record of a base.

    Raises:
        UsageError: it is none, or of another format.
    """
    path = folder / RECORD
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated.pop("format") != _FORMAT:
            raise ValueError("another format")
        return Record(**stated)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{path} is no record of a base ({error}); choose another --out, or remove the folder"
        ) from error
