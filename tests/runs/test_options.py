"""Tests of options classes: their fields are keywords and flags, and their docstrings document each field."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import UsageError
from compact_hf.methods.annotate.annotate import annotate
from compact_hf.methods.augment.augment import augment
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.generate import generate
from compact_hf.methods.registry import list_methods
from compact_hf.runs.options import RunLimits, RunOptions, iter_fields
from tests.test_docstrings import described_names

RUN_NAMES = {item.name for item in iter_fields(RunOptions)}


@pytest.mark.parametrize("options", [RunOptions, *(method.options for method in list_methods().values())])
def test_docstrings_describe_every_option_and_nothing_else(options: type) -> None:
    described = {
        name for base in options.__mro__ for name in described_names(inspect.cleandoc(base.__doc__ or ""), "Attributes")
    }
    assert described == {item.name for item in iter_fields(options)}


@pytest.mark.parametrize(
    ("function", "own", "rest"),
    [
        (generate, {"method", "ks", "preset", "strict"}, {"options"}),
        (dry_run, {"method", "ks", "preset", "strict"}, {"options"}),
        (annotate, {"split", "image_root"}, set()),
        (augment, {"split", "image_root", "strict"}, set()),
    ],
)
def test_help_lists_the_real_keywords(function: Callable[..., Any], own: set[str], rest: set[str]) -> None:
    source, out, *keywords = inspect.signature(function).parameters.values()
    assert (source.kind, out.name) == (inspect.Parameter.POSITIONAL_OR_KEYWORD, "out")
    assert {item.name for item in keywords} == own | RUN_NAMES | rest
    assert inspect.signature(function).parameters["concurrency"].default == 16
    described = described_names(inspect.getdoc(function) or "", "Options")
    assert set(described) == (own | RUN_NAMES) - {"method"}


@pytest.mark.parametrize("options", [{"limit": 0}, {"concurrency": 0}, {"rpm": 0.0}, {"max_cost": float("inf")}])
def test_a_limit_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"got --{name.replace('_', '-')} "):
        RunOptions(**options)
    with pytest.raises(UsageError, match=f"got --{name.replace('_', '-')} "):
        RunLimits(**options)


def test_a_keyword_that_is_mistyped_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'limt' for the method compact; did you mean limit"
    ):
        generate("scenes:2", "run", limt=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'teacherr' for the method annotate; did you mean teacher"):
        annotate("data", "run", teacherr="x")  # type: ignore[call-arg]


def test_annotate_refuses_a_teacher_whom_it_would_not_ask(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"id": "1", "image": "scene:3", "conversations": []}]', encoding="utf-8")
    for options, flag in (({"teacher": "gemini"}, "--teacher"), ({"noise": 0.5}, "--noise")):
        with pytest.raises(UsageError, match=f"omit {flag}"):
            annotate(str(tmp_path / "data.json"), tmp_path / "run", image_root="scenes:5", **options)  # type: ignore[arg-type]


CALLS = """
from compact_hf import annotate, augment, generate
generate("photos", "run", limit=20, ks=(1,), preset="efficient", on_wait=print)
generate(source="photos", out="run", method="captions", tone="lively")
annotate(dataset="photos", out="run", split="train", limit=3)
generate("photos", "run", limt=20)  # wrong
generate("photos", "run", limit="x")  # wrong
annotate("photos", "run", ks=(1,))  # wrong
augment("photos", "run", strct=True)  # wrong
"""


@pytest.mark.slow
def test_a_type_checker_checks_the_keywords(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS.lstrip(), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "calls.py")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    lines = {int(line.split(":")[1]) for line in process.stdout.splitlines() if ": error:" in line}
    assert lines == {number for number, line in enumerate(CALLS.lstrip().splitlines(), 1) if line.endswith("# wrong")}
