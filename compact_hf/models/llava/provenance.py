"""What a base was assembled from: `assembly.json` beside its weights, its card, and NOTICE if a licence asks for it.

    {"format": 1, "dtype": "stored", "tokens": {"<image>": 32000, "<pad>": 32001}, "rows": 32064,
     "parts": {"language model": {"name": ..., "commit": ..., "files": {name: bytes, or "sha256:..." of a local part}}},
     "made_with": {"compact_hf": ..., "transformers": ...}}

It holds no path and no time: the same parts give the same file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import UsageError
from compact_hf.models.llava.processor import IMAGE_TOKEN, PAD_TOKEN

if TYPE_CHECKING:
    from transformers import LlavaConfig

    from compact_hf.models.llava.parts import Part

ASSEMBLY_FILE: Final = "assembly.json"
_FORMAT: Final = 1
_LIBRARIES: Final = ("compact_hf", "transformers")


@dataclass(frozen=True, slots=True)
class AssemblyRecord:
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
    def from_parts(cls, parts: tuple[Part, ...], dtype: str, config: LlavaConfig) -> AssemblyRecord:
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

    def write(self, directory: Path) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        (directory / ASSEMBLY_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_assembly_record(directory: Path) -> AssemblyRecord:
    """Read the record of a base.

    Raises:
        UsageError: it is none, or of another format.
    """
    path = directory / ASSEMBLY_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != _FORMAT:
            raise ValueError("another format")
        return AssemblyRecord(**fields)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{path} is no record of a base ({error}); choose another --out, or remove the folder"
        ) from error


_LLAMA_2_LICENSE: Final = "llama2"
# Section 1.b.iii of the Llama 2 Community License asks for a text file of this name with this sentence.
_NOTICE: Final = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)


def write_base_card(
    directory: Path, *, parts: tuple[Part, ...], record: AssemblyRecord, image_tokens: int, dtype: str, legacy: bool
) -> None:
    """Write a base's README.md, and the NOTICE that Llama 2's license asks for.

    Args:
        directory (`Path`): the base's.
        parts (`tuple[Part, ...]`): the three, language model first; their licenses are read from their own cards.
        record (`AssemblyRecord`): of the base.
        image_tokens (`int`): that an image becomes.
        dtype (`str`): that it is loaded in.
        legacy (`bool`): the tokenizer's setting of that name.
    """
    licenses = [_read_license(part) for part in parts]
    variables = {"image_tokens": image_tokens, "dtype": dtype, "legacy": str(legacy).lower()}
    is_llama_2 = licenses[0] == _LLAMA_2_LICENSE
    text = _render_card(parts, licenses, record=record, is_llama_2=is_llama_2, **variables)
    (directory / "README.md").write_text(text, encoding="utf-8")
    if is_llama_2:
        (directory / "NOTICE").write_text(_NOTICE, encoding="utf-8")


def _render_card(parts: tuple[Part, ...], licenses: list[str | None], **variables: Any) -> str:
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined

    metadata = ModelCardData(
        base_model=[part.name for part in parts if part.commit] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=licenses[0],
        language="en",
        tags=["compact", "llava"],
        ignore_metadata_errors=False,
    )
    part_rows = [
        {
            "role": part.role,
            "source": f"[{part.name}](https://huggingface.co/{part.name})" if part.commit else part.name,
            "commit": f"`{part.commit}`" if part.commit else "a folder of its maker's",
            "license": license_id or "not stated",
        }
        for part, license_id in zip(parts, licenses, strict=True)
    ]
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = (files("compact_hf.models.llava") / "card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(metadata=metadata.to_yaml(), parts=part_rows, **variables)


def _read_license(part: Part) -> str | None:
    """Return the licence that a part's own card states."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    if "README.md" not in part.files:
        return None
    try:
        metadata = metadata_load(part.fetch(with_weights=False) / "README.md")
    except (OSError, ValueError, yaml.YAMLError):
        return None  # its card is its own business; ours says that it states none
    return str(metadata["license"]) if metadata and metadata.get("license") else None
