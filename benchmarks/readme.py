"""README's table of figures, from the files that the other scripts wrote.

    make figures                     # runs the scripts and writes docs/figures/*.json, about half an hour
    python benchmarks/readme.py      # prints the table

The files say on which machine they were read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def read(name: str) -> Any:
    """Return what a script printed with --json."""
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def table() -> str:
    """Return the table as Markdown."""
    steps, scenes = read("first_steps"), read("scenes")
    rate = scenes["pictures_per_second"]
    rows = [
        ("`compact --help`", f"{steps['compact --help']['seconds']:.2f} s", "0.5 s"),
        ("`make demo` from nothing, set-up included", _minutes(steps["make demo"]), "12 min"),
        ("`make test` from nothing, set-up included", _minutes(steps["make test"]), "15 min"),
        (
            "scenes drawn and asked 3 questions each, a second and core",
            f"{rate['median']:.0f} ({rate['least']:.0f} to {rate['most']:.0f})",
            "100",
        ),
    ]
    for step in ("write", "validate"):
        runs = [run for run in read("assembly")["assembly"] if run["step"] == step]
        counts = " / ".join(f"{run['rows']:,}" for run in runs)
        peaks = " / ".join(str(run["peak_mb"]) for run in runs)
        rows.append((f"peak memory, {step} {counts} rows of 30 KB pictures", f"{peaks} MB", "flat"))
    lines = ["| what | measured | wanted |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _minutes(run: dict[str, float]) -> str:
    return f"{run['seconds'] / 60:.1f} min"


if __name__ == "__main__":
    print(table())
