"""Tests that models trained by `trl sft` are evaluated with the adapter's weights and projector on their base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_hf.evaluation.evaluate import evaluate
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.training.recipes import read_recipe
from compact_hf.training.train import tune
from compact_hf.training.training_record import RECORD_FILE, read_training_record
from tests.training.samples import texts, write_release

pytestmark = pytest.mark.usefixtures("preforked_training")

LORA_KEYS = ("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("model") / "tiny", texts(30), seed=0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "drawn", rows=30)


def test_an_adapter_trained_with_the_7b_recipes_lora_is_loaded_with_its_base_and_projector(
    tiny: Path, drawn: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from compact_hf.evaluation.inference import Student

    lora = {key: value for key, value in read_recipe("llava15-7b-lora").items() if key in LORA_KEYS}
    recipe = tmp_path / "lora.yaml"
    recipe.write_text(json.dumps({**read_recipe("tiny-cpu"), **lora, "max_steps": 3}))
    out = tmp_path / "adapter"
    tune(recipe, overrides={"model_name_or_path": str(tiny), "dataset_name": str(drawn), "output_dir": str(out)})
    assert (out / "adapter_config.json").is_file()
    assert not (out / "model.safetensors").exists()
    assert "library_name: peft" in (out / "README.md").read_text(encoding="utf-8")

    base = dict(AutoModelForImageTextToText.from_pretrained(tiny).named_parameters())
    loaded = dict(Student(str(out))._network.named_parameters())
    assert loaded.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], loaded[name])}
    assert any("multi_modal_projector" in name for name in changed)
    assert any("q_proj" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)

    evaluation = evaluate(str(out), str(drawn), tmp_path / "results", split="train")
    assert evaluation.results[0].overall.n > 30

    (out / RECORD_FILE).unlink()  # plain `trl sft` does not write this file
    record = read_training_record(out)
    assert (record.base, record.steps, record.versions) == (str(tiny), 3, {})
