"""Checks where training runs: in the launcher's process if there is only one, else in those that accelerate starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from compact_hf.training.recipes import recipe_path
from tests import preforked

LAUNCH_SOURCE = """
import json, os, sys
import torch
from accelerate.commands import launch as accelerate_launch
from compact_hf.training import launch, sft

def report(where, arguments):
    print(json.dumps({
        "where": where,
        "process": os.getpid(),
        "arguments": arguments,
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")},
    }))

sft.main = lambda arguments: report("here", list(arguments))
accelerate_launch.simple_launcher = lambda launched: report("another process", launched.training_script_args)
accelerate_launch.multi_gpu_launcher = lambda launched: report("torchrun", launched.training_script_args)
launch.main(sys.argv[1:])
"""
ARGUMENTS = ("--config", str(recipe_path("tiny-cpu")), "--output_dir", "student")


def run_launch(*options: str, **environment: str) -> dict[str, Any]:
    """Launch with these options, and return in which process and with which settings training would begin."""
    command = [sys.executable, "-c", LAUNCH_SOURCE, *ARGUMENTS, *options]
    with preforked.Popen(command, env={**os.environ, **environment}, stdout=-1, stderr=-1, text=True) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return {**report, "is_launcher": report["process"] == process.pid}


def test_one_process_trains_in_the_launchers_own_as_accelerate_would_have_started_it() -> None:
    report = run_launch("--mixed_precision", "no", OMP_NUM_THREADS="2")
    assert (report["where"], report["is_launcher"]) == ("here", True)
    assert report["arguments"] == list(ARGUMENTS)  # without those that the launcher sets
    assert report["threads"] == 2
    assert report["environment"]["ACCELERATE_MIXED_PRECISION"] == "no"
    assert report["environment"]["ACCELERATE_DYNAMO_BACKEND"] == "NO"


def test_the_number_of_threads_is_the_launchers() -> None:
    assert run_launch("--num_cpu_threads_per_process", "2", OMP_NUM_THREADS="1")["threads"] == 2


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--gpu_ids", "1"), "another process"),  # read only when CUDA is initialized
        (("--multi_gpu", "--num_processes", "2"), "torchrun"),
        (("--accelerate_config", "fsdp2", "--num_processes", "2"), "torchrun"),
    ],
)
def test_what_needs_another_environment_or_several_processes_is_left_to_accelerate(
    options: tuple[str, ...], where: str
) -> None:
    report = run_launch(*options)
    assert (report["where"], report["arguments"]) == (where, list(ARGUMENTS))


def test_the_script_can_be_started_by_torchrun(tmp_path: Path) -> None:
    """As on two machines: the script is run as a module, and errors are reported in one line."""
    command = [sys.executable, "-m", "compact_hf.training.sft", *ARGUMENTS, "--model_name_or_path", "/nowhere"]
    process = preforked.run([*command, "--dataset_name", "/nowhere"], cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("compact_hf.errors.UsageError: the base /nowhere was not found")
