"""Tests that too little disk space is reported in one line: before training, and when a file cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compact_hf.errors import TuningError
from compact_hf.training.checkpoints import COMPLETE_FILE
from compact_hf.training.disk_space import (
    DiskEstimate,
    check_disk_space,
    describe_disk_space,
    estimate_disk_space,
    translate_full_disk,
)
from compact_hf.training.model_size import count_optimizer_bytes
from tests.disk import limited_file_size
from tests.training.test_dry_run import llava_7b_config, parse_recipe

# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

GB = 10**9
ESTIMATE = DiskEstimate(checkpoint=4 * GB, checkpoints=2, model=GB, total=8 * GB)


@pytest.mark.slow
def test_the_7b_recipe_takes_two_adapters_with_their_optimizer_states() -> None:
    """The LoRA has 320 million parameters in float32, the projector 21 million in bfloat16; AdamW has two states."""
    disk = estimate_disk_space(
        llava_7b_config(), parse_recipe("llava15-7b-lora", save_total_limit="1"), steps=508, steps_per_epoch=508
    )
    assert disk.model == pytest.approx(4 * 320e6 + 2 * 21e6, rel=0.01)
    assert disk.checkpoint == 3 * disk.model
    assert (disk.checkpoints, disk.total) == (2, 2 * disk.checkpoint)


def tiny_config() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlavaConfig(vision_config=CLIPVisionConfig(**sizes), text_config=LlamaConfig(**sizes))


@pytest.mark.parametrize(
    ("settings", "checkpoints", "total"),
    [
        ({"save_steps": "100", "save_total_limit": "2"}, 3, 9),
        ({"save_steps": "300"}, 2, 2 * 3 + 1),  # after step 300 and after the last one; then the model is written
        ({"save_steps": "0.25"}, 4, 4 * 3 + 1),
        ({"save_steps": "100", "save_total_limit": "2", "save_only_model": "true"}, 3, 3),
        ({"save_strategy": "epoch", "save_total_limit": "5"}, 3, 3 * 3 + 1),
        ({"save_strategy": "no"}, 0, 1),
    ],
)
def test_checkpoints_that_exist_at_the_same_time_are_counted(
    settings: dict[str, str], checkpoints: int, total: int
) -> None:
    args = parse_recipe("tiny-cpu", **{"save_total_limit": "0", "save_only_model": "false", **settings})
    disk = estimate_disk_space(tiny_config(), args, steps=400, steps_per_epoch=160)
    assert (disk.checkpoints, disk.total) == (checkpoints, total * disk.model)


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        ("adamw_torch_fused", 2),
        ("adamw_bnb_8bit", 0.5),
        ("adamw_torch_4bit", 0.25),
        ("ademamix", 3),
        ("paged_lion_8bit", 0.25),
        ("lion_32bit", 1),
        ("sgd", 0),
        ("adafactor", 0),
        ("galore_adamw", 0),
    ],
)
def test_only_states_that_an_optimizer_certainly_has_are_counted(optimizer: str, states: float) -> None:
    """Times the 20 values of float32; an optimizer of 8 bits stores a quarter of that."""
    import torch

    parameters = [torch.empty(3, 4, device="meta"), torch.empty(8, device="meta")]
    args: Any = SimpleNamespace(
        training=SimpleNamespace(optim=optimizer, model_init_kwargs=None), model=SimpleNamespace(load_in_4bit=False)
    )
    assert count_optimizer_bytes(parameters, args) == states * 20 * 4


def test_too_little_space_is_refused_with_what_is_needed_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free space is simulated, because a test cannot fill a disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=6 * GB))
    out = tmp_path / "not" / "there"
    message = (
        r"not enough disk space: \S+/not/there needs about 8 GB \(2 checkpoints of 4 GB, model 1 GB\), and 6 GB are"
    )
    with pytest.raises(TuningError, match=message):
        check_disk_space(ESTIMATE, out)
    assert describe_disk_space(ESTIMATE, out).endswith("and 6 GB are free")
    # Resumed: a checkpoint of 2 GB (a file without data) is there already.
    (out / "checkpoint-4").mkdir(parents=True)
    (out / "checkpoint-4" / "optimizer.pt").touch()
    os.truncate(out / "checkpoint-4" / "optimizer.pt", 2 * GB)
    check_disk_space(ESTIMATE, out)


def write_with_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(100_000)}, path)


def write_with_torch(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(100_000)}, path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_with_safetensors, os.strerror(errno.EFBIG)),
        (write_with_torch, "the file could not be written to its end"),
        (lambda path: path.write_bytes(bytes(400_000)) and None, os.strerror(errno.EFBIG)),
    ],
)
def test_whatever_writes_a_file_the_line_has_its_place_size_and_the_last_checkpoint(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    half, checkpoint = tmp_path / "checkpoint-8", tmp_path / "checkpoint-4"
    half.mkdir()
    for advice in ("to start at step 0", f"to resume from {checkpoint}$"):
        with (
            pytest.raises(TuningError, match=advice) as excinfo,
            limited_file_size(100_000),
            translate_full_disk(half, 4 * GB, output_dir=tmp_path),
        ):
            write(half / "file")
        told = f"{half} cannot be written ({reason}): it takes about 4 GB, and "
        assert str(excinfo.value).startswith(told)
        assert "\n" not in str(excinfo.value)
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / COMPLETE_FILE).write_text("{}")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), translate_full_disk(tmp_path, GB, output_dir=tmp_path):
        raise RuntimeError("shapes do not match")
