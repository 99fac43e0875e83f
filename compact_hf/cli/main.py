"""Parses the command line of `compact` and runs the named command, which is one call of the Python API.

Data goes to stdout, messages and progress to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 3 stopped early; the
same command then resumes.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from compact_hf.cli.console import flush_data, log, silence
from compact_hf.cli.parser import Parser
from compact_hf.errors import CompactError, UsageError
from compact_hf.storage import is_disk_full, is_impossible_path

# name -> (module of compact_hf.cli, purpose), in the order of `compact --help`. Only the module of the called command
# is imported, so that each command starts quickly.
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
    "publish": ("publish", "publish a dataset release, model, adapter, metric or Space on the Hub, all files at once"),
    "show": ("dataset", "write a contact sheet of images with their questions, as HTML and PNG"),
    "tune": ("tune", "train with a recipe; run the same command again to resume"),
    "evaluate": ("evaluate", "evaluate and compare models: accuracy by k and by capability"),
    "analyze": (
        "analyze",
        "analyze the questions of a dataset: capabilities, repetition, and answers that the text gives away",
    ),
    "benchmarks": ("benchmarks", "evaluate a model on the paper's eight benchmarks with lmms-eval"),
    "ablate": (
        "ablate",
        "tune on variants of one run's questions and compare; run the same command again to resume",
    ),
    "base": ("tune", "assemble the model that instruction tuning starts from"),
    "recipe": ("tune", "list, print and copy the shipped training recipes"),
    "adapter": ("tune", "merge a LoRA adapter into its base model"),
    "completion": ("completion", "print a completion script for your shell"),
}
# Module that may be missing -> extra of this package that installs it.
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
    "ray": "ray",
    "xgrammar": "local",
}

_SHOWN_CHARACTERS: Final = 60  # how much of a path that is too long is printed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # bitsandbytes warns at every import that it has no kernel for CPUs, even if nothing is quantized.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        parser = make_parser(arguments)
    except UsageError as error:  # the method named by --method is unknown
        log(f"compact: {error}")
        return error.exit_status
    args = parser.parse_args(arguments)
    # Batch systems end jobs with SIGTERM. It is handled like Ctrl-C, so that a checkpoint is written, child processes
    # are ended, and temporary files are removed. While requests are sent, runs/interrupt.py handles it.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: int = args.run(args)
        flush_data()
    except CompactError as error:
        # What this package raises on purpose: one line, no traceback.
        if args.debug:
            raise
        log(f"compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        # Commands without a handler of their own; runs that finish requests in flight raise StoppedEarly instead.
        log("compact: interrupted; finished work is kept: run the same command again to resume")
        return 3
    except BrokenPipeError:
        # The reader of stdout has closed it, as `| head` does: not an error.
        silence(sys.stdout)
        return 0
    except (OSError, ValueError) as error:
        # An impossible path is a wrong argument, wherever it is used first, and any disk can be full. Other errors keep
        # their traceback.
        if args.debug or not (is_impossible_path(error) or is_disk_full(error)):
            raise
        if is_disk_full(error):
            log(f"compact: a file cannot be written ({error}): free disk space and run the same command again")
            return 1
        log(f"compact: {_describe_impossible_path(error)}")
        return UsageError.exit_status
    except RecursionError:
        # A reply of a server or a file that a library read; this package's own parsers refuse them (parsing.py).
        if args.debug:
            raise
        log("compact: a file or a reply is nested too deeply to be read: run the command with --debug to see which one")
        return 1
    except ModuleNotFoundError as error:
        # A command of an extra that is not installed.
        package = (error.name or "").partition(".")[0]
        if args.debug or package not in _EXTRAS:
            raise
        log(f"compact: {package} is not installed: run pip install 'compact_hf[{_EXTRAS[package]}]'")
        return 1
    return status


def _describe_impossible_path(error: OSError | ValueError) -> str:
    """Return the message about a path that is too long or has a null byte, with the beginning of the path."""
    # ASCII, because a path may have characters that the terminal cannot show.
    name = ascii(getattr(error, "filename", ""))
    shown = f" {name[:_SHOWN_CHARACTERS]}..." if len(name) > _SHOWN_CHARACTERS else f" {name}" if name != "''" else ""
    reason = getattr(error, "strerror", None) or error
    return f"the path{shown} cannot be used ({reason}): use names of at most 255 bytes, without null bytes"


class _ShowVersion(argparse.Action):
    """Prints the version. It is looked up only on request, because importlib.metadata takes 30 ms to import."""

    # argparse's own action `version` needs the version when the parser is built.
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show program's version number and exit"
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"compact_hf {version('compact_hf')}\n")
        parser.exit()


def make_parser(argv: Sequence[str] | None = None) -> Parser:
    """Return the parser for a command line: the named command with its options, the others with their purpose only.

    Args:
        argv (`Sequence[str]`, *optional*): the command line; by default all commands get their options.

    Raises:
        UsageError: the command line names an unknown method.
    """
    parser = Parser(
        prog="compact",
        description="Make compositional visual instruction data from your own images, tune models on it, and evaluate "
        "them by k.",
        epilog="example: compact demo --out demo-out",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_ShowVersion)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    # The first argument that is not an option is the command; "" if there is none, so that no module is imported.
    named = None if argv is None else next((argument for argument in argv if not argument.startswith("-")), "")
    for name, (module, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        if named in (None, name):
            add = getattr(import_module(f"compact_hf.cli.{module}"), f"add_{name}")
            add(command, *([argv or ()] if name == "generate" else []))  # its options depend on --method
    return parser
