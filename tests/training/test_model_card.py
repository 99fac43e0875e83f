"""Checks that the card states facts about the model, and none about the machine that trained it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image

from compact_hf.errors import TuningError
from compact_hf.hub.card import is_edited
from compact_hf.training.card_results import CardResults
from compact_hf.training.model_card import ACCURACY_FILE, CURVE_FILE, read_base_license, write_card, write_card_files
from compact_hf.training.recipes import read_recipe
from compact_hf.training.training_record import RECORD_FILE, TrainingRecord
from tests.doubles.hub.card_rules import find_problems

SCORE = {"n": 40, "right": 10, "accuracy": 0.25, "low": 0.142, "high": 0.402, "majority": {"right": 8, "accuracy": 0.2}}
RESULTS = {"matching": "exact", "overall": SCORE, "by_k": {"2": SCORE}, "by_capability": {"text_recognition": SCORE}}
LORA = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/llava-base",
    "r": 128,
    "lora_alpha": 256,
    "lora_dropout": 0.05,
    "modules_to_save": ["multi_modal_projector"],
}
RECORD = {
    "base": "org/llava-base",
    "base_revision": "0123456789",
    "dataset": "org/compact",
    "dataset_config": "with_images",
    "dataset_revision": "v1.2.3",
    "settings": {"learning_rate": 0.0002, "seed": 42},
    "projector_learning_rate": 2e-5,
    "rows": 61000,
    "dropped": {"broken picture": 3, "too long": 1},
    "loss": [[1, 2.5], [2, 1.5], [3, 1.25]],
    "steps": 480,
    "seconds": 7500.0,
    "hardware": "8 x NVIDIA H100",
    "versions": {"trl": "1.16.0"},
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    directory = tmp_path / "my-adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(LORA))
    (directory / "README.md").write_text("TRL's own")
    return directory


def make_settings(**overrides: Any) -> dict[str, Any]:
    return {**read_recipe("llava15-7b-lora"), "model_name_or_path": "org/llava-base", **overrides}


def test_what_training_wrote_down_stands_in_the_card(adapter: Path) -> None:
    (adapter / RECORD_FILE).write_text(json.dumps(RECORD))
    card = ModelCard.load(write_card(adapter))
    assert (card.data.base_model, card.data.base_model_relation) == ("org/llava-base", "adapter")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "image-text-to-text")
    assert card.data.datasets == ["org/compact"]
    for expected in (
        "[org/llava-base](https://huggingface.co/org/llava-base) at `0123456789`",
        "[org/compact](https://huggingface.co/datasets/org/compact), config `with_images`, at `v1.2.3`",
        "| 61,000; left out: 3 (broken picture), 1 (too long) |",
        "rank 128, alpha 256, dropout 0.05; trained in full: multi_modal_projector",
        "| projector learning rate | 2e-05 |",
        "| steps | 480 |",
        "| 2 h 5 min on 8 x NVIDIA H100 |",
        "| libraries | trl 1.16.0 |",
        "learning_rate: 0.0002\nseed: 42",
        'revision="0123456789"',
    ):
        assert expected in card.text
    assert "![Training loss by step: 2.50 at step 1, 1.25 at step 3](" in card.text


@pytest.mark.usefixtures("every_plot_drawn")
def test_the_training_curve_is_a_picture_beside_the_card(adapter: Path) -> None:
    (adapter / RECORD_FILE).write_text(json.dumps(RECORD))
    text = write_card(adapter).read_text(encoding="utf-8")
    (link,) = re.findall(r"!\[.*\]\((.*)\)", text)
    with Image.open(adapter / link) as image:
        assert (image.format, image.width) == ("PNG", 900)
    (adapter / CURVE_FILE).unlink()
    (adapter / RECORD_FILE).write_text(json.dumps({**RECORD, "loss": []}))
    assert "![" not in write_card(adapter).read_text(encoding="utf-8")
    assert not (adapter / CURVE_FILE).exists()


def test_what_was_not_written_down_is_not_told(adapter: Path) -> None:
    card = ModelCard.load(write_card(adapter))
    assert card.data.base_model == "org/llava-base"
    assert "data that was not written down" in card.text
    assert "The other settings were not recorded." in card.text
    for absent in ("| steps |", "| training time |", "| libraries |", "| rows |", "revision=", "datasets:", "license:"):
        assert absent not in card.content


def test_of_a_folder_of_plain_trl_it_tells_what_trl_left(adapter: Path, tmp_path: Path) -> None:
    for step, loss in ((2, 1.0), (4, 0.5)):
        checkpoint = adapter / f"checkpoint-{step}"
        checkpoint.mkdir()
        log = [{"step": step - 1, "loss": loss}, {"step": step, "grad_norm": 1.0}]
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    card = ModelCard.load(write_card(adapter))
    assert "| steps | 4 |" in card.text
    assert "0.50 at step 3](" in card.text

    full = tmp_path / "full"
    full.mkdir()
    (full / "README.md").write_text("---\nbase_model: org/other-base\ntags:\n- generated_from_trainer\n---\nTRL's")
    assert ModelCard.load(write_card(full)).data.base_model == "org/other-base"


def test_a_model_tuned_in_full_is_no_adapter(tmp_path: Path) -> None:
    card = ModelCard.load(write_card(tmp_path, settings=make_settings()))
    assert (card.data.base_model_relation, card.data.library_name) == ("finetune", "transformers")
    assert "tuned in full" in card.text
    assert "peft" not in card.text.split("## Training")[0]


def test_a_merged_adapter_names_both(tmp_path: Path) -> None:
    record = TrainingRecord(base="org/llava-base", adapter="org/student")
    card = ModelCard.load(write_card_files(tmp_path, record, name="org/merged", license={}))
    assert card.data.base_model == ["org/llava-base", "org/student"]
    assert (card.data.base_model_relation, card.data.library_name) == ("merge", "transformers")


def test_paths_and_secrets_stay_at_home(adapter: Path) -> None:
    base, dataset = adapter.parent / "base", adapter.parent / "release"
    private = {
        "hub_token": "hf_secret",
        "env": {"KEY": "hf_secret"},
        "output_dir": str(adapter),
        "deepspeed": str(adapter.parent / "zero3.json"),
        "datasets": [{"path": str(dataset), "split": "train"}],
    }
    card = ModelCard.load(write_card(adapter, settings=make_settings(model_name_or_path=str(base), **private)))
    assert str(adapter.parent) not in card.content
    assert "hf_secret" not in card.content
    assert "base_model" not in card.data.to_dict()
    assert "adapter for base, tuned on release" in card.text
    assert "deepspeed: zero3.json" in card.text


def test_a_mixture_of_data_sets_is_named_whole(adapter: Path) -> None:
    mixture = [{"path": "org/one", "split": "train"}, {"path": str(adapter.parent / "two")}]
    card = ModelCard.load(write_card(adapter, settings=make_settings(datasets=mixture)))
    assert card.data.datasets == ["org/one"]
    assert "tuned on [org/one](https://huggingface.co/datasets/org/one), two" in card.text


def test_the_license_is_the_bases(adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\nA base.\n")
    card = ModelCard.load(write_card(adapter, settings=make_settings(model_name_or_path=str(base))))
    header = card.data.to_dict()
    assert [header.get(key) for key in ("license", "license_name", "license_link")] == ["other", "own", None]
    assert "own, the license of the base model." in card.text
    (base / "README.md").write_text("A base.\n")
    card = ModelCard.load(write_card(adapter, settings=make_settings(model_name_or_path=str(base))))
    assert "license" not in card.data.to_dict()
    assert "The card of the base model names no license." in card.text


def make_results(dataset: str, *other_models: str) -> CardResults:
    """Return invented results of a model, and of others that are 10 points better, on one dataset."""
    better = json.loads(json.dumps(RESULTS).replace('"accuracy": 0.25', '"accuracy": 0.35'))
    models = [{"model": "mine", **RESULTS}, *({"model": name, **better} for name in other_models)]
    comparisons = [
        {"baseline": "mine", "model": name, "n": 40, "difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.01}
        for name in other_models
    ]
    evaluation = {"schema": 2, "dataset": dataset, "matching": "exact", "models": models, "comparisons": comparisons}
    return CardResults({**evaluation, "notes": ["2 rows were left out."]}, "mine")


@pytest.mark.usefixtures("every_plot_drawn")
def test_results_stand_in_a_table_a_picture_and_the_models_index(adapter: Path) -> None:
    name = "org/asked@v2.0.0 (compositional, validation)"
    card = ModelCard.load(write_card(adapter, settings=make_settings(), results=make_results(name)))
    for label in ("all", "k = 2", "text recognition"):
        assert f"| {label} | 40 | 20.0% | 25.0% (14–40) |" in card.text
    assert "[org/asked](https://huggingface.co/datasets/org/asked)@v2.0.0 (compositional, validation)" in card.text
    assert f"]({ACCURACY_FILE})" in card.text
    assert "2 rows were left out." in card.text
    assert "plurals), by version 1 of these rules." in card.text  # results that name no version
    with Image.open(adapter / ACCURACY_FILE) as image:
        assert (image.format, image.width) == ("PNG", 900)
    eval_results = card.data.eval_results or []
    assert {result.metric_name: (result.metric_args, result.metric_value) for result in eval_results} == {
        "accuracy, all": (None, 0.25),
        "accuracy, k = 2": ({"k": 2}, 0.25),
        "accuracy, text recognition": ({"capability": "text_recognition"}, 0.25),
    }
    first = eval_results[0]
    assert (first.dataset_name, first.dataset_type, first.dataset_revision) == (name, "org/asked", "v2.0.0")
    assert (first.dataset_config, first.dataset_split) == ("compositional", "validation")
    assert card.data.metrics == ["accuracy"]


def test_other_models_stand_beside_in_the_table_and_not_in_the_index(adapter: Path) -> None:
    results = make_results("60 reserved scenes", "/home/someone/models/base", "org/other")
    card = ModelCard.load(write_card(adapter, settings=make_settings(), results=results))
    assert "| questions | n | majority | this model (95%) | base (95%) | org/other (95%) |" in card.text
    assert "| k = 2 | 40 | 20.0% | 25.0% (14–40) | 35.0% (14–40) | 35.0% (14–40) |" in card.text
    assert "base is better than this model on these questions: +10.0 points (+5.0 to +15.0)." in card.text
    assert "/home/someone" not in card.text
    eval_results = card.data.eval_results or []
    assert {(result.metric_value, result.dataset_type, result.dataset_split) for result in eval_results} == {
        (0.25, "60-reserved-scenes", None)
    }


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("org/data@v1.0.0 (k3, test)", "org/data"),
        ("My Release (compositional, validation)", "my-release"),
        ("questions.jsonl (train)", "questions.jsonl"),
        ("squad@main (default, test)", "squad"),
        ("60 reserved scenes, pictures swapped", "60-reserved-scenes-pictures-swapped"),
        ("数据 (train)", "dataset"),
    ],
)
def test_the_type_of_a_dataset_in_the_index_is_an_identifier(name: str, identifier: str, adapter: Path) -> None:
    card = ModelCard.load(write_card(adapter, settings=make_settings(), results=make_results(name)))
    first = (card.data.eval_results or [])[0]
    assert (first.dataset_type, first.dataset_name) == (identifier, name)
    assert find_problems(card.content, "model") == []


def test_a_card_names_the_hub_that_it_is_made_for(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.org")
    card = write_card(adapter, settings=make_settings(), results=make_results("org/asked@v2.0.0")).read_text()
    assert "huggingface.co" not in card
    assert "[org/llava-base](https://hub.example.org/org/llava-base)" in card
    assert "[org/asked](https://hub.example.org/datasets/org/asked)" in card
    assert "set the environment variable `HF_ENDPOINT` to this address" in card


def test_a_model_without_a_base_takes_no_license_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert read_base_license(TrainingRecord()) == {}


def test_results_of_another_task_are_told_by_their_headline(adapter: Path) -> None:
    headline = {"metric": "F1", "n": 30, "value": 0.512, "low": 0.4, "high": 0.6}
    task = {"schema": 3, "task": "pope", "task_version": "2", "dataset": "org/pope", "matching": ""}
    model = {**task, "model": "mine", "headline": headline}
    results = CardResults({**task, "models": [model], "comparisons": [], "notes": []}, "mine")
    card = ModelCard.load(write_card(adapter, settings=make_settings(), results=results))
    assert "The F1 of the evaluation task `pope`, version 2, on [org/pope](" in card.text
    assert "| questions | n | this model (95%) |" in card.text
    assert "| all | 30 | 51.2% (40–60) |" in card.text
    assert "majority" not in card.text
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.metric_name, result.metric_value) == ("f1", "F1, all", 0.512)
    assert card.data.metrics == ["f1"]


def test_a_card_without_results_has_no_picture_of_older_ones(adapter: Path) -> None:
    write_card(adapter, settings=make_settings(), results=make_results("60 reserved scenes"))
    write_card(adapter, settings=make_settings())
    assert not (adapter / ACCURACY_FILE).exists()


def test_without_results_it_says_so(adapter: Path) -> None:
    card = ModelCard.load(write_card(adapter, settings=make_settings()))
    assert "No results yet" in card.text
    assert "| questions |" not in card.text
    assert card.data.eval_results is None


def test_it_is_known_as_ours_until_somebody_edits_it(adapter: Path) -> None:
    text = write_card(adapter, settings=make_settings()).read_text(encoding="utf-8")
    assert (is_edited(text), is_edited(text.replace("No results yet", "Very good"))) == (False, True)


def test_what_makes_no_card_is_told_in_one_line(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="cannot be written"):
        write_card(tmp_path / "nowhere", settings=make_settings())
    (adapter / RECORD_FILE).write_text('{"loss": "low"}')
    with pytest.raises(TuningError, match=r"training.json cannot be read \(.*loss") as excinfo:
        write_card(adapter)
    assert "\n" not in str(excinfo.value)
    (tmp_path / "README.md").write_text("Nothing is known of this.")
    with pytest.raises(TuningError, match="has no record of its training"):
        write_card(tmp_path)
