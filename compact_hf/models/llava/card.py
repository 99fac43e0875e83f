"""A base's card: its parts and its record in; README.md, and where a licence asks for it NOTICE, out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.models.llava.provenance import Record

if TYPE_CHECKING:
    from compact_hf.models.llava.parts import Part

_LLAMA_2: Final = "llama2"
# Section 1.b.iii of the Llama 2 Community License asks for a text file of this name with this sentence.
_NOTICE: Final = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)


def write_card(
    folder: Path, *, parts: tuple[Part, ...], record: Record, image_tokens: int, dtype: str, legacy: bool
) -> None:
    """Write a base's README.md, and the NOTICE that Llama 2's license asks for.

    Args:
        folder (`Path`): the base's.
        parts (`tuple[Part, ...]`): the three, language model first; their licenses are read from their own cards.
        record (`Record`): of the base.
        image_tokens (`int`): that a picture becomes.
        dtype (`str`): that it is loaded in.
        legacy (`bool`): the tokenizer's setting of that name.
    """
    licenses = [_license(part) for part in parts]
    facts = {"image_tokens": image_tokens, "dtype": dtype, "legacy": str(legacy).lower()}
    is_llama_2 = licenses[0] == _LLAMA_2
    text = _rendered(parts, licenses, record=record, is_llama_2=is_llama_2, **facts)
    (folder / "README.md").write_text(text, encoding="utf-8")
    if is_llama_2:
        (folder / "NOTICE").write_text(_NOTICE, encoding="utf-8")


def _rendered(parts: tuple[Part, ...], licenses: list[str | None], **facts: Any) -> str:
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
    table = [
        {
            "role": part.role,
            "source": f"[{part.name}](https://huggingface.co/{part.name})" if part.commit else part.name,
            "commit": f"`{part.commit}`" if part.commit else "a folder of its maker's",
            "license": stated or "not stated",
        }
        for part, stated in zip(parts, licenses, strict=True)
    ]
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = (files("compact_hf.models.llava") / "card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(metadata=metadata.to_yaml(), parts=table, **facts)


def _license(part: Part) -> str | None:
    """Return the licence that a part's own card states."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    if "README.md" not in part.files:
        return None
    try:
        stated = metadata_load(part.fetch(weights=False) / "README.md")
    except (OSError, ValueError, yaml.YAMLError):
        return None  # its card is its own business; ours says that it states none
    return str(stated["license"]) if stated and stated.get("license") else None
