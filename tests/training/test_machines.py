"""Checks that several processes train the same as one; started by torchrun, on the CPU. Slow: takes minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from compact_hf.training.recipes import read_recipe
from tests.training.samples import make_settings, to_cli_args, write_base_and_release

ROOT = Path(__file__).parents[2]
OUR_SCRIPT, TRL_SCRIPT = ("-m", "compact_hf.training.sft"), ("-m", "trl.scripts.sft")
# FSDP2 as transformers applies it when it loads a model, also on CPUs; accelerate would run DDP on a CPU.
SHARDED = {
    "save_strategy": "no",
    "model_init_kwargs": json.dumps(
        {
            "distributed_config": {
                "fsdp_size": 2,
                "fsdp_plan": {
                    "model.vision_tower.encoder.layers.*": "free_full_weight",
                    "model.multi_modal_projector": "free_full_weight",
                    "model.language_model.layers.*": "free_full_weight",
                },
            }
        }
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Each epoch has complete steps of 8 rows and leftover rows, both with and without images.
    return write_base_and_release(tmp_path_factory.mktemp("machines"), rows=40, text_rows=21)


def run_torchrun(
    processes: int, script: tuple[str, ...], directory: Path, out: Path, **overrides: str
) -> tuple[int, str]:
    """Start this number of training processes; return the launcher's exit status and output."""
    recipe = read_recipe("tiny-cpu")
    # Keys of accelerate, which TRL's script refuses if accelerate's launcher did not start it.
    for key in ("num_processes", "num_machines", "mixed_precision", "dynamo_backend"):
        recipe.pop(key, None)
    (out.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    defaults = {
        "output_dir": str(out),
        "max_steps": "12",
        "save_steps": "12",
        "logging_steps": "1",
        "per_device_train_batch_size": "2",
        "gradient_accumulation_steps": str(4 // processes),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    process = subprocess.run(
        [
            *launcher,
            *script,
            "--config",
            str(out.parent / "recipe.yaml"),
            *to_cli_args(make_settings(directory, **defaults | overrides)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=540,
    )
    return process.returncode, process.stdout


def train_losses(processes: int, directory: Path, out: Path, **overrides: str) -> list[float]:
    """Train, and return the loss of each step."""
    status, output = run_torchrun(processes, OUR_SCRIPT, directory, out, **overrides)
    assert status == 0, output[-3000:]
    record = json.loads((out / "training.json").read_text())
    assert record["hardware"].startswith(f"{processes} x CPU"), "torchrun did not start as many as it should"
    assert [step for step, _ in record["loss"]] == list(range(1, 13))
    return [loss for _, loss in record["loss"]]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder: Path, tmp_path: Path) -> None:
    """The loss of a step is the mean over the answer tokens of all processes and accumulated batches."""
    expected = train_losses(1, folder, tmp_path / "one")
    assert train_losses(2, folder, tmp_path / "two") == pytest.approx(expected, abs=1e-3)
    assert train_losses(2, folder, tmp_path / "sharded", **SHARDED) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_sharded_training_on_rows_without_pictures_is_what_plain_trl_cannot_do(folder: Path, tmp_path: Path) -> None:
    """The reason for our order of rows: a process whose batch has no image does not run the vision tower."""
    status, output = run_torchrun(2, TRL_SCRIPT, folder, tmp_path / "plain", gradient_accumulation_steps="1", **SHARDED)
    assert status != 0, "TRL can do it now: say so in README's table"
    assert "ChildFailedError" in output, output[-3000:]
    train_losses(2, folder, tmp_path / "ours", gradient_accumulation_steps="1", **SHARDED)
