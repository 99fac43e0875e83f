"""Builds the parsers of commands: purpose, example, `--debug`, and errors that suggest the nearest valid name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from compact_hf.errors import did_you_mean
from compact_hf.escaping import escape_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors suggest the nearest command or option. Its subparsers have the same class."""

    _arguments: tuple[str, ...] = ()

    def parse_known_args(  # type: ignore[override]  # the base class is overloaded by the namespace's kind
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse like the base class, but report unknown arguments here, where this parser's options are known."""
        self._arguments = tuple(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(args, namespace)
        # argparse would report them in the main parser, which does not know the options of the command.
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggest_option(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Exit like the base class, with the nearest valid choice or option added where one was misspelt."""
        # argparse's message for a wrong choice: the value, then all choices.
        match = re.search(r"invalid choice: '([^']*)' \(choose from (.+)\)", message)
        suggestion = did_you_mean(match[1], re.findall(r"[\w-]+", match[2])) if match else ""
        # A misspelt option is found missing before it is found to be unknown.
        if message.startswith("the following arguments are required"):
            suggestion = self._suggest_option(self._arguments)
        super().error(escape_line(message + suggestion))

    def _suggest_option(self, arguments: Sequence[str]) -> str:
        """Return a suggestion for the first of the arguments that looks like an option and is none."""
        names = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
        unknown = next((name for name in names if name not in self._option_string_actions), "")
        return did_you_mean(unknown, self._option_string_actions)


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], purpose: str, example: str
) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser; see `set_command`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
    set_command(parser, run, example)
    return parser


def set_command(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], example: str) -> None:
    """Set the function that runs a command and returns its exit status, and add the example to its help."""
    parser.epilog = f"example: {example}"
    # Every command has it, because `main` reads it after every error.
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)
