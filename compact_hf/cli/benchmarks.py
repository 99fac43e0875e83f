"""Defines the arguments and output of `compact benchmarks command`, `tasks` and `table`."""

from __future__ import annotations

import argparse
from pathlib import Path

from compact_hf.cli.console import log, print_data, print_json, print_table
from compact_hf.cli.parser import add_command
from compact_hf.errors import UsageError
from compact_hf.reports.markdown import format_table
from compact_hf.wording import format_command


def add_benchmarks(benchmarks: argparse.ArgumentParser) -> None:
    """Add the subcommands of `compact benchmarks` to its parser."""
    benchmarks.epilog = "example: compact benchmarks command student"
    subcommands = benchmarks.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command_parser = add_command(
        subcommands,
        "command",
        _command,
        "print the shell commands that evaluate a model with lmms-eval, without running them",
        "compact benchmarks command org/compact-lora --gpus 8",
    )
    command_parser.add_argument(
        "model", metavar="MODEL", help="a directory or a Hub repository: a LLaVA model, or a LoRA adapter of one"
    )
    command_parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks"),
        metavar="DIR",
        help="directory for merged model and results (default: benchmarks)",
    )
    command_parser.add_argument(
        "--without-judge",
        action="store_true",
        help="skip MM-Vet and LLaVA-in-the-Wild, whose answers are graded by a paid model",
    )
    command_parser.add_argument("--heldout", metavar="DATASET", help="also ask the held-out questions of this dataset")
    command_parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="number of GPUs; the questions are divided among them (default: 1)",
    )
    command_parser.add_argument("--device", default="cuda", help="PyTorch device of each model copy (default: cuda)")
    command_parser.add_argument("--json", action="store_true", help="print the parts of the commands as JSON")

    # tasks: the held-out questions for lmms-eval.
    tasks = add_command(
        subcommands,
        "tasks",
        _tasks,
        "write the held-out questions of a dataset as a task for lmms-eval --include_path",
        "compact benchmarks tasks org/compact@v1.0.0 --out tasks",
    )
    tasks.add_argument("dataset", metavar="DATASET", help="a directory, or org/name[@revision] on the Hub")
    tasks.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a directory: new, empty, or written by this command before",
    )

    # table: the results of lmms-eval beside those of the paper.
    table = add_command(
        subcommands,
        "table",
        _table,
        "print the paper's table with a row for each of your models, from the results of lmms-eval",
        "compact benchmarks table benchmarks/results",
    )
    table.add_argument(
        "results", nargs="+", metavar="RESULTS", help="*_results.json files, or directories with such files"
    )
    table.add_argument(
        "--reference",
        metavar="RESULTS",
        # argparse formats help texts with `%`, so a percent sign is doubled.
        help="results of the model whose scores count as 100%% (default: the paper's LLaVA-665K)",
    )
    table.add_argument("--markdown", action="store_true", help="print Markdown, for a model card")
    table.add_argument("--json", action="store_true", help="print the table as JSON")


def _command(args: argparse.Namespace) -> int:
    from compact_hf.evaluation.benchmarks.lmms_eval import JUDGE_MODEL, benchmark_command

    commands = benchmark_command(
        args.model,
        args.out,
        with_judge=not args.without_judge,
        heldout=args.heldout,
        gpus=args.gpus,
        device=args.device,
    )
    # Notes go to stderr, so that stdout is a shell script.
    if graded := [benchmark.name for benchmark in commands.benchmarks if benchmark.needs_judge]:
        log(
            f"{' and '.join(graded)} are graded by {JUDGE_MODEL} at your cost: set OPENAI_API_KEY, and "
            "MODEL_VERSION for "
            "another model or OPENAI_API_URL for another server; --without-judge skips them"
        )
    log("lmms-eval downloads the benchmarks from the Hub; some need a token: set HF_TOKEN, or run `hf auth login`")
    log("lmms-eval exits with status 0 even if a benchmark failed; the last command's table lists what is missing")
    if args.json:
        print_json(commands.to_json())
    else:
        for line in commands.lines():
            print_data(line)
    return 0


def _tasks(args: argparse.Namespace) -> int:
    from compact_hf.evaluation.benchmarks.lmms_eval import HELDOUT_TASK, benchmark_tasks

    # The only result on stdout is the directory.
    out = benchmark_tasks(args.dataset, args.out)
    log(
        f"next: {format_command('lmms-eval', '--include_path', out, '--tasks', HELDOUT_TASK)} ..., or "
        "compact benchmarks command MODEL --heldout"
    )
    print_data(str(out))
    return 0


def _table(args: argparse.Namespace) -> int:
    from compact_hf.evaluation.benchmarks.table import benchmark_table

    # Not a mutually exclusive group of argparse, whose message does not say what to do.
    if args.markdown and args.json:
        raise UsageError("got --markdown and --json; give one of them")
    table = benchmark_table(args.results, reference=args.reference)
    for note in table.notes:
        log(note)
    if table.shared_benchmarks and not args.reference:
        log(
            "the paper does not state its versions of lmms-eval and of the judge model: to compare datasets, evaluate "
            "a model tuned on the full data in the same way, and pass its results as --reference"
        )
    if args.json:
        print_json(table.to_json())
        return 0
    # Two tables, each a list of rows with the head first; the second one is empty without held-out questions.
    for cells in (table.cells(), table.heldout_cells()):
        if not cells:
            continue
        head, *rows = cells
        if args.markdown:
            print_data(f"\n{format_table(head, rows, is_numeric=True).rstrip()}")
        else:
            print_table(head, rows, is_numeric=True)
    return 0
