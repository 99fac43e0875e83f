"""Records what a base was assembled from: assembly.json, the card, and NOTICE if a license requires it.

    {"format": 1, "dtype": "stored", "tokens": {"<image>": 32000, "<pad>": 32001}, "rows": 32064,
     "parts": {"language model": {"name": ..., "commit": ..., "files": {name: bytes, or "sha256:..." of a local part}}},
     "made_with": {"compact_hf": ..., "transformers": ...}}

assembly.json contains neither paths nor times: the same parts give the same file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from compact_hf.errors import UsageError
from compact_hf.hub.card import CARD, mark_card
from compact_hf.hub.card_rules import read_license_fields
from compact_hf.hub.ref import page_url
from compact_hf.models.llava.processor import IMAGE_TOKEN, PAD_TOKEN
from compact_hf.parsing import read_card_header, read_json
from compact_hf.reports.markdown import format_code, make_environment

if TYPE_CHECKING:
    from transformers import LlavaConfig

    from compact_hf.models.llava.parts import Part

ASSEMBLY_FILE: Final = "assembly.json"
_FORMAT: Final = 1
_LIBRARIES: Final = ("compact_hf", "transformers")


@dataclass(frozen=True, slots=True)
class AssemblyRecord:
    """The content of assembly.json.

    Attributes:
        parts (`dict[str, Any]`): role -> name, commit and files.
        dtype (`str`): the requested dtype, such as `stored`.
        tokens (`dict[str, int]`): added token -> id.
        rows (`int`): rows of the vocabulary.
        made_with (`dict[str, Any]`): library -> version.
    """

    parts: dict[str, Any]
    dtype: str
    tokens: dict[str, int]
    rows: int
    made_with: dict[str, Any]

    @classmethod
    def from_parts(cls, parts: tuple[Part, ...], dtype: str, config: LlavaConfig) -> AssemblyRecord:
        """Return the record for a base that is assembled from these parts; all files of local parts are read.

        Args:
            parts (`tuple[Part, ...]`): the three parts.
            dtype (`str`): the requested dtype.
            config (`LlavaConfig`): the base's config.
        """
        # `<pad>` is added right after `<image>`; see build_base_processor.
        tokens = {IMAGE_TOKEN: config.image_token_index, PAD_TOKEN: config.image_token_index + 1}
        made_with = {name: version(name) for name in _LIBRARIES}
        return cls(
            {part.role: part.identity() for part in parts}, dtype, tokens, config.text_config.vocab_size, made_with
        )

    @property
    def identity(self) -> tuple[Any, ...]:
        """The fields that identify a base: all but the versions."""
        return self.parts, self.dtype, self.tokens, self.rows

    def write(self, directory: Path) -> None:
        """Write assembly.json.

        Args:
            directory (`Path`): directory of the base.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        (directory / ASSEMBLY_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_assembly_record(directory: Path) -> AssemblyRecord:
    """Read assembly.json.

    Args:
        directory (`Path`): directory of a base.

    Raises:
        UsageError: if the file cannot be read, or has another format.
    """
    path = directory / ASSEMBLY_FILE
    try:
        fields = read_json(path)
        # `format` is not a field; a file with other fields than ours raises TypeError below.
        if fields.pop("format") != _FORMAT:
            raise ValueError("unknown format")
        return AssemblyRecord(**fields)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{path} is not the record of a base ({error}): choose another --out, or remove the directory"
        ) from error


_LLAMA_2_LICENSE: Final = "llama2"
# Section 1.b.iii of the Llama 2 Community License requires a text file of this name with this sentence.
_NOTICE: Final = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)


def write_base_card(
    directory: Path, *, parts: tuple[Part, ...], record: AssemblyRecord, image_tokens: int, dtype: str, legacy: bool
) -> None:
    """Write a base's README.md, and the NOTICE that the Llama 2 license requires.

    Args:
        directory (`Path`): directory of the base.
        parts (`tuple[Part, ...]`): the three parts, language model first; their licenses are read from their cards.
        record (`AssemblyRecord`): record of the base.
        image_tokens (`int`): number of tokens per image.
        dtype (`str`): default dtype for loading.
        legacy (`bool`): the tokenizer's setting of this name.
    """
    # One per part, in their order. The base gets that of the language model, which is first.
    licenses = [_read_license(part) for part in parts]
    variables = {"image_tokens": image_tokens, "dtype": dtype, "legacy": str(legacy).lower()}
    is_llama_2 = licenses[0].get("license") == _LLAMA_2_LICENSE
    text = _render_card(parts, licenses, record=record, is_llama_2=is_llama_2, **variables)
    (directory / CARD).write_text(mark_card(text), encoding="utf-8")
    if is_llama_2:
        (directory / "NOTICE").write_text(_NOTICE, encoding="utf-8")


def _render_card(parts: tuple[Part, ...], licenses: list[dict[str, Any]], **variables: Any) -> str:
    """Return the text of the card from card.md.jinja."""
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        # The Hub shows these names as links, so local parts are left out.
        base_model=[part.name for part in parts if part.commit] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        language="en",
        tags=["compact", "llava"],
        ignore_metadata_errors=False,
        **licenses[0],
    )
    part_rows = [
        {
            "role": part.role,
            # The name of a repository has no special characters.
            "source": Markup(f"[{part.name}]({page_url(part.name)})") if part.commit else part.name,
            "commit": format_code(part.commit) if part.commit else "a local directory",
            "license": license.get("license_name") or license.get("license") or "not stated",
        }
        for part, license in zip(parts, licenses, strict=True)
    ]
    template = (files("compact_hf.models.llava") / "card.md.jinja").read_text(encoding="utf-8")
    return make_environment().from_string(template).render(metadata=metadata.to_yaml(), parts=part_rows, **variables)


def _read_license(part: Part) -> dict[str, Any]:
    """Return the license fields in a part's own card, empty if there are none."""
    if "README.md" not in part.files:
        return {}
    try:
        header = read_card_header(part.fetch(with_weights=False) / "README.md")
    except (OSError, ValueError):
        return {}  # an unreadable card is no reason to fail; the base's card then says "not stated"
    page = f"{page_url(part.name)}/blob/{part.commit}" if part.commit else ""
    return read_license_fields(header, page=page)
