"""Tests benchmarks/training.py with few rows and steps, so that it takes seconds."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import tables

# PEFT 0.21 still uses an attribute that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
MACHINE = {"gpu": "", "cpu": "x", "cores": 2, "threads": 1, "torch": "2.0", "load": [0.0, 1.0]}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(tables.__file__).parent))
    return importlib.import_module("training")


@pytest.mark.slow
def test_every_figure_is_measured_and_shown(training: ModuleType, tmp_path: Path) -> None:
    """Only the first rows of the table, measured in this process, to be faster."""
    trained = importlib.import_module("trained")
    base_setup = trained.TrainingSetup(
        training.build_release(tmp_path, image_count=12), "tiny", steps=1, batch=1, workers=0
    )
    setups = dict(list(training.build_setups(base_setup).items())[:3])
    results = json.loads(json.dumps({name: trained.measure(setup) for name, setup in setups.items()}))
    for figures in results.values():
        assert set(tables.TRAINING_COLUMNS) <= set(figures)
        assert all(figures[key] > 0 for key in tables.TRAINING_COLUMNS if key != "peak_mb")
        assert figures["of_peak"] < 1
        assert figures["waiting_for_rows"] < 1
    separate, plain, ours = results.values()
    # In `separate` a row has one question. In the others it has two or three questions about one image.
    assert separate["questions_per_second"] == separate["rows_per_second"]
    assert 2 <= round(ours["questions_per_second"] / ours["rows_per_second"], 9) <= 3
    assert 2 < separate["tokens_per_question"] / plain["tokens_per_question"] < 3
    gains = training.compute_gains(results)
    assert gains["format"] == plain["questions_per_second"] / separate["questions_per_second"]
    table = tables.format_training({"machine": MACHINE, "size": "tiny", "lines": results, "gains": gains})
    assert table.count("\n| ") == len(setups)
    assert table.endswith("on x, 2 cores, 1 of them used for training, torch 2.0, load 0.0 to 1.0")


def test_a_row_costs_what_llava_7b_takes_by_hand(training: ModuleType) -> None:
    """Four operations for each of 6.6 billion weights and 680 tokens are 18 TFLOP; LoRA and attention are added."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    from compact_hf.training.recipes import read_recipe

    trained, trainers = importlib.import_module("trained"), importlib.import_module("trainers")
    (target,) = read_recipe("llava15-7b-lora")["lora_target_modules"]
    lora = LoraConfig(r=128, target_modules=target, modules_to_save=["multi_modal_projector"])
    with torch.device("meta"):
        config = trainers.build_config(trainers.SHAPES["7b"], vocabulary=32064, image_token=32000)
        work = trained.estimate_cost(get_peft_model(LlavaForConditionalGeneration(config), lora))
    adapted = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32064
    assert 680 * 4 * linear == pytest.approx(18e12, rel=0.01)
    assert work.per_token == pytest.approx(4 * linear + 6 * adapted, rel=1e-4)
    assert work.count_operations(1, 680) == pytest.approx(680 * (4 * linear + 6 * adapted), rel=0.05)
    assert work.per_image < 0.025 * work.count_operations(1, 680), (
        "the vision tower is cheap: its outputs need no cache"
    )
    assert work.count_operations(3, 3 * 680) == pytest.approx(3 * work.count_operations(1, 680))


@pytest.mark.slow
def test_a_switch_that_does_not_hold_is_told_in_its_line(training: ModuleType, tmp_path: Path) -> None:
    release = training.build_release(tmp_path, image_count=12)
    setup = replace(
        next(iter(training.build_setups(training.TrainingSetup(release, "tiny", 1)).values())), attention="none such"
    )
    figures = training.measure(setup)
    assert "none such" in figures["failed"]
    table = tables.format_training({"machine": MACHINE, "size": "tiny", "lines": {"it": figures}, "gains": {}})
    assert "| it | failed |" in table
