"""Whether this tree is slower than an earlier commit: `python benchmarks/compare.py REV [--rounds N] [--only NAMES]`.

Runs benchmarks in pairs, this tree (with what is not committed) and REV, which is checked out into a temporary
worktree. Both use the same interpreter, environment, inputs and Gemini server; the order changes from pair to pair.
About ten minutes on two quiet cores; `--rounds 3 --only help,generation` takes under three.

    help        `compact --help`, the fastest of five starts
    generation  `compact generate` of 400 photographs against the local Gemini server, the whole process
    scenes      `compact generate` of 200 scenes by the teacher `scenes`, offline
    writing     `compact assemble` of 2,000 rows
    judging     `evaluate` of the tiny student on 60 reserved scenes, after a first call that is not timed
    tune        `compact tune tiny-cpu` of one step, the whole process

The table has seconds on the wall and CPU seconds of all processes. A ratio is this tree / REV: the median of the pairs,
with the least and the most. `noise` is the standard deviation of REV's own runs. A line is slower (or faster) only if
the pairs agree, in at least three rounds, that the ratio is beyond 1 by more than 2% and more than twice the noise by
the square root of the rounds. Up to eight rounds every pair has to agree, of nine rounds one may disagree, of sixteen
three. `unclear` is a median beyond that limit with more pairs that disagree: run more rounds, or on a quieter machine.
Other work on the machine makes wall times noisy first: then CPU seconds are the better guide.
Exit status: 0 measured (slower or not), 1 a benchmark failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

if __package__:
    from benchmarks.compared import (
        BENCHMARKS,
        ROOT,
        BenchmarkError,
        Inputs,
        ProcessRunner,
        Seconds,
        Tree,
        checkout_worktree,
        git,
    )
else:
    from compared import BENCHMARKS, ROOT, BenchmarkError, Inputs, ProcessRunner, Seconds, Tree, checkout_worktree, git

MARGIN: Final = 0.02
MIN_PAIRS: Final = 3
SIGNIFICANCE_LEVEL: Final = 1 / 32
"""How likely pairs may agree by chance, if nothing differs, and still count: as all of five pairs on one side."""

Pair = tuple[float, float]
"""Seconds of this tree and of REV in one round."""


@dataclass(frozen=True)
class BenchmarkComparison:
    """One line of the table.

    Attributes:
        ratio, least, most (`float`): this tree / REV, the median of the pairs and their range.
        this_s, rev_s (`float`): the median seconds of either side.
        noise (`float`): the standard deviation of REV's runs, as a part of their median.
        verdict (`str`)
        pairs (`tuple[Pair, ...]`): what was measured, by round.
    """

    ratio: float
    least: float
    most: float
    this_s: float
    rev_s: float
    noise: float
    verdict: str
    pairs: tuple[Pair, ...]


def compare_pairs(pairs: Sequence[Pair]) -> BenchmarkComparison:
    """Return what the pairs of one benchmark show."""
    ratios = [this / rev for this, rev in pairs]
    this_s, rev_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    # Of few runs some lie close together by luck: the median distance would call them quiet, the deviation does not.
    noise = statistics.stdev(rev for _, rev in pairs) / rev_s if len(pairs) > 1 else 0.0
    return BenchmarkComparison(
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        this_s=this_s,
        rev_s=rev_s,
        noise=noise,
        verdict=verdict(ratios, noise),
        pairs=tuple(pairs),
    )


def verdict(ratios: Sequence[float], noise: float) -> str:
    """Return what the ratios of the pairs allow to say."""
    count = len(ratios)
    if count < MIN_PAIRS:
        return "too few rounds"
    limit = 1 + max(MARGIN, noise * 2 / math.sqrt(count))
    trimmed_ratios = sorted(ratios)[count_allowed_outliers(count) : count - count_allowed_outliers(count)]
    if trimmed_ratios[0] > limit:
        return "slower"
    if trimmed_ratios[-1] < 1 / limit:
        return "faster"
    return "no difference within the spread" if 1 / limit <= statistics.median(ratios) <= limit else "unclear"


def count_allowed_outliers(count: int) -> int:
    """Return how many of the pairs may disagree."""
    allowed = 0
    while sum(math.comb(count, disagreeing) for disagreeing in range(allowed + 2)) <= SIGNIFICANCE_LEVEL * 2**count:
        allowed += 1
    return allowed


def run_benchmark(
    name: str, this_tree: Tree, rev_tree: Tree, *, rounds: int, processes: ProcessRunner, inputs: Inputs
) -> dict[str, Any]:
    """Return the comparisons of one benchmark, of seconds on the wall and of CPU seconds; raises `BenchmarkError`."""
    benchmark = BENCHMARKS[name]
    timings: dict[Tree, list[Seconds]] = {this_tree: [], rev_tree: []}
    log_progress(f"{name}: inputs, and a first run that does not count")
    processes.measure(rev_tree, lambda out: benchmark(inputs, out))
    for number in range(rounds):
        for tree in (this_tree, rev_tree) if number % 2 == 0 else (rev_tree, this_tree):
            timings[tree].append(processes.measure(tree, lambda out: benchmark(inputs, out)))
        log_progress(
            f"{name}: round {number + 1} of {rounds}, "
            + ", ".join(f"{tree.name} {runs[-1].wall:.2f} s" for tree, runs in timings.items())
        )
    return {
        clock: asdict(compare_pairs([(getattr(ours, clock), getattr(theirs, clock)) for ours, theirs in rows]))
        for rows in [list(zip(timings[this_tree], timings[rev_tree], strict=True))]
        for clock in Seconds._fields
    }


def run_benchmarks(names: Sequence[str], revision: str, commit: str, rounds: int) -> dict[str, Any]:
    """Return all comparisons, and by benchmark what failed."""
    loads = [os.getloadavg()[0]]
    comparisons: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="compact-compare-") as directory, ExitStack() as exit_stack:
        scratch = Path(directory)
        worktree = exit_stack.enter_context(checkout_worktree(commit, scratch / "tree"))
        log_progress(f"{revision} is checked out: {worktree}")
        this_tree, rev_tree = Tree("this tree", ROOT), Tree(f"{revision} ({commit[:7]})", worktree)
        processes = ProcessRunner(scratch)
        inputs = Inputs(scratch, processes, rev_tree, exit_stack)
        for tree in (this_tree, rev_tree):
            processes.compile(tree)
        for name in names:
            try:
                comparisons[name] = run_benchmark(
                    name, this_tree, rev_tree, rounds=rounds, processes=processes, inputs=inputs
                )
            except BenchmarkError as error:
                failures[name] = str(error)
                log_progress(f"{name} failed: {error}")
            loads.append(os.getloadavg()[0])
    return {
        "this": {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "rev": {"name": revision, "commit": commit},
        "rounds": rounds,
        "machine": {"cores": os.cpu_count(), "load": [min(loads), max(loads)]},
        "benchmarks": comparisons,
        "failed": failures,
    }


def format_table(result: dict[str, Any]) -> str:
    """Return the comparisons as Markdown."""
    this, rev, machine = result["this"], result["rev"], result["machine"]
    lines = ["| benchmark | seconds | this / REV | range | this s | REV s | noise | verdict |", "|---" * 8 + "|"]
    for name, clocks in result["benchmarks"].items():
        for clock, row in clocks.items():
            lines.append(
                f"| {name} | {clock} | {row['ratio']:.3f} | {row['least']:.3f} to {row['most']:.3f} "
                f"| {row['this_s']:.2f} | {row['rev_s']:.2f} | ±{row['noise']:.1%} | {row['verdict']} |"
            )
    lines += [f"| {name} | failed: {message} |" for name, message in result["failed"].items()]
    lines.append(
        f"\n{result['rounds']} rounds; this tree: {this['commit'][:7]}{' with changes' if this['changed'] else ''}, "
        f"REV: {rev['name']} ({rev['commit'][:7]}); {machine['cores']} cores, "
        f"load {machine['load'][0]:.1f} to {machine['load'][1]:.1f}"
    )
    return "\n".join(lines)


def log_progress(message: str) -> None:
    """Print a line of progress."""
    print(message, file=sys.stderr, flush=True)


def resolve_commit(revision: str) -> str:
    """Return the commit that a revision names; raises `ValueError`."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        message = f"{revision!r} is no commit here (git rev-parse): give a commit, branch or tag of this checkout"
        raise ValueError(message) from error


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="the commit to compare with: a branch, a tag, HEAD~3")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of each benchmark (%(default)s)")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    args.names = args.only.split(",") if args.only else list(BENCHMARKS)
    if unknown := [name for name in args.names if name not in BENCHMARKS]:
        exit_with(f"--only {unknown[0]!r} is no benchmark: give some of {','.join(BENCHMARKS)}")
    if args.rounds < 1:
        exit_with(f"--rounds {args.rounds} is too few: give 1 or more")
    try:
        args.commit = resolve_commit(args.revision)
    except ValueError as error:
        exit_with(str(error))
    return args


def exit_with(message: str) -> None:
    """Print an error of usage in one line, and exit."""
    print(f"compare.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    args = parse_args(arguments)
    # Ended by a signal, Python would leave the worktree behind.
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.path.insert(0, str(ROOT))  # the server is this tree's, whatever is installed
    try:
        result = run_benchmarks(list(dict.fromkeys(args.names)), args.revision, args.commit, args.rounds)
    except KeyboardInterrupt:
        log_progress("compare.py: interrupted; the worktree is removed")
        return 128 + signal.SIGINT
    except BenchmarkError as error:
        log_progress(f"compare.py: {error}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    print(json.dumps(result, indent=2) if args.json else format_table(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
