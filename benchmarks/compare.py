"""Compares the speed of this tree with a commit: `python benchmarks/compare.py REV [--rounds N] [--only NAMES]`.

The benchmarks are run in pairs: this tree, including uncommitted changes, and REV, which is checked out into a
temporary worktree. Both use the same interpreter, environment, inputs and Gemini server. The order alternates from pair
to pair. All benchmarks take about ten minutes on two idle cores; `--rounds 3 --only help,generation` under three.

    help        `compact --help`, the fastest of five starts
    generation  `compact generate` with 400 photographs and the local Gemini server, the whole process
    scenes      `compact generate` with 200 scenes and the teacher `scenes`, offline
    writing     `compact assemble` with 2,000 rows
    judging     `evaluate` of the tiny student on 60 reserved scenes, after a first call that is not timed
    tune        `compact tune tiny-cpu` with one step, the whole process

The table has wall time and CPU time of all processes in seconds. A ratio is this tree / REV: the median of the pairs,
with minimum and maximum. `noise` is the standard deviation of the runs of REV.

The verdict is "slower" (or "faster") if, in at least three rounds, the pairs agree that the ratio differs from 1 by
more than 2% and by more than 2 * noise / sqrt(rounds). With up to eight rounds all pairs have to agree; with nine
rounds one may disagree, with sixteen three. The verdict is "unclear" if the median is outside this limit but more pairs
disagree: run more rounds, or use an idle machine. Other work on the machine affects wall time more than CPU time.

Exit status: 0 if all benchmarks were measured (slower or not), 1 if one failed, 2 for wrong usage.
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

MARGIN: Final = 0.02  # differences of up to 2% are ignored
MIN_PAIRS: Final = 3
SIGNIFICANCE_LEVEL: Final = 1 / 32
"""Probability with which pairs may agree by chance if nothing differs: that of five pairs all on the same side.

It is one-sided: of five pairs without a difference, all are slower with a probability of 1 / 2**5.
"""

Pair = tuple[float, float]
"""Seconds of this tree and of REV in the same round."""


@dataclass(frozen=True)
class BenchmarkComparison:
    """One row of the table.

    Attributes:
        ratio (`float`): this tree / REV, the median of the pairs.
        least (`float`): smallest ratio of a pair.
        most (`float`): largest ratio of a pair.
        this_s (`float`): median seconds of this tree.
        rev_s (`float`): median seconds of REV.
        noise (`float`): standard deviation of the runs of REV, relative to their median.
        verdict (`str`): result of `verdict`.
        pairs (`tuple[Pair, ...]`): the measured seconds of each round.
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
    """Return the statistics and the verdict for the pairs of one benchmark."""
    ratios = [this / rev for this, rev in pairs]
    this_s, rev_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    # With few runs, some are close together by chance. The median distance would be small then; the deviation is not.
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
    """Return `slower`, `faster`, or why neither can be said."""
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
    """Return how many of `count` pairs may disagree so that the verdict keeps its significance level (a sign test)."""
    allowed = 0
    while sum(math.comb(count, disagreeing) for disagreeing in range(allowed + 2)) <= SIGNIFICANCE_LEVEL * 2**count:
        allowed += 1
    return allowed


def run_benchmark(
    name: str, this_tree: Tree, rev_tree: Tree, *, rounds: int, processes: ProcessRunner, inputs: Inputs
) -> dict[str, Any]:
    """Return the comparisons of wall time and CPU time for one benchmark; raises `BenchmarkError`."""
    benchmark = BENCHMARKS[name]
    timings: dict[Tree, list[Seconds]] = {this_tree: [], rev_tree: []}
    log_progress(f"{name}: preparing inputs, then a warm-up run")
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
    """Return the comparisons of all benchmarks, and the error messages of those that failed."""
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
    """Return the comparisons as a Markdown table."""
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
    """Print a line of progress to stderr."""
    print(message, file=sys.stderr, flush=True)


def resolve_commit(revision: str) -> str:
    """Return the commit that a revision names; raises `ValueError`."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        message = f"{revision!r} is not a commit (git rev-parse): give a commit, branch or tag of this repository"
        raise ValueError(message) from error


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exit with status 2 if they are invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="commit to compare with, such as a branch, a tag or HEAD~3")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="number of pairs per benchmark (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="NAMES", help=f"benchmarks to run, of {','.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    args.names = args.only.split(",") if args.only else list(BENCHMARKS)
    if unknown := [name for name in args.names if name not in BENCHMARKS]:
        exit_with(f"--only {unknown[0]!r} is not a benchmark: give some of {','.join(BENCHMARKS)}")
    if args.rounds < 1:
        exit_with(f"--rounds {args.rounds} is too few: give 1 or more")
    try:
        args.commit = resolve_commit(args.revision)
    except ValueError as error:
        exit_with(str(error))
    return args


def exit_with(message: str) -> None:
    """Print a usage error in one line and exit with status 2."""
    print(f"compare.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the results, and return the exit status."""
    args = parse_args(arguments)
    # By default SIGTERM would end Python without removing the worktree.
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.path.insert(0, str(ROOT))  # use the server of this tree, not of an installed package
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
