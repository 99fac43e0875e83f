"""Checks that training takes what a dry run forecasts, which needs neither weights nor a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.training.arguments import Arguments, make_parser
from compact_hf.training.dry_run import TrainingForecast, dry_run, read_devices
from compact_hf.training.memory import Devices, estimate_memory
from compact_hf.training.recipes import recipe_path
from tests.training.samples import make_settings, to_cli_args, write_base_and_release

# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_base_and_release(tmp_path_factory.mktemp("plan"), rows=24, text_rows=10)
    # A dry run needs only a configuration and a processor.
    for path in (directory / "tiny").glob("*.safetensors"):
        path.unlink()
    return directory


def forecast_training(directory: Path, recipe: str = "tiny-cpu", **overrides: str) -> TrainingForecast:
    return dry_run(recipe, overrides=make_settings(directory, **{"output_dir": str(directory / "out"), **overrides}))


def parse_recipe(recipe: str, **overrides: str) -> Arguments:
    *parsed, _ = make_parser("test").parse_args_and_config(
        ["--config", str(recipe_path(recipe)), *to_cli_args({**overrides, "use_cpu": "true"})],
        return_remaining_strings=True,
    )
    return Arguments(*parsed)


def test_steps_rows_and_tokens_are_counted(folder: Path) -> None:
    forecast = forecast_training(folder, max_steps="-1", num_train_epochs="3", per_device_train_batch_size="4")
    image_rows, text_rows = 22, 10
    assert (forecast.rows, forecast.dropped) == (image_rows + text_rows, {})
    assert forecast.image_tokens == 64 * image_rows
    assert forecast.steps == 3 * (-(-image_rows // 4) + -(-text_rows // 4))
    assert forecast.epochs == 3
    assert 0 < forecast.answer_tokens < forecast.text_tokens
    assert 0 <= forecast.padding < 0.2
    assert not (folder / "out").exists(), "a dry run leaves nothing behind"


def test_the_7b_recipe_is_planned_for_its_eight_gpus_where_there_is_none(folder: Path) -> None:
    forecast = forecast_training(folder, "llava15-7b-lora")
    assert (forecast.processes, forecast.rows_per_step) == (8, 128)
    assert (forecast.learning_rate, forecast.projector_learning_rate) == (2e-4, 2e-5)
    assert forecast.versions.keys() >= {"trl", "transformers", "torch"}
    assert json.loads(json.dumps(forecast.to_json()))["memory"]["total"] == forecast.memory.total


@pytest.mark.parametrize(
    ("launch", "devices"),
    [
        (["--num_processes", "4"], Devices(4, is_sharded=False)),
        (["--accelerate_config", "fsdp2"], Devices(8, is_sharded=True)),
        (["--accelerate_config", "zero3", "--num_processes", "2"], Devices(2, is_sharded=True)),
        (["--accelerate_config", "zero2"], Devices(8, is_sharded=False)),
    ],
)
def test_processes_and_sharding_are_read_where_accelerate_reads_them(launch: list[str], devices: Devices) -> None:
    assert read_devices(launch) == devices


def llava_7b_config() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    return LlavaConfig(vision_config=vision, text_config=LlamaConfig(vocab_size=32064), image_seq_length=576)


def test_parameters_and_what_they_take_are_those_of_llava_7b_by_hand() -> None:
    """The base has 7.06 billion parameters, the LoRA 320 million in float32, the projector 21 million in bfloat16."""
    estimate = estimate_memory(llava_7b_config(), parse_recipe("llava15-7b-lora"), Devices())
    lora = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert estimate.trained == lora + projector
    assert estimate.parameters == pytest.approx(7.063e9 + lora + projector, rel=1e-3)
    assert estimate.gradients == 4 * lora + 2 * projector
    assert estimate.optimizer == 2 * estimate.gradients
    assert estimate.weights == pytest.approx(2 * 7.063e9 + estimate.gradients, rel=1e-3)


@pytest.mark.slow
def test_recomputation_sharding_and_4_bit_take_less() -> None:
    def total(devices: Devices = Devices(), **overrides: str) -> int:  # noqa: B008  # frozen
        return estimate_memory(
            llava_7b_config(), parse_recipe("llava15-7b-lora", **overrides), devices, rows=16, length=700
        ).total

    default = total()
    assert total(activation_checkpointing="false") > 2 * default
    assert total(Devices(8, is_sharded=True)) < default / 2
    assert total(Devices(8)) > default, "DDP keeps its gradients in buckets besides"
    assert total(load_in_4bit="true") < default - 9e9


def test_the_qlora_recipe_fits_the_24_gb_that_it_is_for() -> None:
    estimate = estimate_memory(llava_7b_config(), parse_recipe("llava15-7b-qlora"), Devices(), rows=4, length=800)
    assert estimate.model_states < estimate.total < 0.9 * 24e9
    assert estimate.gradients == 2 * estimate.trained


@pytest.mark.slow
def test_the_estimate_is_near_what_a_real_step_takes(folder: Path) -> None:
    """torch's profiler measures the peak of allocated memory over forward, backward and optimizer step."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder / "tiny")
    config.text_config.update({"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6})
    rows, length = 8, 256
    arguments = parse_recipe("tiny-cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).train()
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            embeddings = torch.randn(rows, length, 256)
            tower_output = model.model.vision_tower(torch.randn(rows, 3, 112, 112)).last_hidden_state
            image_features = model.model.multi_modal_projector(tower_output[:, 1:])
            embeddings = torch.cat([image_features, embeddings[:, 64:]], dim=1)
            model.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    allocated = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    estimate = estimate_memory(config, arguments, Devices(), rows=rows, length=length).total
    assert estimate == pytest.approx(peak, rel=0.15)


def test_the_command_tells_the_plan_as_a_table_or_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "--model_name_or_path",
        f"{folder / 'tiny'}",
        "--dataset_name",
        f"{folder / 'release'}",
        "--max_steps",
        "7",
    ]
    assert main(["tune", "tiny-cpu", "--projector-lr", "0.0005", "--dry-run", *args]) == 0
    table = capsys.readouterr().out
    assert "7 (2.33 epochs)" in table
    assert "0.001, projector 0.0005" in table
    assert main(["tune", "tiny-cpu", *args, "--dry-run", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert (forecast["steps"], forecast["projector_learning_rate"]) == (7, None)
    assert main(["tune", "tiny-cpu", *args, "--json"]) == 2
