"""Prints a shell script that completes commands, options, choices and paths: `compact completion SHELL`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from compact_hf.cli.console import print_data
from compact_hf.cli.parser import set_command

SHELLS: Final = ("bash", "zsh", "tcsh")


def add_completion(completion: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact completion` to its parser."""
    set_command(completion, _print_script, 'eval "$(compact completion bash)"')
    completion.add_argument(
        "shell", choices=SHELLS, help="your shell; add the command to ~/.bashrc, ~/.zshrc or ~/.tcshrc"
    )


def _print_script(args: argparse.Namespace) -> int:
    from compact_hf.cli.main import make_parser

    # Without a command line all commands get their options.
    print_data(script(make_parser(), args.shell).rstrip())
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a completion script for the arguments of `parser`; `shell` is one of `SHELLS`."""
    import shtab

    _complete_paths(parser, shtab.FILE)
    text: str = shtab.complete(parser, shell)
    return text


def _complete_paths(parser: argparse.ArgumentParser, files: Any) -> None:
    """Complete file names for all arguments without choices: most of them may be paths."""
    # argparse has no public access to the arguments of a parser.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_paths(subparser, files)
        elif action.nargs != 0 and not action.choices and action.type in (None, Path):
            action.complete = files  # type: ignore[attr-defined]  # the attribute that shtab reads
