"""The card says what is true of the model, and nothing of the machine it was made on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from compact_hf.errors import TuningError
from compact_hf.tuning.model_card import write_card
from compact_hf.tuning.recipes import read_recipe

SCORE = {"n": 40, "right": 10, "accuracy": 0.25, "low": 0.142, "high": 0.402, "majority": {"right": 8, "accuracy": 0.2}}
RESULTS = {"dataset": "12 questions", "overall": SCORE, "by_k": {"2": SCORE}, "by_capability": {"color": SCORE}}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "my-adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("TRL's own")
    return folder


def settings(**other: Any) -> dict[str, Any]:
    return {**read_recipe("llava15-7b-lora"), "model_name_or_path": "org/llava-base", **other}


def test_an_adapters_card_names_base_data_licence_and_task(adapter: Path) -> None:
    data = ModelCard.load(write_card(adapter, settings=settings(), license_id="llama2")).data
    assert (data.base_model, data.base_model_relation) == ("org/llava-base", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("peft", "image-text-to-text")
    assert (data.datasets, data.license) == (["org/compact"], "llama2")


def test_a_model_tuned_in_full_is_no_adapter(tmp_path: Path) -> None:
    card = ModelCard.load(write_card(tmp_path, settings=settings()))
    assert (card.data.base_model_relation, card.data.library_name) == ("finetune", "transformers")
    assert "license" not in card.data.to_dict()
    assert "PeftModel" not in card.text


def test_paths_and_secrets_stay_at_home(adapter: Path) -> None:
    base, dataset = adapter.parent / "base", adapter.parent / "release"
    private = {"hub_token": "hf_secret", "env": {"KEY": "hf_secret"}, "output_dir": str(adapter)}
    card = ModelCard.load(
        write_card(adapter, settings=settings(model_name_or_path=str(base), dataset_name=str(dataset), **private))
    )
    assert str(adapter.parent) not in card.content
    assert "hf_secret" not in card.content
    assert "base_model" not in card.data.to_dict()
    assert "adapter for base, tuned on release" in card.text


def test_a_mixture_of_data_sets_is_named_whole(adapter: Path) -> None:
    mixture = [{"path": "org/one", "split": "train"}, {"path": str(adapter.parent / "two")}]
    card = ModelCard.load(write_card(adapter, settings=settings(datasets=mixture)))
    assert card.data.datasets == ["org/one"]
    assert "tuned on org/one, two" in card.text
    assert str(adapter.parent) not in card.content


def test_results_stand_in_a_table_with_n_interval_and_baseline(adapter: Path) -> None:
    text = write_card(adapter, settings=settings(), results=RESULTS).read_text(encoding="utf-8")
    for label in ("all", "k = 2", "color"):
        assert f"| {label} | 40 | 25.0% | 14.2 to 40.2% | 20.0% |" in text


def test_without_results_it_says_so(adapter: Path) -> None:
    text = write_card(adapter, settings=settings()).read_text(encoding="utf-8")
    assert "None measured yet" in text
    assert "| questions |" not in text


def test_the_snippet_is_python(adapter: Path) -> None:
    text = write_card(adapter, settings=settings()).read_text(encoding="utf-8")
    compile(text.split("```python\n")[1].split("```")[0], "snippet", "exec")


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="cannot be written"):
        write_card(tmp_path / "nowhere", settings=settings())
