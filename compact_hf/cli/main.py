"""The command `compact`: parsing and talking only; each command (a file each) is one call of the Python API.

Data goes to stdout, talk to stderr. Exit 0: done, 1: failed, 2: wrong usage, 3: stopped early and the same command
goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from compact_hf.cli.console import flush_data, log, silence
from compact_hf.cli.parser import Parser
from compact_hf.errors import CompactError, UsageError
from compact_hf.storage import is_impossible_path

# name -> (module of this package, purpose), in the order of the help. Only the module of the command that is called is
# imported.
_COMMANDS: Final = {
    "demo": ("demo", "run all steps offline in a few minutes"),
    "generate": ("generate", "ask a teacher model about images"),
    "status": ("generate", "show the progress of a run"),
    "annotate": ("generate", "label which capabilities the questions of a dataset need"),
    "augment": ("generate", "rewrite the questions of a dataset so that they need one more capability"),
    "method": ("generate", "list the methods that make data"),
    "validate": ("dataset", "check a dataset release"),
    "diff": ("dataset", "compare two dataset releases"),
    "assemble": ("dataset", "write a dataset release"),
    "export": ("dataset", "write a dataset release in the format of other training code"),
    "publish": ("publish", "put a release, a tuned model, an adapter, a metric or a Space on the Hub, in one piece"),
    "show": ("dataset", "write a contact sheet of images with their questions, as HTML and PNG"),
    "tune": ("tune", "train with a recipe; run the same command again to resume"),
    "evaluate": ("evaluate", "ask models about images: accuracy by k and by capability, and their differences"),
    "analyze": (
        "analyze",
        "analyze the questions of a dataset: capabilities, repetition, and answers that the text gives away",
    ),
    "benchmarks": ("benchmarks", "the paper's eight benchmarks, by way of lmms-eval"),
    "ablate": (
        "ablate",
        "tune on variants of one run's questions and compare; run the same command again to resume",
    ),
    "base": ("tune", "assemble the model that instruction tuning starts from"),
    "recipe": ("tune", "list, print and copy the shipped training recipes"),
    "adapter": ("tune", "merge a LoRA adapter into its base model"),
    "completion": ("completion", "print a completion script for your shell"),
}
_EXTRAS: Final = {
    "torch": "tune",
    "transformers": "tune",
    "trl": "tune",
    "peft": "tune",
    "accelerate": "tune",
    "sentencepiece": "tune",
    "psutil": "tune",
    "bitsandbytes": "qlora",
    "deepspeed": "deepspeed",
    "openai": "openai",
    "ray": "ray",
    "xgrammar": "local",
}

_SHOWN_CHARACTERS: Final = 60  # of a path that is too long


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # At every import, also by those who never quantize, it says that it has no such kernel for CPUs.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        parser = make_parser(arguments)
    except UsageError as error:  # of the method that is named
        log(f"compact: {error}")
        return error.exit_status
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        flush_data()
    except CompactError as error:
        if args.debug:
            raise
        log(f"compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        log("compact: interrupted; what was finished is kept, run the same command again")
        return 3
    except BrokenPipeError:
        # Whoever read stdout has had enough (`| head`).
        silence(sys.stdout)
        return 0
    except (OSError, ValueError) as error:
        if args.debug or not is_impossible_path(error):
            raise
        log(f"compact: {_describe_impossible_path(error)}")
        return UsageError.exit_status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if args.debug or package not in _EXTRAS:
            raise
        log(f"compact: this needs {package}, which is not installed; pip install 'compact_hf[{_EXTRAS[package]}]'")
        return 1
    return status


def _describe_impossible_path(error: OSError | ValueError) -> str:
    name = ascii(getattr(error, "filename", ""))
    shown = f" {name[:_SHOWN_CHARACTERS]}..." if len(name) > _SHOWN_CHARACTERS else f" {name}" if name != "''" else ""
    reason = getattr(error, "strerror", None) or error
    return f"a path{shown} cannot be used ({reason}); give one without null bytes, of names of at most 255 bytes"


class _ShowVersion(argparse.Action):
    """Print the version, looked up only on request: importlib.metadata takes 30 ms to import."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show program's version number and exit"
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"compact_hf {version('compact_hf')}\n")
        parser.exit()


def make_parser(argv: Sequence[str] | None = None) -> Parser:
    """Return the parser of a command line: the options of the command that it names, and what the others are for.

    Args:
        argv (`Sequence[str]`, *optional*): the command line; without it all commands have their options.

    Raises:
        UsageError: it names a method that there is not.
    """
    parser = Parser(
        prog="compact",
        description="Make compositional visual instruction data from your own pictures, tune with it, judge by k.",
        epilog="example: compact demo --out demo-out",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_ShowVersion)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = None if argv is None else next((argument for argument in argv if not argument.startswith("-")), "")
    for name, (module, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        if named in (None, name):
            add = getattr(import_module(f"compact_hf.cli.{module}"), f"add_{name}")
            add(command, *([argv or ()] if name == "generate" else []))  # its options depend on --method
    return parser
