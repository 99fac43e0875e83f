"""Checks `tune` with real training processes on a small release, and its errors."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import CompactError, ContentsMismatchError, StoppedEarly, TuningError, UsageError
from compact_hf.training import train
from compact_hf.training.checkpoints import find_last_checkpoint, init_output_dir, write_record
from compact_hf.training.inputs import bind_inputs
from compact_hf.training.train import build_job, tune
from tests import preforked
from tests.disk import limited_file_size
from tests.training.samples import make_settings, write_base_and_release

pytestmark = pytest.mark.usefixtures("preforked_training")


COMMAND = """
import sys
from compact_hf.cli.main import main
from compact_hf.training import train
from tests import preforked

train.Popen = preforked.Popen
sys.exit(main())
"""


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_settings(
        write_base_and_release(tmp_path_factory.mktemp("tuning"), rows=24, text_rows=4), max_steps="20"
    )


def test_ctrl_c_leaves_a_checkpoint_and_no_process_and_the_same_call_goes_on_to_the_end_and_then_does_nothing(
    overrides: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out, log = tmp_path / "student", tmp_path / "log"
    release = shutil.copytree(overrides["dataset_name"], tmp_path / "release")
    run_settings = {**overrides, "dataset_name": str(release), "output_dir": str(out)}
    interrupted_at: list[str] = []

    def interrupt(line: str) -> None:
        if re.search(r" [3-6]/20", line) and not interrupted_at:
            interrupted_at.append(line)
            raise KeyboardInterrupt

    with pytest.raises(
        StoppedEarly, match=r"stopped after step \d+ of 20, with a complete checkpoint in .*again to resume$"
    ):
        tune("tiny-cpu", overrides=run_settings, on_line=interrupt, log=log)
    assert kill_leftover_processes(tmp_path) == []

    first_file, other_file, *_ = sorted((release / "data").rglob("train-*.parquet"))
    rows, other_rows, times = first_file.read_bytes(), other_file.read_bytes(), first_file.stat()
    first_file.write_bytes(other_rows)
    with pytest.raises(ContentsMismatchError, match=r"started with other contents of data .*release \(changed: data/"):
        tune("tiny-cpu", overrides=run_settings)
    first_file.write_bytes(rows)
    os.utime(first_file, ns=(times.st_atime_ns, times.st_mtime_ns))  # or `datasets` would prepare the rows again

    lines: list[str] = []
    result = tune("tiny-cpu", overrides=run_settings, on_line=lines.append, log=log)
    assert any(line.startswith("resuming from") for line in lines)
    assert log.read_text(encoding="utf-8").splitlines()[-len(lines) :] == lines
    assert any("20/20" in line for line in lines)
    assert (result.output_dir, result.steps, result.was_finished) == (out, 20, False)
    (first, before), (last, after) = result.loss
    assert (first, last) == (10, 20)
    assert after < before < 8
    AutoModelForImageTextToText.from_pretrained(out)
    assert "config `all`, version 1.0.0 |" in (out / "README.md").read_text(encoding="utf-8")
    assert "generation" in AutoProcessor.from_pretrained(out).chat_template

    assert tune("tiny-cpu", overrides=run_settings) == replace(result, was_finished=True)
    first_file.write_bytes(other_rows)
    with pytest.raises(ContentsMismatchError, match="other contents of data"):
        tune("tiny-cpu", overrides=run_settings)
    with pytest.raises(UsageError, match=r"other settings \(max_steps was '20', now '30'\)"):
        tune("tiny-cpu", overrides={**run_settings, "max_steps": "30"})


def test_a_batch_system_that_ends_the_command_leaves_a_checkpoint_too(
    overrides: dict[str, str], tmp_path: Path
) -> None:
    run_settings = {**overrides, "output_dir": str(tmp_path / "student")}
    options = [word for name, value in run_settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-c", COMMAND, "tune", "tiny-cpu", *options]
    with preforked.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if " 3/20" in line)
        process.send_signal(signal.SIGTERM)
        stderr = process.stderr.read()
    assert process.returncode == 3, stderr
    assert "with a complete checkpoint in" in stderr
    assert find_last_checkpoint(tmp_path / "student") is not None
    assert kill_leftover_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"learning_speed": "3"}, "^the recipe has a key that neither .* accepts: learning_speed; did you mean"),
        ({"num_processes": "2"}, "^num_processes is 2, but accelerate started 1"),
    ],
)
def test_a_failed_run_tells_the_line_that_says_why(
    overrides: dict[str, str], tmp_path: Path, other: dict[str, str], told: str
) -> None:
    lines: list[str] = []
    settings = {**overrides, "output_dir": str(tmp_path / "out"), **other}
    with pytest.raises(CompactError, match=told) as excinfo:
        tune("tiny-cpu", overrides=settings, on_line=lines.append, log=tmp_path / "log")
    message = str(excinfo.value)
    assert "\n" not in message
    # Once, by the exception.
    assert message in (tmp_path / "log").read_text(encoding="utf-8")
    assert not [line for line in lines if message in line]


def test_a_killed_training_process_is_told_with_what_memory_it_took(
    overrides: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills like this when memory runs out: only the training process, which can report nothing."""
    children: list[int] = []
    monkeypatch.setattr(train, "Popen", partial(start_process, children))

    def kill(line: str) -> None:
        if line.startswith("memory for each device"):
            os.kill(children[0], signal.SIGKILL)

    with pytest.raises(TuningError, match=r"killed from outside.* takes about \S+ GB \(weights .*; lower per_device"):
        tune("tiny-cpu", overrides={**overrides, "output_dir": str(tmp_path / "out")}, on_line=kill)


def test_a_log_on_a_full_disk_ends_training_with_one_line_and_a_missing_card_is_written_by_the_next_call(
    overrides: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "Popen", lambda _, **options: subprocess.Popen(["seq", "100"], **options))
    run_settings = {**overrides, "output_dir": str(tmp_path / "out")}
    job = build_job("tiny-cpu", overrides=run_settings)
    init_output_dir(job.output_dir, job.settings)
    bind_inputs(job.output_dir, job.settings, on_note=lambda line: None)
    with (
        pytest.raises(TuningError, match=r"/log cannot be written \(File too large\); free disk space and run"),
        limited_file_size(100),
    ):
        tune("tiny-cpu", overrides=run_settings, log=tmp_path / "log")
    write_record(tmp_path / "out", {"base": "org/base", "settings": {}, "loss": [], "steps": 20, "seconds": 1.0})
    assert tune("tiny-cpu", overrides=run_settings).was_finished
    assert "org/base" in (tmp_path / "out" / "README.md").read_text()


def test_a_recipe_without_output_dir_is_told_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("max_steps: 1\n")
    with pytest.raises(UsageError, match="no output_dir"):
        tune(recipe, overrides={})


def test_bfloat16_without_a_gpu_is_told_before_anything_starts(overrides: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="but torch finds no GPU that supports it"):
        tune("llava15-7b-lora", overrides={**overrides, "output_dir": str(tmp_path / "out")})


def test_a_card_that_was_edited_by_hand_stops_training_before_it_would_be_replaced(
    overrides: dict[str, str], tmp_path: Path
) -> None:
    own_overrides = {**overrides, "output_dir": str(tmp_path / "out")}
    job = build_job("tiny-cpu", overrides=own_overrides)
    init_output_dir(job.output_dir, job.settings)
    (tmp_path / "out" / "README.md").write_text("My student, half trained.")
    with pytest.raises(UsageError, match=r"README\.md was edited by hand .*: move it to another directory"):
        tune("tiny-cpu", overrides=own_overrides)
    assert (tmp_path / "out" / "README.md").read_text() == "My student, half trained."


def test_a_revision_needs_a_repository(overrides: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="not a repository on the Hub"):
        tune("tiny-cpu", overrides={**overrides, "output_dir": str(tmp_path / "out")}, revision="v1.0.0")


def test_the_projectors_rate_is_llavas_tenth_where_a_lora_trains_it_in_full(tmp_path: Path) -> None:
    data = {"dataset_name": str(tmp_path)}
    job = build_job("llava15-7b-lora", overrides=data)
    assert job.settings["projector_learning_rate"] == pytest.approx(2e-5)
    job = build_job("llava15-7b-lora", overrides=data, projector_learning_rate=1e-3)
    assert job.settings["projector_learning_rate"] == 1e-3
    assert build_job("tiny-cpu", overrides=data).settings["projector_learning_rate"] is None


def start_process(children: list[int], *arguments: Any, **options: Any) -> preforked.Popen:
    """Start a process and record its id."""
    child = preforked.Popen(*arguments, **options)
    children.append(child.pid)
    return child


def kill_leftover_processes(directory: Path) -> list[int]:
    """Kill the processes that still use a directory after some time, and return their ids."""
    deadline = time.monotonic() + 20
    while (pids := find_processes(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def find_processes(directory: Path) -> list[int]:
    """Return the ids of processes that have `directory` on their command line."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # the process has ended in the meantime
        if str(directory).encode() in command:
            pids.append(int(process.name))
    return pids
