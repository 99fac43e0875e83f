"""`tune` runs the real `trl sft` on a real small release, here and for its errors."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from compact_hf.errors import TuningError
from compact_hf.tuning.tiny import build_tiny
from compact_hf.tuning.train import tune
from tests.tuning.samples import release, texts


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tuning")
    build_tiny(folder / "tiny", texts(24), seed=0)
    release(folder / "release", rows=24, text_rows=4)
    return {"model_name_or_path": str(folder / "tiny"), "dataset_name": str(folder / "release"), "max_steps": "20"}


def test_a_short_run_on_rows_with_and_without_pictures_learns_and_leaves_model_curve_and_log(
    overrides: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out, lines = tmp_path / "student", []
    result = tune(
        "tiny-cpu",
        overrides={**overrides, "dataset_config": "all", "output_dir": str(out)},
        log=tmp_path / "log",
        on_line=lines.append,
    )
    assert (result.output_dir, result.steps) == (out, 20)
    (first, before), (last, after) = result.loss
    assert (first, last) == (10, 20)
    assert after < before < 8
    assert (tmp_path / "log").read_text(encoding="utf-8").splitlines() == lines
    assert any("20/20" in line for line in lines)
    AutoModelForImageTextToText.from_pretrained(out)
    assert "generation" in AutoProcessor.from_pretrained(out).chat_template


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset_name": "/nowhere"}, "FileNotFoundError: .*/nowhere"),
        ({"learning_speed": "3"}, "unrecognized arguments: --learning_speed"),
        ({"max_steps": "many"}, "max-steps: invalid int value: 'many'"),
    ],
)
def test_a_failed_run_tells_the_line_that_says_why(
    overrides: dict[str, str], tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    with pytest.raises(TuningError, match=told) as caught:
        tune("tiny-cpu", overrides={**overrides, "output_dir": str(tmp_path / "out"), **settings}, log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_a_recipe_without_output_dir_is_told_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("max_steps: 1\n")
    with pytest.raises(TuningError, match="no output_dir"):
        tune(recipe, overrides={})


def test_stopping_leaves_no_process_behind(overrides: dict[str, str], tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if "/20" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("tiny-cpu", overrides={**overrides, "output_dir": str(tmp_path / "out")}, on_line=stop)
    deadline = time.monotonic() + 20
    while (left := working_on(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == []


def working_on(folder: Path) -> list[int]:
    """The ids of processes that have `folder` on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if str(folder).encode() in command:
            found.append(int(process.name))
    return found
