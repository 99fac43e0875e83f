"""Runs the training script in this process on a tiny model: dropped rows, learning rates, resuming, errors."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import CompactError, StoppedEarly, TuningError, UsageError
from compact_hf.training import sft
from compact_hf.training.recipes import recipe_path
from tests.disk import limited_file_size
from tests.images.made import deep_grey
from tests.models.test_finite import fill
from tests.training.samples import MODEL_SIZE, make_settings, to_cli_args, write_base_and_release

LORA = {
    "use_peft": "true",
    "lora_r": "4",
    "lora_dropout": "0.1",
    "lora_target_modules": r".*language_model.*\.(q_proj|v_proj|down_proj)",
    "lora_modules_to_save": "multi_modal_projector",
    "projector_learning_rate": "0.0001",
    "lr_scheduler_type": "constant",
}
# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


FULL_TUNING: dict[str, str] = {}
DIVERGED = (
    "training diverged: {} is nan at step 2 of 8; lower learning_rate {} and give another "
    "output_dir; last complete checkpoint: {}$"
)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training run.

    Attributes:
        out (`Path`): directory of the model.
        record (`dict`): content of training.json.
        stdout (`str`): output of the run.
    """

    out: Path
    record: dict[str, Any]
    stdout: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_and_release(tmp_path_factory.mktemp("sft"), rows=24, text_rows=10)


@pytest.fixture(scope="module")
def in_full(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Train all weights, without interruption."""
    return train(folder, tmp_path_factory.mktemp("in full") / "out", **FULL_TUNING, hub_token="hf_secret")


@pytest.fixture(scope="module")
def lora(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Train a LoRA with the projector in full, without interruption."""
    return train(folder, tmp_path_factory.mktemp("lora") / "out", **LORA)


def train(directory: Path, out: Path, *, stdout: StringIO | None = None, **overrides: str) -> TrainingResult:
    """Run the script as in its own process, for eight steps in two epochs; its output goes to `stdout`."""
    defaults = {
        "output_dir": str(out),
        "max_steps": "8",
        "save_steps": "4",
        "save_only_model": "false",
        "logging_steps": "1",
        "per_device_train_batch_size": "4",
        "gradient_accumulation_steps": "2",
    }
    stdout = stdout or StringIO()
    with redirect_stdout(stdout):
        sft.main(
            ["--config", str(recipe_path("tiny-cpu")), *to_cli_args(make_settings(directory, **defaults | overrides))]
        )
    return TrainingResult(out, json.loads((out / "training.json").read_text()), stdout.getvalue())


@pytest.mark.parametrize(
    ("way", "at_once"),
    [pytest.param(FULL_TUNING, "in_full", marks=pytest.mark.slow, id="in full"), pytest.param(LORA, "lora", id="LoRA")],
)
def test_going_on_after_a_stop_gives_what_one_run_gives(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    way: dict[str, str],
    at_once: str,
) -> None:
    from compact_hf.training.trainer import STOP_SIGNAL, StopCallback

    expected: TrainingResult = request.getfixturevalue(at_once)
    original = StopCallback.on_step_end

    def stop_in_the_second_epoch(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            os.kill(os.getpid(), STOP_SIGNAL)
        original(self, args, state, control, **kwargs)

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(StopCallback, "on_step_end", stop_in_the_second_epoch)
        with pytest.raises(StoppedEarly, match="stopped after step 5 of 8, with a complete checkpoint"):
            train(folder, out, **way)
    # A checkpoint as it is left when the process is killed while saving it.
    shutil.copytree(out / "checkpoint-5", out / "checkpoint-7", ignore=shutil.ignore_patterns("whole"))
    (out / "checkpoint-7" / "trainer_state.json").write_text("{")
    resumed = train(folder, out, **way)
    assert resumed.record["loss"] == expected.record["loss"]
    assert [step for step, _ in resumed.record["loss"]] == list(range(1, 9))
    weights = "adapter_model.safetensors" if way else "model.safetensors"
    assert (out / weights).read_bytes() == (expected.out / weights).read_bytes()


@pytest.mark.slow
def test_a_kill_between_the_last_step_and_the_record_costs_no_step(
    folder: Path, in_full: TrainingResult, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(in_full.out, out)
    (out / "training.json").unlink()
    again = train(folder, out, **FULL_TUNING)
    assert f"resuming from {out}/checkpoint-8" in again.stdout
    assert again.record["loss"] == in_full.record["loss"]
    assert (out / "model.safetensors").read_bytes() == (in_full.out / "model.safetensors").read_bytes()


def test_the_disk_space_of_a_run_is_told_at_its_start_as_it_will_be(lora: TrainingResult) -> None:
    told = re.search(r"disk space for \S+: about \S+ GB \(2 checkpoints of (\S+) GB, model (\S+) GB\)", lora.stdout)
    assert told is not None
    weights, optimizer = (lora.out / "checkpoint-8" / name for name in ("adapter_model.safetensors", "optimizer.pt"))
    sizes = weights.stat().st_size + optimizer.stat().st_size, weights.stat().st_size
    assert [float(size) * 1e9 for size in told.groups()] == pytest.approx(sizes, rel=0.1)


DIVERGING = {
    **LORA,
    "lora_alpha": "1000",
    "learning_rate": "1e37",
    "warmup_steps": "0",
    "max_grad_norm": "0",
    "save_steps": "1",
}


def test_a_checkpoint_that_a_full_disk_cuts_is_removed_and_a_loss_that_is_not_finite_ends_training(
    folder: Path, tmp_path: Path
) -> None:
    """The first step leaves finite weights, 1e37, and in the second their product with `lora_alpha` overflows.

    If only the next layers overflowed, normalization could turn infinity into zero, and training would end as usual.
    """
    out = tmp_path / "out"
    with (
        limited_file_size(60_000),
        pytest.raises(TuningError, match=r"checkpoint-1 cannot be written .* to start at step 0") as excinfo,
    ):
        train(folder, out, **DIVERGING)
    assert "\n" not in str(excinfo.value)
    assert not list(out.glob("*"))
    message = DIVERGED.format("the loss", r"\(1e\+37\).*", f"{out}/checkpoint-1")
    with pytest.raises(TuningError, match=message) as excinfo:
        train(folder, out, **DIVERGING)
    assert "\n" not in str(excinfo.value)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_gradient_that_is_not_finite_ends_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether real numbers overflow in the backward pass alone depends on the processor, so this is made to happen."""
    from compact_hf.training.trainer import CompactTrainer

    compute_loss = CompactTrainer.compute_loss

    def overflow_backward(self: CompactTrainer, *arguments: Any, **options: Any) -> Any:
        result = compute_loss(self, *arguments, **options)
        if self.state.global_step == 1:
            loss = result[0] if isinstance(result, tuple) else result
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return result

    monkeypatch.setattr(CompactTrainer, "compute_loss", overflow_backward)
    out = tmp_path / "out"
    message = DIVERGED.format("the norm of the gradient", ".*", f"{out}/checkpoint-1")
    with pytest.raises(TuningError, match=message):
        train(folder, out, **LORA, max_grad_norm="0", save_steps="1")
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.slow
def test_a_checkpoint_whose_weights_are_not_finite_is_not_resumed_from(folder: Path, tmp_path: Path) -> None:
    """Version 0.1.0 may have saved one."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    with pytest.raises(TuningError, match="training diverged"):
        train(folder, out, **DIVERGING)
    file = out / "checkpoint-1" / "adapter_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file)
    with pytest.raises(
        TuningError, match=r"checkpoint-1 has weights that are not finite numbers \(\S+, .* and \d+ more"
    ):
        train(folder, out, **DIVERGING)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (3e38, r"^training diverged: the loss is nan at step 1 of 8; lower .*; last complete checkpoint: none$"),
        pytest.param(
            float("nan"),
            r"^the model \S+/base cannot be loaded: its weights are not finite numbers \(model.multi_modal",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_loss_that_is_not_finite_and_a_base_that_is_not_are_told(
    folder: Path, tmp_path: Path, value: float, told: str
) -> None:
    base = shutil.copytree(folder / "tiny", tmp_path / "base")
    fill(base / "model.safetensors", value, names="multi_modal_projector.linear_1.weight")
    with pytest.raises(TuningError, match=told):
        train(folder, tmp_path / "out", model_name_or_path=str(base))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, r"weights are not finite numbers \(\S+, \S+, \S+ and \d+ more\) at step 1 of 1"),
        (
            {"eval_strategy": "steps", "eval_steps": "1", "dataset_test_split": "train"},
            "the evaluation loss is nan at step 1",
        ),
    ],
)
def test_weights_that_the_last_step_ruins_are_not_saved(
    folder: Path, tmp_path: Path, other: dict[str, str], told: str
) -> None:
    with pytest.raises(TuningError, match=f"training diverged: {told}"):
        train(folder, tmp_path / "out", learning_rate="1e39", warmup_steps="0", max_steps="1", **other)
    assert not list((tmp_path / "out").glob("*"))


def test_the_projector_learns_at_its_own_rate_and_the_record_says_so(lora: TrainingResult) -> None:
    import torch

    groups = torch.load(lora.out / "checkpoint-8" / "optimizer.pt", weights_only=True)["param_groups"]
    assert [(group["lr"], len(group["params"])) for group in groups if group["params"]] == [
        (0.001, 2 * 3 * MODEL_SIZE.text_layers),
        (0.0001, 2),
        (0.0001, 2),
    ]
    assert lora.record["projector_learning_rate"] == 0.0001
    assert "learning rate 0.001, the projector's 0.0001" in lora.stdout


def test_the_record_says_what_was_trained_on_what_with_what(folder: Path, in_full: TrainingResult) -> None:
    record = in_full.record
    assert "hf_secret" not in str(record)
    assert record["base"] == str(folder / "tiny")
    assert (record["dataset"], record["dataset_config"]) == (str(folder / "release"), "all")
    assert (record["dataset_revision"], record["dataset_version"]) == (None, "1.0.0")
    assert (record["steps"], record["rows"], record["dropped"]) == (8, 32, {})
    assert record["settings"]["learning_rate"] == 0.001
    assert record["settings"]["max_steps"] == 8
    assert record["hardware"].startswith("1 x CPU")
    assert {"trl", "torch", "compact_hf"} <= record["versions"].keys()


def test_another_base_than_a_llava_is_refused(folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1).save_pretrained(tmp_path / "llama")
    with pytest.raises(
        TuningError, match=r"is of an unknown family, llama: .* model families that can be trained: llava"
    ):
        train(folder, tmp_path / "out", model_name_or_path=str(tmp_path / "llama"))
    with pytest.raises(UsageError, match=r"the base \S+/nothing was not found: there is no such directory"):
        train(folder, tmp_path / "out", model_name_or_path=str(tmp_path / "nothing"))


def test_a_projector_of_another_shape_is_told_with_its_base(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    wrong_base = tmp_path / "wrong"
    shutil.copytree(folder / "tiny", wrong_base)
    weights = load_file(wrong_base / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("linear_1.weight"))
    weights[name] = weights[name][:, 1:].contiguous()
    save_file(weights, wrong_base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TuningError, match=r"the base \S+/wrong has weights of other shapes .* compact base assemble$"):
        train(folder, tmp_path / "out", model_name_or_path=str(wrong_base))


def test_a_base_whose_weights_are_missing_is_one_line(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder / "tiny", tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    (base / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TuningError, match=r"the model \S+/base cannot be loaded: it has no safetensors weights, and "):
        train(folder, tmp_path / "out", model_name_or_path=str(base))
    shutil.copy(folder / "tiny" / "model.safetensors", base / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TuningError, match=r"the model \S+/base cannot be loaded: .*model-2.safetensors") as excinfo:
        train(folder, tmp_path / "out", model_name_or_path=str(base))
    assert "\n" not in str(excinfo.value)


def test_what_cannot_fit_is_refused_with_the_estimate_before_weights_are_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "huge", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tmp_path / "huge" / "config.json").read_text())
    config["text_config"].update(hidden_size=65536, intermediate_size=262144, num_hidden_layers=64)
    (tmp_path / "huge" / "config.json").write_text(json.dumps(config))
    with pytest.raises(TuningError, match=r"not enough memory: training takes about \S+ GB \(weights \S+, "):
        train(folder, tmp_path / "out", model_name_or_path=str(tmp_path / "huge"))


def test_a_step_that_cannot_get_its_memory_is_told_with_the_estimate(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from compact_hf.training.trainer import CompactTrainer

    def run_out_of_memory(*_: Any, **__: Any) -> Any:
        return torch.empty(1 << 60)

    stdout = StringIO()
    monkeypatch.setattr(CompactTrainer, "training_step", run_out_of_memory)
    with pytest.raises(
        TuningError, match=r"out of memory: \d+ bytes more could not be allocated; (training takes .*); lower"
    ) as excinfo:
        train(folder, tmp_path / "out", stdout=stdout)
    estimate = stdout.getvalue().partition("memory for each device: ")[2].partition("\n")[0]
    assert estimate.startswith("about ")
    assert estimate in str(excinfo.value)


def test_training_sees_the_pixels_that_evaluation_sees_and_lists_what_it_cannot_decode(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset, Features, Image, List, Value
    from transformers import AutoProcessor

    from compact_hf.evaluation.inference import model_inputs
    from compact_hf.training.trainer import CompactTrainer

    batches: list[Any] = []

    def stop_at_the_first_batch(self: CompactTrainer, **_: Any) -> None:
        batches.extend(self.get_train_dataloader())
        raise StoppedEarly("stopped")

    monkeypatch.setattr(CompactTrainer, "train", stop_at_the_first_batch)
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "red"}]
    rows = [{"images": [image], "messages": messages} for image in ({"bytes": deep_grey(), "path": None}, None)]
    features = Features(images=List(Image()), messages=List({"role": Value("string"), "content": Value("string")}))
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(StoppedEarly):
        train(folder, tmp_path / "out", dataset_name=str(tmp_path / "data"), dataset_config="default")
    processor = AutoProcessor.from_pretrained(folder / "tiny")
    expected = model_inputs(processor, [(deep_grey(), "What is it?")], device="cpu", dtype=None)["pixel_values"]
    assert abs(expected.mean()) < 0.5  # white has a mean of about 2
    assert batches[0]["pixel_values"].equal(expected)
    lines = (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    detail = "null, with neither bytes nor a path"
    assert [json.loads(line) for line in lines] == [{"id": "row 1", "reason": "no picture", "detail": detail}]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"dataset_name": "/nowhere"}, "the dataset /nowhere cannot be loaded: FileNotFoundError"),
        (
            {"dataset_config": "k9"},
            r"has no config 'k9' \(it has all, .*\): choose one with --dataset_config$",
        ),
        (
            {"dataset_train_split": "trian"},
            r"has no split 'trian' to train on \(it has train, validation\): choose one with --dataset_train_split; d",
        ),
        (
            {"eval_strategy": "epoch", "dataset_test_split": "test"},
            r"has no split 'test' to evaluate on \(it has train, validation\): choose one with --dataset_test_split",
        ),
        ({"model_name_or_path": "/gone/base"}, "/gone/base was not found: .* give another --model_name_or_path$"),
        ({"dataset_streaming": "true"}, "leave out dataset_streaming"),
        ({"train_sampling_strategy": "sequential"}, "leave it out, or run `trl sft`"),
        ({"push_to_hub": "true"}, "leave it out, and use compact publish after training"),
    ],
)
def test_what_it_cannot_train_on_or_with_is_told_in_one_line(
    folder: Path, tmp_path: Path, other: dict[str, str], told: str
) -> None:
    with pytest.raises(CompactError, match=told) as excinfo:
        train(folder, tmp_path / "out", **other)
    assert "\n" not in str(excinfo.value)
