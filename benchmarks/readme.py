"""The tables of figures in README and docs/speed.md, from the files that the other scripts wrote.

    make figures                     # runs the scripts and writes docs/figures/*.json, about an hour
    python benchmarks/readme.py      # prints the tables

Some of the files say on which machine they were read; docs/speed.md says it of all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
IN_README = (
    "`compact --help`",
    "the Space",
    "`make demo` from nothing",
    "share of the ideal",
    "accepted questions a second",
    "requests per accepted question",
    "resuming with 100,000",
    "peak memory, write",
    "bytes that a stream of k3",
    "judging in batches",
)
"""How the rows begin that README has; docs/speed.md has all."""


def read(name: str) -> Any:
    """Return what a script printed with --json."""
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def table(beginnings: tuple[str, ...] = ("",)) -> str:
    """Return the rows that begin with one of these words, as a table in Markdown."""
    rows = [row for row in _rows() if row[0].startswith(beginnings)]
    return "\n".join(["| what | measured | wanted |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def costs(found: dict[str, Any]) -> str:
    """Return what the paper's data set takes to make, as Markdown."""
    lines = [f"| {found['conversations']:,} conversations | requests | price | hours |", "|---|---|---|---|"]
    for way in found["ways"]:
        what = f"`--preset {way['preset']}{' --strict' if way['strict'] else ''}`, {way['teacher'].partition(':')[0]}"
        hours = "within a day" if way["seconds"] is None else f"{way['seconds'] / 3600:.0f}"
        lines.append(f"| {what} | {way['requests']:,} | ${way['cost']:,.0f} | {hours} |")
    return "\n".join(lines)


def _rows() -> list[tuple[str, str, str]]:
    steps, scenes = read("first_steps"), read("scenes")
    rate = scenes["pictures_per_second"]
    rows = [
        ("`compact --help`", f"{steps['compact --help']['seconds']:.2f} s", "0.5 s"),
        (
            "the Space, from its start to its page / to its first answer",
            " / ".join(f"{steps[f'the Space: {part}']['seconds']:.0f}" for part in ("page", "answer")) + " s",
            "20 s",
        ),
        ("`make demo` from nothing, set-up included", _minutes(steps["make demo"]), "12 min"),
        ("`make test` from nothing, set-up included", _minutes(steps["make test"]), "15 min"),
        (
            "scenes drawn and asked 3 questions each, a second and core",
            f"{rate['median']:.0f} ({rate['least']:.0f} to {rate['most']:.0f})",
            "100",
        ),
    ]
    return [*rows, *generation(read("generation")), *release(read("release")), *evaluation(read("evaluation"))]


def generation(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about generating against the local server."""
    quick, wide = (found[f"efficient, {load}"] for load in ("64 in flight, 0.3 s", "256 in flight, 1 s"))
    alone = (found[f"google-genai alone, {load}"] for load in ("64 in flight, 0.3 s", "256 in flight, 1 s"))
    paper, many = found["paper, 64 in flight, 0.3 s"], found["10,000 pictures, 256 in flight, 0.3 s"]
    storm, kill, resume = found["storm"], found["kill -9"], found["resume"]

    def both(name: str, form: str) -> str:
        return f"{quick[name]:{form}} / {wide[name]:{form}}"

    of_alone = " / ".join(f"{one['of ideal']:.2f}" for one in alone)
    late = max(one["loop late ms"] for one in (quick, wide))
    return [
        (
            "share of the ideal request rate, 64 in flight x 0.3 s / 256 x 1 s (whole runs)",
            f"{both('of ideal', '.2f')} ({both('of ideal, whole run', '.2f')})",
            ".95 / .90",
        ),
        ("the same with google-genai in a plain loop", of_alone, ""),
        ("accepted questions a second, the same loads", both("accepted per second", ".0f"), "203 / 240"),
        ("CPU seconds per 100 accepted questions, the same loads", both("cpu s per 100 accepted", ".2f"), "0.40"),
        (
            "requests per accepted question, `efficient` / `paper`",
            f"{quick['requests per accepted']:.2f} / {paper['requests per accepted']:.2f}",
            "0.80",
        ),
        ("peak memory over 10,000 pictures, 256 in flight", f"{many['peak_mb']} MB", "300 MB"),
        ("journal, per picture", f"{many['journal_kb']:.1f} KB", "5 KB"),
        ("longest wait of the event loop", f"{late:.0f} ms", "50 ms"),
        (
            "resuming with 100,000 pictures finished, to the first request",
            f"{resume['seconds to the first request']:.1f} s",
            "5 s",
        ),
        (
            "a minute of 429s over 120 pictures: pictures lost, requests wasted",
            f"{storm['lost']}, {storm['wasted']}",
            f"0, {storm['allowed']}",
        ),
        ("requests sent again after `kill -9`, 64 in flight", str(kill["sent again"]), "64"),
    ]


def release(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about writing, publishing and reading a release."""
    rows, written, streamed = f"{found['rows']:,}", found["written"], found["stream"]
    ours, theirs, looked = found["publish"], found["push_to_hub"], found["looked"]
    cores = (one["cpu_s"] / one["seconds"] for one in written["write"])
    time = (ours["seconds"] - ours["checks_s"]) / theirs["seconds"]
    memory = ours["peak_mb"] / theirs["peak_mb"]
    lines = [
        (
            f"writing {rows} rows of 100 KB pictures, by what pyarrow alone takes",
            f"{written['ratio']:.2f} ({min(written['ratios']):.2f} to {max(written['ratios']):.2f})",
            "1.5",
        ),
        ("cores that it uses, of two", f"{max(cores):.1f}", "2"),
        (
            "writing and publishing them, by `push_to_hub` of `datasets`: time / peak memory",
            f"{time:.2f} / {memory:.2f}",
            "1 / 1",
        ),
        ("checks before that, every picture decoded", f"{ours['checks_s']:.0f} s", ""),
        (
            "first look at a picture / again, from the journal",
            " / ".join(f"{1000 * looked[time] / looked['rows']:.2f}" for time in ("first_s", "again_s")) + " ms",
            "",
        ),
    ]
    for step in ("write", "validate", "choose"):
        runs = [run for run in found["peaks"] if run["step"] == step]
        counts = " / ".join(f"{run['rows']:,}" for run in runs)
        wanted = {"write": "flat, 1,500 MB", "validate": "flat"}.get(step, "")
        lines.append(
            (f"peak memory, {step} {counts} rows", " / ".join(str(run["peak_mb"]) for run in runs) + " MB", wanted)
        )
    read = " / ".join(str(found["llava"][step]["peak_mb"]) for step in ("sample", "annotate"))
    return [
        *lines,
        (
            f"peak memory, a LLaVA file of {found['llava']['bytes'] / 1e9:.1f} GB: drawn from / annotated",
            f"{read} MB",
            "300 MB",
        ),
        (
            "bytes that a stream of k3 takes, by the size of k3's file / of other files",
            f"{streamed['k3 bytes'] / streamed['size']:.2f} / {streamed['other bytes']}",
            "1 / 0",
        ),
    ]


TRAINED = {
    "questions_per_second": "questions a second",
    "rows_per_second": "rows a second",
    "tokens_per_question": "tokens a question",
    "of_peak": "of peak",
    "peak_mb": "peak MB",
    "waiting_for_rows": "waiting for rows",
    "workers_needed": "workers",
}


def training(found: dict[str, Any]) -> str:
    """Return the table about tuning as Markdown, with what each part gains and the machine that it was read on."""
    rows = [f"| {found['size']} | {' | '.join(TRAINED.values())} |", "|---" * (len(TRAINED) + 1) + "|"]
    for name, figures in found["lines"].items():
        cells = ["no figure"] if "failed" in figures else [_cell(figures, key) for key in TRAINED]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    gained = ", ".join(f"the {name} gains {times:.2f} times" for name, times in found["gains"].items())
    machine = found["machine"]
    least, most = machine["load"]
    threads = f", {machine['threads']} of them training" if machine["threads"] else ""
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores{threads}, torch {machine['torch']}"
    return "\n".join([*rows, "", f"{gained}; on {where}, load {least:.1f} to {most:.1f}"])


def evaluation(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about judging."""
    lines = found["lines"]
    loop, ours = lines["loop"], lines["batch 16"]
    times = ours["median"] / loop["median"]
    rates = " / ".join(f"{one['median']:.0f}" for one in lines.values())
    return [
        (f"questions judged a second and core: plain loop / {' / '.join(list(lines)[1:])}", rates, ""),
        ("judging in batches of 16, by a plain loop over `generate` with the same answers", f"{times:.1f}", "3"),
    ]


def _cell(figures: dict[str, Any], key: str) -> str:
    if key == "questions_per_second":
        least, most = figures["least_and_most"]
        return f"{figures[key]:.3g} ({least:.3g} to {most:.3g})"
    if key in ("of_peak", "waiting_for_rows"):
        return f"{figures[key]:.1%}"
    return f"{figures[key]:,}" if isinstance(figures[key], int) else f"{figures[key]:.3g}"


def _minutes(run: dict[str, float]) -> str:
    return f"{run['seconds'] / 60:.1f} min"


if __name__ == "__main__":
    print(costs(read("costs")), table(IN_README), table(), training(read("training")), sep="\n\n")
