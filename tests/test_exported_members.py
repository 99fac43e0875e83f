"""Checks the public names of compact_hf: sorted, complete, imported on first use, and all of them exist."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

import compact_hf

HEAVY = ("torch", "transformers", "trl", "datasets", "google.genai", "matplotlib", "pyarrow", "pydantic", "PIL")


def test_the_names_are_sorted_and_each_leads_somewhere() -> None:
    assert compact_hf.__all__ == sorted(compact_hf.__all__)
    for name in compact_hf.__all__:
        assert callable(getattr(compact_hf, name)), name
        assert name in dir(compact_hf)


def public_functions() -> dict[str, Any]:
    members = {name: getattr(compact_hf, name) for name in compact_hf.__all__}
    return {name: member for name, member in members.items() if inspect.isfunction(member)}


def test_every_public_function_says_what_it_raises() -> None:
    for name, function in public_functions().items():
        assert "Raises:" in function.__doc__, name


def test_what_a_function_returns_is_public_too() -> None:
    for name, function in public_functions().items():
        annotation = inspect.signature(function).return_annotation
        for kind in re.findall(r"[A-Z]\w+", annotation.replace("Path", "").replace("Any", "")):
            assert kind in compact_hf.__all__, f"{name} returns {annotation}"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'anotate'"):
        _ = compact_hf.anotate


@pytest.mark.parametrize("what", ["import compact_hf", "from compact_hf.cli.main import make_parser; make_parser()"])
def test_nothing_heavy_is_imported_before_it_is_used(what: str) -> None:
    code = f"{what}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
