"""Checks `--train`: which parts of a model are trained, how and at which rates, and what is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import TuningError, UsageError
from compact_hf.models.registry import get_family
from compact_hf.training import sft
from compact_hf.training.dry_run import dry_run
from compact_hf.training.recipes import recipe_path
from compact_hf.training.train import build_job
from compact_hf.training.trained_parts import format_train, parse_train
from tests.training.samples import make_settings, to_cli_args, write_base_and_release

# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LLAVA = get_family("llava")


@pytest.mark.parametrize(
    ("text", "use_peft", "expected"),
    [
        ("projector", False, "projector:full"),
        ("projector, tower", False, "projector:full,tower:full"),
        ("language_model:lora", False, "language_model:lora"),
        # With a LoRA, LLaVA's projector is trained in full at a tenth of the learning rate.
        ("projector,language_model:lora", False, "projector:full@0.0001,language_model:lora"),
        ("projector,language_model,tower", True, "projector:full@0.0001,language_model:lora,tower:lora"),
        ("projector@3e-4,language_model@1e-4", True, "projector:full@0.0003,language_model:lora@0.0001"),
        ("projector:lora,language_model", True, "projector:lora,language_model:lora"),
        ("projector", True, "projector:full"),
        ("language_model:full,tower:full", True, "language_model:full,tower:full"),
    ],
)
def test_what_is_left_open_is_filled_in_and_reads_back_as_the_same(text: str, use_peft: bool, expected: str) -> None:
    parts = parse_train(text, use_peft=use_peft, learning_rate=1e-3)
    assert format_train(parts) == expected
    assert parse_train(expected) == parts


def test_the_projectors_rate_may_be_given_beside_it() -> None:
    parts = parse_train("projector,tower", projector_learning_rate=0.5)
    assert format_train(parts) == "projector:full@0.5,tower:full"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "--train '' cannot be parsed: give each part once"),
        ("projector,,tower", {}, "--train 'projector,,tower' cannot be parsed"),
        ("projector,projector:lora", {}, "give each part once"),
        ("projector:lorra", {}, "an unknown method: use lora or full; did you mean lora?"),
        ("projector@fast", {}, "'fast' is not a number: give a learning rate"),
        ("projector@3", {}, "give one between 0 and 1"),
        ("projector@nan", {}, "give one between 0 and 1"),
        ("language_model:full,tower:lora", {}, "trains the language model in full together with a LoRA"),
        ("projector@0.1", {"projector_learning_rate": 0.1}, "--projector-lr conflicts with --train"),
        ("tower", {"projector_learning_rate": 0.1}, "--projector-lr conflicts with --train"),
    ],
)
def test_what_cannot_be_trained_is_a_wrong_usage(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as excinfo:
        parse_train(text, **options)
    assert message in str(excinfo.value)


def test_it_stands_beside_a_recipe_not_in_it(tmp_path: Path) -> None:
    data = {"dataset_name": str(tmp_path)}
    job = build_job("llava15-7b-lora", overrides=data, train="projector,language_model")
    assert job.settings["train"] == "projector:full@2e-05,language_model:lora"
    assert job.settings["projector_learning_rate"] is None
    assert job.options[-2:] == ("--train", job.settings["train"])
    assert "train" not in build_job("llava15-7b-lora", overrides=data).options
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"{recipe_path('tiny-cpu').read_text()}\ntrain: projector\n")
    with pytest.raises(TuningError, match=r"has the key train, which plain trl sft does not accept: .* give --train"):
        build_job(recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_and_release(tmp_path_factory.mktemp("parts"), rows=24, text_rows=10)


def train(directory: Path, out: Path, **overrides: str) -> dict[str, Any]:
    """Run the training script in this process for four steps, and return its record."""
    settings = {"output_dir": str(out), "max_steps": "4", "save_steps": "4", "save_only_model": "false"} | overrides
    with redirect_stdout(StringIO()):
        sft.main(["--config", str(recipe_path("tiny-cpu")), *to_cli_args(make_settings(directory, **settings))])
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    return record


def changed_parts(directory: Path, out: Path) -> set[str | None]:
    import torch
    from transformers import AutoModelForImageTextToText

    base = dict(AutoModelForImageTextToText.from_pretrained(directory / "tiny").named_parameters())
    tuned = AutoModelForImageTextToText.from_pretrained(out).named_parameters()
    return {LLAVA.find_part(name) for name, weight in tuned if not torch.equal(weight, base[name])}


def test_the_projector_alone_is_trained_in_full_on_the_rows_that_have_an_image(folder: Path, tmp_path: Path) -> None:
    """This is LLaVA's first stage. The loss of a row without an image has no gradient."""
    record = train(folder, tmp_path / "out", train="projector")
    assert changed_parts(folder, tmp_path / "out") == {"projector"}
    assert record["dropped"] == {"no picture": 10}
    assert record["train"] == "projector:full"


def test_each_part_in_full_has_its_own_rate_and_is_resumed_with_it(folder: Path, tmp_path: Path) -> None:
    import torch

    settings = {
        "train": "tower@0.0002,language_model@0.0003",
        "save_steps": "2",
        "save_total_limit": "2",
        "logging_steps": "1",
    }
    out = tmp_path / "out"
    whole = train(folder, out, **settings)
    assert changed_parts(folder, out) == {"tower", "language_model"}
    groups = torch.load(out / "checkpoint-4" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {group["initial_lr"] for group in groups if group["params"]} == {0.0002, 0.0003}

    weights = (out / "model.safetensors").read_bytes()
    (out / "training.json").unlink()
    shutil.rmtree(out / "checkpoint-4")
    assert train(folder, out, **settings)["loss"] == whole["loss"]
    assert (out / "model.safetensors").read_bytes() == weights


def test_the_dry_run_counts_what_is_trained_and_the_command_says_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def count_trained(parts: str | None) -> int:
        settings = make_settings(folder, output_dir=str(folder / "out"))
        return dry_run("tiny-cpu", overrides=settings, train=parts).memory.trained

    everything = count_trained(None)
    assert count_trained("projector,language_model,tower") == everything
    assert sum(count_trained(part) for part in LLAVA.parts) == everything
    args = ["--dry-run", *to_cli_args(make_settings(folder, output_dir=str(folder / "out")))]
    assert main(["tune", "tiny-cpu", "--train", "projector@0.0005,tower@0.0001", *args]) == 0
    table = capsys.readouterr().out
    assert "projector:full@0.0005,tower:full@0.0001" in table
    assert "0.001, projector 0.0005, tower 0.0001" in table
    assert main(["tune", "tiny-cpu", "--train", "eyes", *args]) == 2
    assert "LLaVA has no part 'eyes' to train: choose from projector, language_model, tower" in capsys.readouterr().err
