"""Tests that the demo only uses an output directory that is empty or of a demo with the same settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_hf.demo.run import run_demo
from compact_hf.errors import SettingsMismatchError, UsageError


def test_a_demo_with_other_settings_is_not_mixed_into_an_earlier_one(tmp_path: Path) -> None:
    """Otherwise the student would have been trained on other images than those in the report."""
    (tmp_path / ".compact-demo").write_text('{"scenes": 400, "steps": 250}')
    with pytest.raises(SettingsMismatchError, match=r"\(scenes was 400, now 50\)"):
        run_demo(tmp_path, scenes=50)
    assert [path.name for path in tmp_path.iterdir()] == [".compact-demo"]


@pytest.mark.parametrize(
    ("settings", "error"), [({"scenes": 39}, "39 scenes are too few"), ({"steps": 0}, "at least 1")]
)
def test_a_demo_too_small_to_train_writes_nothing(tmp_path: Path, settings: dict[str, int], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        run_demo(tmp_path / "demo", **settings)
    assert not (tmp_path / "demo").exists()


def test_a_demo_whose_settings_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".compact-demo").touch()
    with pytest.raises(UsageError, match=r"is damaged .*; restore it from a copy, or give another --out"):
        run_demo(tmp_path, scenes=50)
