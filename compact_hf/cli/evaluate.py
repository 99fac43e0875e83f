"""`compact evaluate`: parsing and talking."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar, log, print_data, print_json, print_summary, print_table
from compact_hf.cli.parser import set_command

if TYPE_CHECKING:
    from compact_hf.evaluation.plan import EvaluationPlan

_DATASET_OPTIONS: Final = ("config", "split", "columns", "limit")
_LIMIT_OPTIONS: Final = ("concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out")
_EVALUATE_OPTIONS: Final = (
    *_DATASET_OPTIONS,
    "task",
    "matching",
    "control",
    "batch_size",
    "max_new_tokens",
    "url",
    *_LIMIT_OPTIONS,
)


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Describe `compact evaluate`."""
    set_command(evaluate, _evaluate, "compact evaluate base tuned scenes:200 --out results")
    evaluate.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="a folder or org/name[@revision] of a model or an adapter, or openai:NAME behind a server; "
        "the others are compared with the first",
    )
    evaluate.add_argument(
        "dataset",
        metavar="DATASET",
        help="scenes:N (reserved ones), org/name[@revision], a folder, or a .parquet, .jsonl, .json or .csv file",
    )
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new, or begun; another model is added to what is there"
    )
    evaluate.add_argument(
        "--task",
        metavar="NAME",
        help="what is asked and how it is scored: an installed task, or package.module:Class (default: the one that "
        "knows the data set, else compact: accuracy by k)",
    )
    _add_dataset_options(evaluate)
    _add_inference_options(evaluate)
    _add_server_options(evaluate)
    evaluate.add_argument(
        "--dry-run", action="store_true", help="say what it will take; loads no model, asks no server"
    )
    evaluate.add_argument("--json", action="store_true", help="results.json, or the plan, on stdout")


def _add_dataset_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="NAME", help="of the data set (default: compositional, if there is one)")
    parser.add_argument("--split", metavar="NAME", help="of the data set (default: validation, else test)")
    parser.add_argument(
        "--columns",
        type=_parse_columns,
        metavar="question=Q,answer=A,...",
        help="what is what in a data set of one question a row: question, answer (or a list: any counts), image, k, "
        "capabilities, id",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="N of the questions only, drawn by their ids")


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--match",
        dest="matching",
        metavar="RULE",
        help="when an answer is right, by a rule of the task; of compact: exact, or relaxed: numbers within 5%% too "
        "(default: exact)",
    )
    control = parser.add_mutually_exclusive_group()
    control.add_argument(
        "--control",
        metavar="NAME",
        help="ask without what the task should need: swapped-images (each question about another question's picture) "
        "or blind (no picture)",
    )
    control.add_argument(
        "--swap-pictures",
        dest="control",
        action="store_const",
        const="swapped-images",
        help="the same as --control swapped-images",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="questions at a time (default: 64)")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="where an answer is cut (default: the task's, of compact 16)"
    )


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("of openai:NAME", "its key comes from OPENAI_API_KEY")
    server.add_argument("--url", metavar="URL", help="a server of one's own, such as http://localhost:8000/v1")
    server.add_argument("--concurrency", type=int, default=16, metavar="C", help="requests in flight (default: 16)")
    server.add_argument("--rpm", type=float, metavar="N", help="at most N requests a minute")
    server.add_argument("--tpm", type=float, metavar="N", help="at most N tokens a minute")
    server.add_argument("--max-requests", type=int, metavar="N", help="stop after N answered requests in all")
    server.add_argument("--max-cost", type=float, metavar="USD", help="stop after so many US dollars in all")
    server.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    server.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")


def _evaluate(args: argparse.Namespace) -> int:
    options = {name: getattr(args, name) for name in _EVALUATE_OPTIONS}
    if args.dry_run:
        return _print_plan(args, options)
    from compact_hf.evaluation.evaluate import evaluate

    # A batch system ends its jobs by SIGTERM: as good a reason to stop in good order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressBar("answers") as bar:
        evaluation = evaluate(
            args.models,
            args.dataset,
            args.out,
            on_progress=bar.show,
            on_failure=lambda line: bar.warn_throttled(f"compact: trying again: {line}"),
            **options,
        )
    for note in evaluation.notes:
        log(note)
    if args.json:
        print_json(evaluation.to_json())
    else:
        print_summary(evaluation.summary())
    log(f"all of it is in {args.out}; to look at: {args.out / 'report.html'}")
    return 0


def _print_plan(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from compact_hf.evaluation.plan import plan_evaluation
    from compact_hf.runs.options import RunLimits

    forecast: EvaluationPlan = plan_evaluation(
        args.models,
        args.dataset,
        args.out,
        **{name: options[name] for name in (*_DATASET_OPTIONS, "task", "control", "batch_size", "url")},
        limits=RunLimits(**{name: options[name] for name in _LIMIT_OPTIONS}),
    )
    if args.json:
        print_json(forecast.to_json())
        return 0
    print_data(
        f"{forecast.dataset}: {forecast.questions:,} questions about {forecast.pictures:,} pictures"
        + (f"; {forecast.description}" * bool(forecast.description))
    )
    for note in forecast.notes:
        print_data(note)
    print_table(
        ("model", "answered", "to ask", "requests", "about USD"),
        [
            (
                model.model,
                model.answered,
                model.to_ask,
                model.requests,
                "unknown" if model.cost is None else f"{model.cost:.2f}",
            )
            for model in forecast.models
        ],
    )
    return 0


def _parse_columns(text: str) -> dict[str, str]:
    pairs = [(name.strip(), column.strip()) for name, _, column in (part.partition("=") for part in text.split(","))]
    if not all(name and column for name, column in pairs):
        raise argparse.ArgumentTypeError(f"got {text!r}; give what is what, such as question=query,answer=label")
    if len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"got {text!r}, which says twice what one thing is; say each once")
    return dict(pairs)
