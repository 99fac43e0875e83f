"""`compact completion`: what a shell needs to complete commands, options, choices and paths, on stdout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from compact_hf.cli.console import print_data
from compact_hf.cli.parser import set_command

SHELLS: Final = ("bash", "zsh", "tcsh")


def add_completion(completion: argparse.ArgumentParser) -> None:
    """Describe `compact completion`."""
    set_command(completion, _print_script, 'eval "$(compact completion bash)"')
    completion.add_argument("shell", choices=SHELLS, help="goes into ~/.bashrc, ~/.zshrc or ~/.tcshrc")


def _print_script(args: argparse.Namespace) -> int:
    from compact_hf.cli.main import make_parser

    print_data(script(make_parser(), args.shell).rstrip())
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that makes `shell`, one of `SHELLS`, complete what `parser` takes."""
    import shtab

    _complete_paths(parser, shtab.FILE)
    text: str = shtab.complete(parser, shell)
    return text


def _complete_paths(parser: argparse.ArgumentParser, files: Any) -> None:
    """Complete file names wherever text is taken: most of it may be a path, as for a shell's own commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_paths(subparser, files)
        elif action.nargs != 0 and not action.choices and action.type in (None, Path):
            action.complete = files  # type: ignore[attr-defined]  # where shtab looks
