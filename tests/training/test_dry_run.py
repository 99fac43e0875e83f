"""What a dry run foretells is what training then takes; it needs no weights and no GPU."""

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
from tests.training.samples import base_and_release, options, settings

# PEFT 0.21 still asks by the name that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = base_and_release(tmp_path_factory.mktemp("plan"), rows=24, text_rows=10)
    # A configuration and a processor are all that is asked for.
    for path in (folder / "tiny").glob("*.safetensors"):
        path.unlink()
    return folder


def plan(folder: Path, recipe: str = "tiny-cpu", **other: str) -> TrainingForecast:
    return dry_run(recipe, overrides=settings(folder, **{"output_dir": str(folder / "out"), **other}))


def told(recipe: str, **other: str) -> Arguments:
    *parsed, _ = make_parser("test").parse_args_and_config(
        ["--config", str(recipe_path(recipe)), *options({**other, "use_cpu": "true"})], return_remaining_strings=True
    )
    return Arguments(*parsed)


def test_steps_rows_and_tokens_are_counted(folder: Path) -> None:
    found = plan(folder, max_steps="-1", num_train_epochs="3", per_device_train_batch_size="4")
    pictures, texts_alone = 22, 10
    assert (found.rows, found.dropped) == (pictures + texts_alone, {})
    assert found.image_tokens == 64 * pictures
    assert found.steps == 3 * (-(-pictures // 4) + -(-texts_alone // 4))
    assert found.epochs == 3
    assert 0 < found.answer_tokens < found.text_tokens
    assert 0 <= found.padding < 0.2
    assert not (folder / "out").exists(), "a dry run leaves nothing behind"


def test_the_7b_recipe_is_planned_for_its_eight_gpus_where_there_is_none(folder: Path) -> None:
    found = plan(folder, "llava15-7b-lora")
    assert (found.processes, found.rows_per_step) == (8, 128)
    assert (found.learning_rate, found.projector_learning_rate) == (2e-4, 2e-5)
    assert found.versions.keys() >= {"trl", "transformers", "torch"}
    assert json.loads(json.dumps(found.to_json()))["memory"]["total"] == found.memory.total


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


def llava_7b() -> Any:
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
    """320 M of LoRA in float32, 21 M of the projector in bfloat16 beside the 7.06 billion of the base."""
    found = estimate_memory(llava_7b(), told("llava15-7b-lora"), Devices())
    lora = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert found.trained == lora + projector
    assert found.parameters == pytest.approx(7.063e9 + lora + projector, rel=1e-3)
    assert found.gradients == 4 * lora + 2 * projector
    assert found.optimizer == 2 * found.gradients
    assert found.weights == pytest.approx(2 * 7.063e9 + found.gradients, rel=1e-3)


@pytest.mark.slow
def test_recomputation_sharding_and_4_bit_take_less() -> None:
    def total(devices: Devices = Devices(), **other: str) -> int:  # noqa: B008  # frozen
        return estimate_memory(llava_7b(), told("llava15-7b-lora", **other), devices, rows=16, length=700).total

    usual = total()
    assert total(activation_checkpointing="false") > 2 * usual
    assert total(Devices(8, is_sharded=True)) < usual / 2
    assert total(Devices(8)) > usual, "DDP keeps its gradients in buckets besides"
    assert total(load_in_4bit="true") < usual - 9e9


def test_the_qlora_recipe_fits_the_24_gb_that_it_is_for() -> None:
    found = estimate_memory(llava_7b(), told("llava15-7b-qlora"), Devices(), rows=4, length=800)
    assert found.model_states < found.total < 0.9 * 24e9
    assert found.gradients == 2 * found.trained


def test_the_estimate_is_near_what_a_real_step_takes(folder: Path) -> None:
    """Measured by torch's profiler: the highest sum of what the allocator holds in forward, backward and step."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder / "tiny")
    config.text_config.update({"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6})
    rows, length = 8, 256
    arguments = told("tiny-cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).train()
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            embedded = torch.randn(rows, length, 256)
            seen = model.model.multi_modal_projector(torch.randn(rows, 64, 128))
            embedded = torch.cat([seen, embedded[:, 64:]], dim=1)
            model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    expected = estimate_memory(config, arguments, Devices(), rows=rows, length=length).total
    assert expected == pytest.approx(peak, rel=0.15)


def test_the_command_tells_the_plan_as_a_table_or_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--model_name_or_path",
        f"{folder / 'tiny'}",
        "--dataset_name",
        f"{folder / 'release'}",
        "--max_steps",
        "7",
    ]
    assert main(["tune", "tiny-cpu", "--projector-lr", "0.0005", "--dry-run", *given]) == 0
    table = capsys.readouterr().out
    assert "7 (2.33 epochs)" in table
    assert "0.001, projector 0.0005" in table
    assert main(["tune", "tiny-cpu", *given, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["projector_learning_rate"]) == (7, None)
    assert main(["tune", "tiny-cpu", *given, "--json"]) == 2
