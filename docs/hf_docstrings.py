"""Lets mkdocstrings read types as the documentation of Hugging Face writes them: ``name (`str`, *optional*): text``."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^(?P<indent> {4,}|)(?P<name>\*{0,2}\w+) \((?P<type>`.*?`[^()]*)\): ", re.MULTILINE)
_RETURN = re.compile(r"^(?P<section>(?:Returns|Yields):\n +)`(?P<type>[^`]+)`: ", re.MULTILINE)


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites parameters and return values to the Google style before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object; defaults are left to the signature."""
        if obj.docstring is not None:
            text = _RETURN.sub(r"\g<section>\g<type>: ", obj.docstring.value)
            obj.docstring.value = _ENTRY.sub(_format_entry, text)


def _format_entry(match: re.Match[str]) -> str:
    types, is_optional, _ = match["type"].partition(", *optional*")
    kind = " | ".join(re.findall(r"`([^`]+)`", types))
    return f"{match['indent']}{match['name']} ({kind}{', optional' if is_optional else ''}): "
