"""Tests benchmarks/release.py with few rows, so that it takes seconds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import tables
from tests import preforked

BENCHMARKS = Path(tables.__file__).parent


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("benchmarks.release")  # by a name that spawned processes can import


@pytest.mark.slow
def test_every_figure_is_measured_and_shown(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that use the local server for the Hub run in their own processes; the others run here, to be faster."""

    def run(step: str, *, environment: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
        arguments = json.dumps(options, default=str)
        if environment is None:
            return dict(release.STEPS[step](json.loads(arguments)))
        process = preforked.run([sys.executable, BENCHMARKS / "release.py", "--step", step, arguments], env=environment)
        assert process.returncode == 0, process.stderr
        return dict(json.loads(process.stdout))

    monkeypatch.setattr(release, "run", run)
    monkeypatch.setenv("GEMINI_API_KEY", "unset when the test ends")
    result = json.loads(json.dumps(release.measure(tmp_path, rows=60, max_rows=90, llava_mb=0.3, repetitions=1)))
    assert list(tmp_path.glob("*.parquet")) == [], "the measured files are deleted"
    steps = [(peak["step"], peak["rows"]) for peak in result["peaks"]]
    assert steps == [
        ("write", 3), ("validate", 3), ("choose", 3), ("write", 60), ("validate", 60), ("choose", 60), ("write", 90),
    ]  # fmt: skip
    assert result["written"]["ratio"] == result["written"]["ratios"][0] > 0
    assert 0 < result["publish"]["checks_s"] < result["publish"]["seconds"]
    streamed = result["stream"]
    assert streamed["size"] <= streamed["k3 bytes"] < streamed["size"] + 2**17, "the footer is read twice"
    assert (streamed["rows"] > 10, streamed["other bytes"]) == (True, 0)
    sample, annotated = result["llava"]["sample"], result["llava"]["annotate"]
    assert (sample["rows"], sample["rejected"]) == (10, 0)
    assert 180 < annotated["questions"] <= 200, "ten images and a copy of each, with two items of five questions each"
    assert release.format_table(result).count("\n| ") == 2 + 7 + 2 + 1 + 1 + 2
    for label, figure, target in tables.release_rows(result):
        assert label
        assert figure.strip(" /"), (label, target)
