"""Builds the documentation site: `python docs/build_site.py`, or `make docs`.

Writes docs/reference/commands.md from the parsers and docs/reference/columns.md from the schema, then runs
`zensical build --strict` into site/. Exits with status 1 if a link or a reference is broken, or a docstring does not
match its function. Needs no network.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def main() -> int:
    """Write the generated pages, build the site, and return the exit status."""
    os.environ["COLUMNS"] = "100"  # argparse wraps the usage lines at this width
    (REFERENCE / "commands.md").write_text(format_commands(), encoding="utf-8")
    (REFERENCE / "columns.md").write_text(format_columns(), encoding="utf-8")
    if problems := build(ROOT):
        print(f"{problems}\nthe site was not built (see above): fix the listed places", file=sys.stderr)
        return 1
    print("site/index.html")
    return 0


def build(root: Path) -> str:
    """Build the site of a directory with zensical.toml, and return what is wrong with it, or an empty string."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    process = subprocess.run(
        command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    # Zensical prints the warnings about docstrings, but its strict mode does not count them.
    if process.returncode or re.search(r"^griffe: ", process.stdout, re.MULTILINE):
        problems = process.stdout.partition("Traceback (most recent call last)")[0].rstrip()
        return problems or process.stdout.rstrip() or f"zensical exited with status {process.returncode}"
    return ""


def format_commands() -> str:
    """Return the page of all commands and their options, in Markdown."""
    from compact_hf.cli.main import make_parser

    lines = [
        "# Commands",
        "",
        "`compact COMMAND --help` prints the same. Exit status: 0 done, 1 failed, 2 wrong arguments, 3 stopped early;",
        "then the same command resumes.",
        "",
    ]
    for names, parser in _iter_parsers("compact", make_parser()):
        lines += [
            f"{'##' if names.count(' ') == 1 else '###'} {names}",
            "",
            f"{_sentence(parser.description or '')}",
            "",
        ]
        lines += ["```text", parser.format_usage().removeprefix("usage: ").rstrip(), "```", ""]
        rows = [(_name_option(action), _describe_option(parser, action)) for action in _iter_actions(parser)]
        if rows:
            lines += ["| argument | meaning |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]
    return "\n".join(lines)


def format_columns() -> str:
    """Return the page of the columns of a dataset with rows of every installed method, in Markdown."""
    from compact_hf.dataset.row_kinds import get_row_kinds
    from compact_hf.dataset.schema import COMMON_COLUMNS, features

    kinds = get_row_kinds()
    types = features([kind.name for kind in kinds])
    lines = ["# Columns", "", "All rows have these columns:", "", "| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {_format_type(types[name])} | {text} |" for name, text in COMMON_COLUMNS.items()]
    for kind in kinds:
        if own := kind.columns():
            lines += ["", f"## Rows of `{kind.name}`", "", "| column | type | meaning |", "|---|---|---|"]
            lines += [
                f"| `{name}` | {_format_type(column.feature)} | {column.description} |" for name, column in own.items()
            ]
    return "\n".join([*lines, ""])


def _iter_parsers(names: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command below a parser with its words, such as `compact base assemble`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield f"{names} {name}", child
                yield from _iter_parsers(f"{names} {name}", child)


def _iter_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if (
            not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            and action.help != argparse.SUPPRESS
        ):
            yield action


def _name_option(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`".replace("|", "\\|")
    takes_value = action.nargs != 0
    return f"`{action.option_strings[-1]}{f' {value}' if takes_value else ''}`".replace("|", "\\|")


def _describe_option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return re.sub(r"([|\[\]<>*])", r"\\\1", text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _format_type(feature: object) -> str:
    from datasets import Image, List, Value

    if isinstance(feature, List):
        return f"list of {_format_type(feature.feature)}"
    if isinstance(feature, dict):
        return "{" + ", ".join(f"`{name}`: {_format_type(value)}" for name, value in feature.items()) + "}"
    if isinstance(feature, Image):
        return "image"
    names = {"string": "string", "int64": "integer"}
    return names.get(feature.dtype, feature.dtype) if isinstance(feature, Value) else str(feature)


if __name__ == "__main__":
    sys.exit(main())
