"""Defines the arguments and output of `compact assemble`, `export`, `validate`, `diff` and `show`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.cli.console import log, print_data, print_json, print_summary, print_table
from compact_hf.cli.parser import set_command
from compact_hf.escaping import escape_line
from compact_hf.methods.row_kind import MAX_SIMILARITY
from compact_hf.runs.options import parse_numbers
from compact_hf.wording import format_command, format_count

if TYPE_CHECKING:
    from compact_hf.dataset.diff import Difference
    from compact_hf.methods.compact.selection import Selection
    from compact_hf.reports.table import NotebookSummary


def add_show(show: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact show` to its parser."""
    set_command(show, _show, "compact show run --capability counting --rejects")
    show.add_argument(
        "where", metavar="RUN_OR_DIR_OR_REPO", help="a run, a dataset directory, or org/name[@revision] on the Hub"
    )
    # Filters first, then the size of the sample and the output.
    show.add_argument("--k", type=int, metavar="K", help="only images of this k")
    show.add_argument("--capability", metavar="NAME", help="only questions made to need it, such as counting")
    show.add_argument("--rejects", action="store_true", help="show the dropped drafts of a run, with their reasons")
    show.add_argument("--n", type=int, default=12, metavar="N", help="number of images, 1 to 120 (default: 12)")
    show.add_argument("--seed", type=int, default=0, help="random seed that selects the images (default: 0)")
    show.add_argument("--out", type=Path, metavar="DIR", help="output directory (default: ./NAME-sheet)")


def _show(args: argparse.Namespace) -> int:
    from compact_hf.dataset.show import show

    sheet = show(
        args.where,
        args.out,
        k=args.k,
        capability=args.capability,
        rejects=args.rejects,
        n=args.n,
        seed=args.seed,
    )
    log(f"{sheet.count} {'image' if sheet.count == 1 else 'images'}; open the page in a browser")
    print_data(str(sheet.page))
    print_data(str(sheet.image))
    return 0


def add_validate(validate: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact validate` to its parser."""
    set_command(validate, _validate, "compact validate release")
    validate.add_argument("release", metavar="DIR_OR_REPO", help="a directory, or org/name[@revision] on the Hub")


def add_diff(diff: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact diff` to its parser."""
    set_command(diff, _diff, "compact diff org/compact@v1.0.0 release")
    for name, metavar, description in (("old", "A", "the old release"), ("new", "B", "the new release")):
        diff.add_argument(name, metavar=metavar, help=f"{description}: a directory, or ORG/NAME[@REVISION] on the Hub")
    diff.add_argument("--json", action="store_true", help="print the differences as JSON")


def add_assemble(assemble: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact assemble` to its parser."""
    set_command(assemble, _assemble, "compact assemble run --out release --version 1.0.0")
    assemble.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories, or directories with the shards of a run"
    )
    assemble.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a directory: new, empty, or an earlier release, which is replaced",
    )
    assemble.add_argument("--version", required=True, metavar="X.Y.Z", help="version of the release")
    # Two ways to set `max_similarity`; the second one is its largest value.
    similar = assemble.add_mutually_exclusive_group()
    similar.add_argument(
        "--max-similarity",
        type=float,
        default=MAX_SIMILARITY,
        metavar="SHARE",
        help="drop a question that has the same answer as one about an earlier image, and shares more than this "
        "fraction of its words with it (default: %(default)s)",
    )
    similar.add_argument(
        "--keep-similar",
        action="store_const",
        const=1.0,
        dest="max_similarity",
        help="keep all of them; use this for drawn scenes, which repeat their wording",
    )
    # Balancing chooses among all questions; the selection options then take a part of the result.
    assemble.add_argument(
        "--balance",
        action="store_true",
        help="if an image has more than two questions, keep the two or three that make the counts of capabilities, "
        "capability pairs and k most even",
    )
    _add_selection_options(assemble)
    # Instruction data: a share of LLaVA's own rows, as in the paper.
    assemble.add_argument(
        "--instruction",
        type=Path,
        metavar="FILE",
        help="add rows of this JSON list or JSON lines, in the format of LLaVA, ShareGPT or TRL",
    )
    assemble.add_argument(
        "--image-root",
        type=Path,
        metavar="DIR",
        help="directory that the image paths of --instruction are relative to (default: the directory of that file)",
    )
    # No default here: `assemble` takes 5% if none of them is given.
    share = assemble.add_mutually_exclusive_group()
    share.add_argument(
        "--instruction-fraction", type=float, metavar="SHARE", help="fraction of its rows to take (default: 0.05)"
    )
    share.add_argument("--instruction-rows", type=int, metavar="N", help="number of its rows to take")
    assemble.add_argument(
        "--seed", type=int, default=0, help="random seed that selects rows and questions (default: 0)"
    )
    _add_exclusion_options(assemble)


def add_export(export: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact export` to its parser."""
    set_command(export, _export, "compact export release --format llava --out llava")
    export.add_argument("release", metavar="RELEASE", help="a directory, or org/name[@revision] on the Hub")
    export.add_argument(
        "--format",
        required=True,
        choices=("llava", "finevision", "messages"),
        help="llava: a JSON list for the code of LLaVA and LLaMA-Factory; finevision: Parquet; messages: JSON lines "
        "for TRL",
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty directory")
    export.add_argument(
        "--config", default="all", metavar="NAME", help="config of the release to export (default: %(default)s)"
    )
    export.add_argument("--split", choices=("train", "validation"), help="split to export (default: both)")


def _add_selection_options(assemble: argparse.ArgumentParser) -> None:
    """Add the options that make a release of a part of the runs; the card then describes that part."""
    assemble.add_argument(
        "--k", dest="ks", type=parse_numbers, default=(), metavar="1,2,3", help="only questions of these k"
    )
    assemble.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="CAPABILITY",
        help="drop questions that need this capability; can be repeated",
    )
    size = assemble.add_mutually_exclusive_group()
    size.add_argument(
        "--questions", type=int, metavar="N", help="exact number of training questions, taken from those that qualify"
    )
    size.add_argument(
        "--conversations", type=int, metavar="N", help="exact number of training conversations (one per image), instead"
    )


def _make_selection(args: argparse.Namespace) -> Selection | None:
    # None, not an empty selection, which would cost a pass over all rows.
    if not (args.ks or args.without or args.questions is not None or args.conversations is not None):
        return None
    from compact_hf.methods.compact.selection import Selection

    return Selection(
        ks=args.ks,
        without=tuple(args.without),
        questions=args.questions,
        conversations=args.conversations,
        seed=args.seed,
    )


def _add_exclusion_options(assemble: argparse.ArgumentParser) -> None:
    assemble.add_argument(
        "--exclude-ids",
        type=Path,
        metavar="FILE",
        help="drop the rows and images whose ids are in this file (one per line, comments after #); "
        "image ids are the same in every release",
    )
    assemble.add_argument(
        "--exclude-images-of",
        action="append",
        default=[],
        metavar="DATASET",
        help="drop images of a benchmark, including recompressed and resized copies (cropped or mirrored ones are not "
        "found): a directory, a release, or org/name on the Hub; can be repeated",
    )
    assemble.add_argument(
        "--group-similar",
        type=int,
        metavar="BITS",
        help="drop training images that look like a validation image: their 64-bit perceptual hashes differ in at most "
        "BITS bits, 0 to 10 (6 is usual)",
    )
    assemble.add_argument(
        "--image-license", metavar="TEXT", help="license of the runs' images whose license is unknown, e.g. cc-by-4.0"
    )
    assemble.add_argument(
        "--license",
        metavar="ID",
        help="license of the release, as an identifier of the Hub (default: the images' license if all have the same, "
        "else other)",
    )


def _assemble(args: argparse.Namespace) -> int:
    from compact_hf.dataset.assemble import assemble

    # Collected, and printed after the counts, although balancing comes first.
    balances: list[NotebookSummary] = []
    stats = assemble(
        args.runs,
        args.out,
        version=args.version,
        max_similarity=args.max_similarity,
        balance=args.balance,
        select=_make_selection(args),
        instruction=args.instruction,
        image_root=args.image_root,
        instruction_fraction=args.instruction_fraction,
        instruction_rows=args.instruction_rows,
        seed=args.seed,
        exclude_ids=args.exclude_ids,
        exclude_images_of=args.exclude_images_of,
        group_similar=args.group_similar,
        image_license=args.image_license,
        license=args.license,
        on_balance=balances.append,
        on_note=log,
    )
    print_summary(stats.summary())
    for balance in balances:
        print_summary(balance.summary())
    log(f"next: {format_command('compact', 'validate', args.out)}; in Python: load_dataset({str(args.out)!r})")
    return 0


def _export(args: argparse.Namespace) -> int:
    from compact_hf.dataset.export import export

    # split -> number of rows
    counts = export(args.release, args.out, format=args.format, config=args.config, split=args.split)
    print_table(("split", "rows"), list(counts.items()))
    log(f"written to {args.out}")
    return 0


def _validate(args: argparse.Namespace) -> int:
    from compact_hf.dataset.validate import validate

    report = validate(args.release)
    # stdout: the problems that were kept as examples. stderr: the number for each check.
    for problem in report.problems:
        print_data(
            escape_line(f"{problem.check}: {' '.join(filter(None, (problem.file, problem.row, problem.detail)))}")
        )
    for check, count in report.counts.items():
        log(f"{check}: {count}")
    if not report.is_valid:
        log(f"compact: {args.release} is not a valid release: {format_count(sum(report.counts.values()), 'problem')}")
        # Not an exception: an invalid release is a result of the check.
        return 1
    log(f"{args.release} is valid: {format_count(sum(report.rows.values()), 'row')}")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from compact_hf.dataset.diff import diff

    difference = diff(args.old, args.new)
    if args.json:
        print_json(difference.to_dict())
    else:
        print_difference(difference)
    return 0


def print_difference(difference: Difference) -> None:
    """Print the tables of a difference to stdout and its one-line summary to stderr."""
    for part in difference.summary():
        if isinstance(part, str):
            log(part)
        else:
            print_table(part.head, part.rows)
