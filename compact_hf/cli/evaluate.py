"""Defines the arguments, progress bar and output of `compact evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar, log, print_data, print_json, print_summary, print_table
from compact_hf.cli.parser import set_command
from compact_hf.wording import format_count

if TYPE_CHECKING:
    from compact_hf.evaluation.plan import EvaluationPlan

# Names of options that are passed on as keywords: to `evaluate`, and in part to `plan_evaluation` and `RunLimits`.
_DATASET_OPTIONS: Final = ("config", "split", "columns", "limit")
_LIMIT_OPTIONS: Final = ("concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out")
_PLAN_OPTIONS: Final = (
    *_DATASET_OPTIONS,
    "task",
    "matching",
    "control",
    "batch_size",
    "max_new_tokens",
    "base",
    "url",
)
_EVALUATE_OPTIONS: Final = (*_PLAN_OPTIONS, *_LIMIT_OPTIONS)


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact evaluate` to its parser."""
    set_command(evaluate, _evaluate, "compact evaluate base tuned scenes:200 --out results")
    # The last positional is the dataset: argparse gives all others to MODEL.
    evaluate.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="a model or adapter (a directory or org/name[@revision]), or openai:NAME for a model behind a server; "
        "each further model is compared with the first",
    )
    evaluate.add_argument(
        "dataset",
        metavar="DATASET",
        help="scenes:N (N scenes reserved for evaluation), org/name[@revision], a directory, or a .parquet, .jsonl, "
        ".json or .csv file",
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="output directory; an existing evaluation is resumed, and further models are added to it",
    )
    evaluate.add_argument(
        "--task",
        metavar="NAME",
        help="evaluation task, which defines questions and scoring: an installed task, or package.module:Class "
        "(default: the task that recognizes the dataset, else compact: accuracy by k)",
    )
    _add_dataset_options(evaluate)
    _add_inference_options(evaluate)
    _add_server_options(evaluate)
    evaluate.add_argument(
        "--dry-run", action="store_true", help="print questions, requests and cost, without loading or asking a model"
    )
    evaluate.add_argument("--json", action="store_true", help="print results.json, or the plan of --dry-run, as JSON")


def _add_dataset_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="NAME", help="config of the dataset (default: compositional, if it exists)")
    parser.add_argument("--split", metavar="NAME", help="split of the dataset (default: validation, else test)")
    parser.add_argument(
        "--columns",
        type=_parse_columns,
        metavar="question=Q,answer=A,...",
        help="column names of a dataset with one question per row: question, answer (or a list of accepted answers), "
        "image, k, capabilities, id",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N of the questions, selected by their ids")


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--match",
        dest="matching",
        metavar="RULE",
        help="rule of the task by which an answer is correct; compact has exact, and relaxed (numbers within 5%% are "
        "correct, too) (default: exact)",
    )
    control = parser.add_mutually_exclusive_group()
    control.add_argument(
        "--control",
        metavar="NAME",
        help="control experiment: swapped-images (ask each question about the image of another question) or blind "
        "(ask without images)",
    )
    # Kept for scripts of earlier versions.
    control.add_argument(
        "--swap-pictures",
        dest="control",
        action="store_const",
        const="swapped-images",
        help="alias of --control swapped-images",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="questions per batch (default: 64)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum length of an answer in tokens (default: the task's; 16 for compact)",
    )
    parser.add_argument(
        "--base",
        metavar="DIR_OR_REPO",
        help="base model of the adapters, if it was moved (default: the one that each adapter's config names)",
    )


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("options of openai:NAME", "The API key is read from OPENAI_API_KEY.")
    server.add_argument("--url", metavar="URL", help="URL of your own server, such as http://localhost:8000/v1")
    server.add_argument(
        "--concurrency", type=int, default=16, metavar="C", help="number of requests in flight (default: 16)"
    )
    server.add_argument("--rpm", type=float, metavar="N", help="at most N requests per minute")
    server.add_argument("--tpm", type=float, metavar="N", help="at most N tokens per minute")
    server.add_argument("--max-requests", type=int, metavar="N", help="stop after N billed requests in total")
    server.add_argument("--max-cost", type=float, metavar="USD", help="stop when the total cost reaches USD US dollars")
    server.add_argument(
        "--price-in", type=float, metavar="USD", help="USD per million input tokens, if unknown to genai-prices"
    )
    server.add_argument(
        "--price-out", type=float, metavar="USD", help="USD per million output tokens, if unknown to genai-prices"
    )


def _evaluate(args: argparse.Namespace) -> int:
    options = {name: getattr(args, name) for name in _EVALUATE_OPTIONS}
    if args.dry_run:
        return _print_plan(args, options)
    from compact_hf.evaluation.evaluate import evaluate

    with ProgressBar("answers") as bar:
        evaluation = evaluate(
            args.models,
            args.dataset,
            args.out,
            on_progress=bar.show,
            on_failure=lambda line: bar.warn_throttled(f"compact: request failed, retrying: {line}"),
            on_wait=lambda line: bar.log_note(f"compact: {line}"),
            on_note=lambda line: bar.log_note(f"compact: {line}"),
            **options,
        )
    # Notes to stderr: they are not part of the result.
    for note in evaluation.notes:
        log(note)
    if args.json:
        print_json(evaluation.to_json())
    else:
        print_summary(evaluation.summary())
    log(f"wrote the results to {args.out}; open {args.out / 'report.html'} in a browser")
    return 0


def _print_plan(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print what `compact evaluate --dry-run` found: questions, images, and requests and cost for each model."""
    from compact_hf.evaluation.plan import plan_evaluation
    from compact_hf.runs.options import RunLimits

    forecast: EvaluationPlan = plan_evaluation(
        args.models,
        args.dataset,
        args.out,
        **{name: options[name] for name in _PLAN_OPTIONS},
        limits=RunLimits(**{name: options[name] for name in _LIMIT_OPTIONS}),
    )
    if args.json:
        print_json(forecast.to_json())
        return 0
    # One line about the dataset, then the notes, then a table with one row per model.
    print_data(
        f"{forecast.dataset}: {format_count(forecast.questions, 'question')} about "
        f"{format_count(forecast.pictures, 'image')}" + (f"; {forecast.description}" * bool(forecast.description))
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
    """Return the mapping of field to column in the text of `--columns`."""
    # "question=Q,answer=A" -> [("question", "Q"), ("answer", "A")]; without "=" the column is empty.
    pairs = [(name.strip(), column.strip()) for name, _, column in (part.partition("=") for part in text.split(","))]
    if not all(name and column for name, column in pairs):
        raise argparse.ArgumentTypeError(f"got {text!r}; give field=column pairs, such as question=query,answer=label")
    # A dictionary would silently keep the last column.
    if len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"got {text!r}, which names a field twice; name each field once")
    return dict(pairs)
