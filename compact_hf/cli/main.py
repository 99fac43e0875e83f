"""The command `compact`: parsing and talking only; each command (a file each) is one call of the Python API.

Data goes to stdout, talk to stderr. Exit 0: done, 1: failed, 2: wrong usage, 3: stopped early and the same command
goes on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Final

from compact_hf.cli import (
    ablate,
    analyze,
    benchmarks,
    completion,
    dataset,
    demo,
    evaluate,
    generate,
    publish,
    tune,
)
from compact_hf.cli.console import flush_data, log, silence
from compact_hf.cli.parser import Parser
from compact_hf.errors import CompactError, UsageError
from compact_hf.storage import is_impossible_path

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
        parser = _parser(arguments)
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


def _parser(argv: Sequence[str] = ()) -> Parser:
    parser = Parser(
        prog="compact",
        description="Make compositional visual instruction data from your own pictures, tune with it, judge by k.",
        epilog="example: compact demo --out demo-out",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"compact_hf {version('compact_hf')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        demo.add,
        partial(generate.add, argv=argv),
        generate.add_annotate_and_augment,
        generate.add_method,
        dataset.add,
        publish.add,
        dataset.add_show,
        tune.add,
        evaluate.add,
        analyze.add,
        benchmarks.add,
        ablate.add,
        tune.add_base,
        tune.add_recipe,
        tune.add_adapter,
    ):
        add(commands)
    completion.add(commands, parser)
    return parser
