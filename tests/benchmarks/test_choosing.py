"""Tests that benchmarks/choosing.py measures the memory of each step, and that it is below a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables

MAX_BYTES_A_ROW = 300


def measure(rows: int) -> dict[str, Any]:
    """Return the results of the script, run in a new process; a forked process could reuse memory of its parent."""
    script = Path(tables.__file__).with_name("choosing.py")
    command = [sys.executable, script, "--rows", str(rows), "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return dict(json.loads(process.stdout))


def test_each_part_is_measured() -> None:
    result = measure(2000)
    assert list(result["bytes a row"]) == ["near duplicates", "balance", "selection"]
    assert result["bytes a row"]["near duplicates"] > 100


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_choosing_among_a_million_rows_takes_less_than_300_bytes_a_row() -> None:
    assert max(measure(1_000_000)["bytes a row"].values()) < MAX_BYTES_A_ROW
