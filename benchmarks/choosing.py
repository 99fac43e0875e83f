"""Measures the memory that the selection of questions needs: `python benchmarks/choosing.py [--rows N] [--json]`.

The input is images with four or five questions each (release_data.py). The steps are those of `compact assemble
--balance` and of a `Selection`: drop near-duplicates, take two or three questions per image so that capabilities are
balanced, and select half as many questions as there are images. The result of each step is its peak memory, minus that
of a process that has processed 100 images, divided by the number of images. A million images take about 15 minutes on
one idle core. Linux only.
"""

from __future__ import annotations

import argparse
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from release_data import make_turns

from compact_hf.methods.compact.balance import balance_questions
from compact_hf.methods.compact.catalog import QuestionCatalog
from compact_hf.methods.compact.selection import Selection, select_questions
from compact_hf.methods.near_duplicates import NearDuplicates
from compact_hf.records import digest

MIN_TURNS = 2
WARM_UP_ROWS = 100


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of images (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    result = measure(args.rows)
    print(json.dumps(result) if args.json else format_table(result))


def measure(rows: int) -> dict[str, Any]:
    """Return the number of rows, and the memory of each step in bytes per row."""
    for _ in choose(WARM_UP_ROWS):  # so that imports are not counted
        pass
    reset_peak()
    bytes_before, parts = read_peak_bytes(), {}
    for part in choose(rows):
        parts[part] = (read_peak_bytes() - bytes_before) / rows
        reset_peak()
    return {"rows": rows, "bytes a row": parts}


def choose(rows: int) -> Iterator[str]:
    """Run the steps, and yield the name of each one when it is done."""
    near_duplicates = NearDuplicates()
    catalog = QuestionCatalog()
    turn_positions = array("H")  # as in rows.py
    for number in range(rows):
        turns = make_turns(number)
        repeats = near_duplicates.add_new(turns, min_turns=MIN_TURNS)
        kept = [position for position, repeat in enumerate(repeats) if repeat is None]
        if len(kept) >= MIN_TURNS:
            catalog.append(f"{number:08x}{digest(number)[8:]}", (turns[position].capabilities for position in kept))
            turn_positions.extend(kept)
    del near_duplicates
    yield "near duplicates"
    balance_questions(catalog)
    yield "balance"
    select_questions(catalog, Selection(questions=max(1, rows // 2)))
    yield "selection"


def reset_peak() -> None:
    """Reset the peak memory of this process to its current memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def read_peak_bytes() -> int:
    """Return the peak memory of this process since the last reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def format_table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = [f"| {result['rows']:,} rows | bytes per row |", "|---|---|"]
    lines += [f"| {part} | {count:.0f} |" for part, count in result["bytes a row"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
