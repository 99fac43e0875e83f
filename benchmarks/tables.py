"""Writes the tables of measurements in README.md and docs/ from docs/figures, where `make figures` puts the results.

    python benchmarks/tables.py

Each table is between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in ("speed.md", "student.md", "tuning.md")))


def render_page(text: str) -> str:
    """Return a page with the tables of the current results in place of those that it has."""
    student = read_result("student")
    tables = {
        "costs": format_costs(read_result("costs")),
        "first_student": format_student(read_result("first_student")["scores"]),
        "queries": format_queries(student["by_query"]),
        "speed": format_speed(),
        "stages": format_stages(student),
        "student": format_student(student["scores"]),
        "training": format_training(read_result("training")),
    }
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)",
        lambda match: f"{match[1]}\n{tables[match[2]]}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def read_result(name: str) -> Any:
    """Return the results that a script printed with --json."""
    return json.loads((ROOT / "docs" / "figures" / f"{name}.json").read_text(encoding="utf-8"))


def format_speed() -> str:
    """Return all measurements of speed and memory but those of training, as a Markdown table."""
    return _format_table(("measurement", "result", "target"), _collect_rows())


def format_costs(result: dict[str, Any]) -> str:
    """Return the costs of generating a dataset as large as the paper's as a Markdown table."""
    rows = []
    for setup in result["ways"]:
        backend = setup["teacher"].partition(":")[0]
        label = f"`--preset {setup['preset']}{' --strict' if setup['strict'] else ''}`, {backend}"
        hours = "within a day" if setup["seconds"] is None else f"{setup['seconds'] / 3600:.0f}"
        rows.append((label, f"{setup['requests']:,}", f"${setup['cost']:,.0f}", hours))
    return _format_table((f"{result['conversations']:,} conversations", "requests", "price", "hours"), rows)


def format_student(scores: dict[str, Any]) -> str:
    """Return the scores of a student by k as a Markdown table, beside those of its base and of the control."""
    rows = []
    for k, tuned in scores["tuned"]["by_k"].items():
        others = (f"{scores[name]['by_k'][k]['accuracy']:.3f}" for name in ("swapped", "aligned"))
        rows.append((k, *_format_score(tuned), *others))
    return _format_table(("k", *_SCORE_COLUMNS, "tuned, with swapped images", "aligned base"), rows)


def format_queries(by_query: dict[str, Any]) -> str:
    """Return the scores of the tuned student by the capability that a question asks for, as a Markdown table."""
    rows = []
    for query, score in by_query["all"].items():
        parts = (by_query[name].get(query) for name in ("tuned", "untuned"))
        cells = (f"{part['accuracy']:.3f} of {part['n']}" if part else "" for part in parts)
        rows.append((query.replace("_", " "), *_format_score(score), *cells))
    return _format_table(("asked for", *_SCORE_COLUMNS, "k = 1 to 3", "k = 4 and 5"), rows)


def format_stages(student: dict[str, Any]) -> str:
    """Return the stages of the student's training as a Markdown table."""
    config, batch = student["config"], student["recipe"]["per_device_train_batch_size"]
    stages = {
        "seeing": (config["seeing"]["batch"], "the vision tower: what each patch shows, and the box of its object"),
        "language": (config["language"]["batch"], "the language model: scenes described in text"),
        "alignment": (
            config["alignment"]["batch"],
            "the whole model: descriptions, counts, points, boxes, sentences and calls about images",
        ),
        "tuning": (batch, "a LoRA on language model and projector: questions with k = 1, 2, 3"),
    }
    rows = []
    for name, (rows_per_step, purpose) in stages.items():
        stage = student[name]
        (_, first), *_, (_, last) = stage["loss"]
        minutes, loss = f"{stage['seconds'] / 60:.0f}", f"{first:.2f} to {last:.2f}"
        rows.append((name, purpose, f"{stage['steps']:,}", str(rows_per_step), minutes, loss))
    return _format_table(("stage", "what is learnt", "steps", "rows per step", "minutes", "loss, first to last"), rows)


_SCORE_COLUMNS = ("questions", "always the most frequent answer", "tuned (95% interval)")


def _format_score(score: dict[str, Any]) -> tuple[str, str, str]:
    """Return the cells of `_SCORE_COLUMNS`."""
    interval = f"{score['low']:.3f} to {score['high']:.3f}"
    return str(score["n"]), f"{score['majority']['accuracy']:.3f}", f"{score['accuracy']:.3f} ({interval})"


def _format_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    separator = "|---" * len(columns) + "|"
    header, *lines = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([header, separator, *lines])


def _collect_rows() -> list[tuple[str, str, str]]:
    """Return all rows of the table (measurement, result, target)."""
    first_steps, scenes = read_result("first_steps"), read_result("scenes")
    rate = scenes["pictures_per_second"]
    rows = [
        ("`compact --help`", f"{first_steps['compact --help']['seconds']:.2f} s", "0.5 s"),
        (
            "the Space: time from its start to its page / to its first answer",
            " / ".join(f"{first_steps[f'the Space: {part}']['seconds']:.0f}" for part in ("page", "answer")) + " s",
            "20 s",
        ),
        ("`make demo` in a fresh clone, including set-up", _format_minutes(first_steps["make demo"]), "12 min"),
        ("`make test` in a fresh clone, including set-up", _format_minutes(first_steps["make test"]), "12 min"),
        (
            "scenes with 3 questions each, drawn per second and core",
            f"{rate['median']:.0f} ({rate['least']:.0f} to {rate['most']:.0f})",
            "100",
        ),
    ]
    return [
        *rows,
        *generation_rows(read_result("generation")),
        *release_rows(read_result("release")),
        *evaluation_rows(read_result("evaluation")),
    ]


def generation_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about generation with the local server."""
    loads = ("64 in flight, 0.3 s", "256 in flight, 1 s")
    low_load, high_load = (result[f"efficient, {load}"] for load in loads)
    paper_run, large_run = result["paper, 64 in flight, 0.3 s"], result["10,000 pictures, 256 in flight, 0.3 s"]
    storm, kill, resume = result["storm"], result["kill -9"], result["resume"]

    def format_both(name: str, spec: str) -> str:
        return f"{low_load[name]:{spec}} / {high_load[name]:{spec}}"

    def format_shares(name: str) -> str:
        return " / ".join(f"{result[f'{name}, {load}']['of ideal']:.2f}" for load in loads)

    max_delay = max(run["loop late ms"] for run in (low_load, high_load))
    return [
        (
            "share of the ideal request rate, 64 in flight at 0.3 s / 256 in flight at 1 s (whole runs)",
            f"{format_both('of ideal', '.2f')} ({format_both('of ideal, whole run', '.2f')})",
            ".95 / .90",
        ),
        ("same without images of 3000 x 2000 pixels", format_shares("efficient, no large picture"), ".95 / .90"),
        ("same with plain aiohttp and prepared requests", format_shares("aiohttp alone"), ""),
        ("same with google-genai in a plain loop", format_shares("google-genai alone"), ""),
        ("accepted questions per second, same loads", format_both("accepted per second", ".0f"), "203 / 240"),
        (
            "CPU seconds per 100 accepted questions, same loads",
            format_both("cpu s per 100 accepted", ".2f"),
            "0.40",
        ),
        (
            "requests per accepted question, `efficient` / `paper`",
            f"{low_load['requests per accepted']:.2f} / {paper_run['requests per accepted']:.2f}",
            "0.80",
        ),
        ("peak memory with 10,000 images, 256 in flight", f"{large_run['peak_mb']} MB", "300 MB"),
        ("size of the journal per image", f"{large_run['journal_kb']:.1f} KB", "5 KB"),
        ("longest delay of the event loop", f"{max_delay:.0f} ms", "50 ms"),
        (
            "resuming with 100,000 finished images, time to the first request",
            f"{resume['seconds to the first request']:.1f} s",
            "5 s",
        ),
        (
            "one minute of 429 responses with 120 images: images lost, requests wasted",
            f"{storm['lost']}, {storm['wasted']}",
            f"0, {storm['allowed']}",
        ),
        ("requests sent again after `kill -9`, 64 in flight", str(kill["sent again"]), "64"),
    ]


def release_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about writing, publishing and reading a dataset."""
    rows, writing, stream = f"{result['rows']:,}", result["written"], result["stream"]
    ours, theirs, inspection = result["publish"], result["push_to_hub"], result["looked"]
    cores = (item["cpu_s"] / item["seconds"] for item in writing["write"])
    time_ratio = (ours["seconds"] - ours["checks_s"]) / theirs["seconds"]
    memory_ratio = ours["peak_mb"] / theirs["peak_mb"]
    lines = [
        (
            f"time to write {rows} rows with images of 100 KB, relative to plain pyarrow",
            f"{writing['ratio']:.2f} ({min(writing['ratios']):.2f} to {max(writing['ratios']):.2f})",
            "1.5",
        ),
        ("cores used for this, of two", f"{max(cores):.1f}", "2"),
        (
            "writing and publishing these rows, relative to `push_to_hub` of `datasets`: time / peak memory",
            f"{time_ratio:.2f} / {memory_ratio:.2f}",
            "1 / 1",
        ),
        ("checks before publishing, which decode every image", f"{ours['checks_s']:.0f} s", ""),
        (
            "inspecting an image the first time / again, from the journal",
            " / ".join(f"{1000 * inspection[time_key] / inspection['rows']:.2f}" for time_key in ("first_s", "again_s"))
            + " ms",
            "",
        ),
    ]
    for step in ("write", "validate", "choose"):
        runs = [run for run in result["peaks"] if run["step"] == step]
        counts = " / ".join(f"{run['rows']:,}" for run in runs)
        target = {"write": "constant, 1,500 MB", "validate": "constant"}.get(step, "")
        lines.append(
            (f"peak memory, {step} {counts} rows", " / ".join(str(run["peak_mb"]) for run in runs) + " MB", target)
        )
    llava_peaks = " / ".join(str(result["llava"][step]["peak_mb"]) for step in ("sample", "annotate"))
    return [
        *lines,
        (
            f"peak memory, LLaVA file of {result['llava']['bytes'] / 1e9:.1f} GB: sampling / annotating",
            f"{llava_peaks} MB",
            "300 MB",
        ),
        (
            "bytes read by a stream of k3, relative to the size of its files / bytes of other files",
            f"{stream['k3 bytes'] / stream['size']:.2f} / {stream['other bytes']}",
            "1 / 0",
        ),
    ]


TRAINING_COLUMNS = {
    "questions_per_second": "questions per second",
    "rows_per_second": "rows per second",
    "tokens_per_question": "tokens per question",
    "of_peak": "share of peak",
    "peak_mb": "peak memory (MB)",
    "waiting_for_rows": "waiting for rows",
    "workers_needed": "workers needed",
}


def format_training(result: dict[str, Any]) -> str:
    """Return the table about tuning as Markdown, with the gains of format and trainer, and the machine."""
    rows = [
        (name, *(["failed"] if "failed" in metrics else (_format_cell(metrics, key) for key in TRAINING_COLUMNS)))
        for name, metrics in result["lines"].items()
    ]
    table = _format_table((result["size"], *TRAINING_COLUMNS.values()), rows)
    gains_text = ", ".join(f"gain of the {name}: {factor:.2f} times" for name, factor in result["gains"].items())
    machine = result["machine"]
    min_load, max_load = machine["load"]
    threads = f", {machine['threads']} of them used for training" if machine["threads"] else ""
    machine_text = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores{threads}, torch {machine['torch']}"
    return "\n".join([table, "", f"{gains_text}; on {machine_text}, load {min_load:.1f} to {max_load:.1f}"])


def evaluation_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows about evaluation."""
    lines = result["lines"]
    loop, ours = lines["loop"], lines["batch 16"]
    speedup = ours["median"] / loop["median"]
    rates = " / ".join(f"{rate['median']:.0f}" for rate in lines.values())
    return [
        (f"questions evaluated per second and core: plain loop / {' / '.join(list(lines)[1:])}", rates, ""),
        (
            "evaluation in batches of 16, speed relative to a plain loop over `generate`, same answers",
            f"{speedup:.1f}",
            "3",
        ),
    ]


def _format_cell(metrics: dict[str, Any], key: str) -> str:
    """Return a cell of the table about tuning."""
    if key == "questions_per_second":
        lowest, highest = metrics["least_and_most"]
        return f"{metrics[key]:.3g} ({lowest:.3g} to {highest:.3g})"
    if key in ("of_peak", "waiting_for_rows"):
        return f"{metrics[key]:.1%}"
    return f"{metrics[key]:,}" if isinstance(metrics[key], int) else f"{metrics[key]:.3g}"


def _format_minutes(run: dict[str, float]) -> str:
    return f"{run['seconds'] / 60:.1f} min"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render_page(page.read_text(encoding="utf-8")), encoding="utf-8")
