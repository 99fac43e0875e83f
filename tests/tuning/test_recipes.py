"""Recipes are found, read, and taken by TRL's own parser as `trl sft --config` uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import TuningError
from compact_hf.tuning.recipes import read_recipe, recipe_names, recipe_path


def parsed(recipe: Path, *options: str) -> Any:
    """What `trl sft --config recipe` makes of it: its dataclasses, and the launcher's settings."""
    from accelerate.commands.launch import launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument
    from trl.scripts.sft import make_parser

    *settings, rest = make_parser(prog="trl sft").parse_args_and_config(
        ["--config", str(recipe), *options], return_remaining_strings=True
    )
    # What the training script does not know goes to the launcher, which refuses what it does not know either.
    launch = launch_command_parser().parse_args([*resolve_accelerate_config_argument(rest), "sft.py"])
    return *settings, launch


def test_the_shipped_recipes() -> None:
    assert recipe_names() == ("llava15-7b-lora", "tiny-cpu")


def test_the_7b_recipe_has_llava15s_settings() -> None:
    # bfloat16 on a machine without a GPU is only let through together with use_cpu.
    script, training, model, _, launch = parsed(recipe_path("llava15-7b-lora"), "--use_cpu", "true")
    assert (script.dataset_name, script.dataset_config) == ("org/compact", "with_images")
    assert launch.num_processes * training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert (model.use_peft, model.lora_r, model.lora_alpha, model.lora_dropout) == (True, 128, 256, 0.05)
    assert model.lora_modules_to_save == ["multi_modal_projector"]
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_steps) == (2e-4, "cosine", 0.03)
    assert (training.num_train_epochs, training.weight_decay, training.max_length) == (1, 0.0, 2048)
    assert training.bf16
    assert training.assistant_only_loss
    assert training.gradient_checkpointing
    assert model.dtype == "bfloat16"
    assert launch.mixed_precision == "bf16"


# PEFT 0.21 still asks by the name that transformers 5.23 has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_7b_recipes_lora_reaches_the_language_model_only(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl import get_peft_config

    from compact_hf.tuning.tiny import build_tiny

    *_, model_args, _, _ = parsed(recipe_path("llava15-7b-lora"), "--use_cpu", "true")
    llava = AutoModelForImageTextToText.from_pretrained(build_tiny(tmp_path / "tiny", ["red"], seed=0))
    tuned = get_peft_model(llava, get_peft_config(model_args))
    trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    lora = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
    assert len(lora) == 7 * llava.config.text_config.num_hidden_layers
    assert all("language_model" in name for name in lora)
    others = {name for name in trained if ".lora_" not in name}
    assert others
    assert all("multi_modal_projector" in name for name in others)


def test_the_tiny_recipe_stays_on_one_cpu_process() -> None:
    _, training, _, _, launch = parsed(recipe_path("tiny-cpu"))
    assert training.use_cpu
    assert (launch.num_processes, launch.num_machines) == (1, 1)
    assert training.device.type == "cpu"


def test_options_on_the_command_line_replace_the_recipes() -> None:
    script, training, model, *_ = parsed(
        recipe_path("tiny-cpu"), "--model_name_or_path", "here", "--dataset_name", "there", "--output_dir", "out"
    )
    assert (model.model_name_or_path, script.dataset_name, training.output_dir) == ("here", "there", "out")


def test_a_mistyped_setting_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(recipe_path("tiny-cpu").read_text() + "\nlora_rank: 8\n")
    with pytest.raises(SystemExit):
        parsed(recipe)


def test_a_file_of_ones_own_is_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 0.1\n")
    assert read_recipe(recipe) == {"learning_rate": 0.1}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny-gpu", "did you mean 'tiny-cpu'"),
        ("llava-7b-lora", "did you mean 'llava15-7b-lora'"),
        ("xyz", "one of llava15-7b-lora, tiny-cpu"),
        ("elsewhere/tiny-cpu", "give a YAML file or one of"),
        ("", "give a YAML file or one of"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(TuningError, match=told):
        recipe_path(name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1\n", "cannot be read"),
        (b"- a\n- b\n", "holds list"),
        (b"", "holds NoneType"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_bytes(content)
    with pytest.raises(TuningError, match=told) as caught:
        read_recipe(recipe)
    assert "\n" not in str(caught.value)
