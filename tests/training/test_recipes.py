"""Checks that the parsers of TRL and accelerate accept all recipes, and that they can train a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import UsageError
from compact_hf.training.recipes import check_recipe_keys, copy_recipe, read_recipe, recipe_names, recipe_path
from tests.training.samples import texts, write_release

LLAVA_RECIPES = [name for name in recipe_names() if name.startswith("llava15-7b")]
SHARDED_RECIPES = ("llava15-7b-lora-fsdp2", "llava15-7b-lora-zero3")
# On a machine without a GPU, bfloat16 is accepted only together with use_cpu.
ON_CPU = ("--use_cpu", "true")
# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
IGNORE_DEPRECATION = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def parse_recipe(recipe: Path, *options: str) -> Any:
    """Parse a recipe as `trl sft --config RECIPE` does; return TRL's dataclasses and the launcher's settings."""
    from accelerate.commands.launch import launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument
    from trl.scripts.sft import make_parser

    *settings, rest = make_parser(prog="trl sft").parse_args_and_config(
        ["--config", str(recipe), *options], return_remaining_strings=True
    )
    # Keys that the training script does not know go to the launcher, which refuses unknown ones.
    launch = launch_command_parser().parse_args([*resolve_accelerate_config_argument(rest), "sft.py"])
    return *settings, launch


def launch_environment(recipe: str) -> tuple[Any, dict[str, str]]:
    """Return how accelerate starts a recipe, as far as it can be known without a GPU: settings and environment."""
    from accelerate.commands.launch import _validate_launch_command
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    launch, defaults, _ = _validate_launch_command(parse_recipe(recipe_path(recipe), *ON_CPU)[-1])
    if launch.use_deepspeed:
        # Arguments that launch_command itself adds before it starts DeepSpeed.
        launch.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return launch, prepare_deepspeed_cmd_env(launch)[1]
    if launch.multi_gpu or launch.use_fsdp:
        return launch, prepare_multi_gpu_env(launch)
    return launch, prepare_simple_launcher_cmd_env(launch)[1]


@pytest.mark.parametrize("name", LLAVA_RECIPES)
def test_every_7b_recipe_has_llava15s_settings(name: str) -> None:
    script, training, model, _, launch = parse_recipe(recipe_path(name), *ON_CPU)
    assert launch.num_processes * training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert (model.use_peft, model.lora_r, model.lora_alpha, model.lora_dropout) == (True, 128, 256, 0.05)
    assert model.lora_modules_to_save == ["multi_modal_projector"]
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_steps) == (2e-4, "cosine", 0.03)
    assert (training.num_train_epochs, training.weight_decay, training.max_length) == (1, 0.0, 2048)
    assert training.optim == "adamw_torch_fused"
    assert training.bf16
    assert training.assistant_only_loss
    assert training.gradient_checkpointing
    assert model.dtype == "bfloat16"
    assert launch.mixed_precision == "bf16"
    assert script.dataset_name == "org/compact"
    # With sharded weights, a batch without an image would make the other GPUs wait forever.
    assert script.dataset_config == ("with_images" if name in SHARDED_RECIPES else "all")


def test_7b_recipes_differ_only_in_what_their_machines_need() -> None:
    machine_keys = {
        "accelerate_config",
        "num_processes",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "dataset_config",
        "model_init_kwargs",
        "output_dir",
    }
    shared_settings = [
        {key: value for key, value in read_recipe(name).items() if key not in machine_keys} for name in LLAVA_RECIPES
    ]
    assert all(settings == shared_settings[0] for settings in shared_settings)


def test_accelerate_starts_the_machines_that_recipes_are_for() -> None:
    for name in ("llava15-7b-lora-1gpu", "llava15-7b-qlora"):
        launch, variables = launch_environment(name)
        assert (launch.num_processes, launch.multi_gpu, launch.use_fsdp, launch.use_deepspeed) == (
            1,
            False,
            False,
            False,
        )
        assert variables["ACCELERATE_MIXED_PRECISION"] == "bf16"

    launch, variables = launch_environment("llava15-7b-lora")
    assert (launch.nproc_per_node, launch.multi_gpu, launch.use_fsdp) == ("8", True, False)
    assert variables["ACCELERATE_MIXED_PRECISION"] == "bf16"

    launch, variables = launch_environment("llava15-7b-lora-fsdp2")
    assert launch.nproc_per_node == "8"
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    assert variables["FSDP_VERSION"] == "2"
    assert variables["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"

    launch, variables = launch_environment("llava15-7b-lora-zero3")
    assert launch.nproc_per_node == "8"
    assert variables["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert variables["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"


@IGNORE_DEPRECATION
def test_the_7b_recipes_lora_reaches_the_language_model_only(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl import get_peft_config

    from compact_hf.models.llava.tiny import build_tiny

    *_, model_args, _, _ = parse_recipe(recipe_path("llava15-7b-lora"), *ON_CPU)
    llava = AutoModelForImageTextToText.from_pretrained(build_tiny(tmp_path / "tiny", ["red"], seed=0))
    tuned = get_peft_model(llava, get_peft_config(model_args))
    trainable = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    lora = {name.split(".lora_")[0] for name in trainable if ".lora_" in name}
    assert len(lora) == 7 * llava.config.text_config.num_hidden_layers
    assert all("language_model" in name for name in lora)
    others = {name for name in trainable if ".lora_" not in name}
    assert others
    assert all("multi_modal_projector" in name for name in others)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return options that make a 7B recipe run in seconds: a tiny base and dataset, fewer and smaller steps."""
    from compact_hf.models.llava.tiny import build_tiny

    directory = tmp_path_factory.mktemp("recipes")
    base = build_tiny(directory / "base", texts(8), seed=0)
    data = write_release(directory / "release", rows=8, text_rows=2)
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 0}
    options = {**sizes, "model_name_or_path": base, "dataset_name": data, "lora_r": 4, "max_steps": 2}
    return (*ON_CPU, *(part for key, value in options.items() for part in (f"--{key}", str(value))))


def train_with_trl(recipe: str, small: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Train with TRL's own script in this process, and return the adapter's weights."""
    from safetensors.torch import load_file
    from trl.scripts.sft import main as sft

    *settings, _ = parse_recipe(recipe_path(recipe), *small, "--output_dir", str(out))
    sft(*settings)
    weights: dict[str, Any] = load_file(out / "adapter_model.safetensors")
    return weights


@IGNORE_DEPRECATION
def test_the_7b_recipe_trains_at_tiny_size_in_one_process(small: tuple[str, ...], tmp_path: Path) -> None:
    weights = train_with_trl("llava15-7b-lora", small, tmp_path)
    # LoRA initializes B with zeros: nonzero values have been trained.
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in weights.items())
    assert any("multi_modal_projector" in name for name in weights)


@IGNORE_DEPRECATION
@pytest.mark.slow
def test_the_qlora_recipe_trains_at_tiny_size_with_a_language_model_of_4_bits_only(
    small: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora")
    from transformers import AutoModelForImageTextToText

    assert any(tensor.any() for tensor in train_with_trl("llava15-7b-qlora", small, tmp_path).values())
    *_, model_args, _, _ = parse_recipe(recipe_path("llava15-7b-qlora"), *small)
    model = AutoModelForImageTextToText.from_pretrained(
        model_args.model_name_or_path, **read_recipe("llava15-7b-qlora")["model_init_kwargs"]
    )
    quantized = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(quantized) == 7 * model.config.text_config.num_hidden_layers
    assert all(name.startswith("model.language_model.") for name in quantized)


def test_the_tiny_recipe_stays_on_one_cpu_process() -> None:
    _, training, _, _, launch = parse_recipe(recipe_path("tiny-cpu"))
    assert training.use_cpu
    assert (launch.num_processes, launch.num_machines) == (1, 1)
    assert training.device.type == "cpu"


def test_options_on_the_command_line_replace_the_recipes() -> None:
    script, training, model, *_ = parse_recipe(
        recipe_path("tiny-cpu"), "--model_name_or_path", "here", "--dataset_name", "there", "--output_dir", "out"
    )
    assert (model.model_name_or_path, script.dataset_name, training.output_dir) == ("here", "there", "out")


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_the_shipped_recipes_is_known(name: str) -> None:
    settings = read_recipe(name)
    check_recipe_keys(settings)
    with pytest.raises(UsageError, match=r"accepts: lora_alfa; did you mean lora_alpha\?$"):
        check_recipe_keys({**settings, "lora_alfa": 8})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_alfa": 8, "seed": 1}, r"accepts: lora_alfa; did you mean lora_alpha\?$"),
        ({"lora_rank": 8}, r"accepts: lora_rank; did you mean lora_r\?$"),
        ({"num_proceses": 8}, "accepts: num_proceses; did you mean num_processes?"),
        ({"learning-rate": 1}, "accepts: learning-rate; did you mean learning_rate?"),
        ({"zzz": 8}, "accepts: zzz$"),
        ({"accelerate_config": "zero-3"}, "accelerate_config zero-3 is neither .* did you mean zero3?"),
        ({"accelerate_config": "there/is/none.yaml"}, "neither a file nor one of fsdp1, fsdp2"),
    ],
)
def test_a_mistyped_key_is_told_with_the_nearest(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as excinfo:
        check_recipe_keys(settings)
    assert "\n" not in str(excinfo.value)


def test_an_accelerate_config_may_be_a_file(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("num_machines: 2\n")
    settings = {"accelerate_config": str(config), "env": {"NCCL_DEBUG": "WARN"}}
    check_recipe_keys(settings)
    config.unlink()
    with pytest.raises(UsageError, match="neither a file nor one of"):
        check_recipe_keys(settings)


def test_what_is_refused_is_what_trl_stops_at(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(recipe_path("tiny-cpu").read_text() + "\nlora_rank: 8\n")
    with pytest.raises(SystemExit):
        parse_recipe(recipe)


@pytest.fixture
def untaught(small: tuple[str, ...], tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return a base without a chat template, and the other options."""
    options = dict(zip(small[::2], small[1::2], strict=True))
    base = Path(options.pop("--model_name_or_path"))
    directory = tmp_path / "untaught"
    directory.mkdir()
    for file in base.iterdir():
        if file.name != "chat_template.jinja":
            (directory / file.name).symlink_to(file)
    return directory, tuple(part for pair in options.items() for part in pair)


@IGNORE_DEPRECATION
def test_a_copied_recipe_teaches_a_base_without_a_template(
    untaught: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    base, options = untaught
    copy = copy_recipe("llava15-7b-lora", tmp_path, model=str(base))
    assert any(tensor.any() for tensor in train_with_trl(str(copy.recipe), options, tmp_path / "out").values())
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == copy.template.read_text()


@pytest.mark.slow
def test_a_copied_recipe_runs_by_plain_trl(untaught: tuple[Path, tuple[str, ...]], tmp_path: Path) -> None:
    base, options = untaught
    copy = copy_recipe("llava15-7b-lora-1gpu", tmp_path, model=str(base))
    trl = [str(Path(sys.executable).with_name("trl")), "sft", "--config", str(copy.recipe)]
    command = [*trl, "--output_dir", str(tmp_path / "out"), *options]
    process = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "compact_hf" not in process.stderr
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
