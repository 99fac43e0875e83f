"""Reads sections and code blocks of the README, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text after a heading, up to the next heading of the same or a higher level."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", README, re.MULTILINE)
    if heading is None:
        raise LookupError(f"README has no section {title!r}")
    rest = README[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def code_blocks(language: str, text: str = README) -> list[str]:
    """Return the contents of the code blocks of one language; "" means blocks without a language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for block_language, code in blocks if block_language == language]


def commands(title: str) -> list[list[str]]:
    """Return the lines of the shell blocks of a section, split into words and without comments."""
    lines = [
        line.partition("  #")[0].strip() for block in code_blocks("sh", section(title)) for line in block.splitlines()
    ]
    return [shlex.split(line) for line in lines if line]
