"""Runs the script that trains the shipped student with minimal stages, and checks what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from compact_hf.config import read_config
from compact_hf.errors import UsageError
from student_script.build_student import Config, build, main

SCRIPT = Path(__file__).parents[2] / "student_script"


def write_small_config(tmp_path: Path) -> Path:
    """Write a config and a recipe with a few steps per stage."""
    config: dict[str, Any] = yaml.safe_load((SCRIPT / "student.yaml").read_text())
    config |= {"vocabulary_scenes": 60, "source": "scenes:30", "reserved_scenes": 2}
    config["seeing"] = {"steps": 8, "batch": 2, "learning_rate": 0.002}
    config["language"] = {"steps": 8, "batch": 2, "learning_rate": 0.002, "tokens": 300}
    config["alignment"] = {"steps": 8, "batch": 2, "learning_rate": 0.002, "tokens": 320}
    recipe: dict[str, Any] = yaml.safe_load((SCRIPT / "student-lora.yaml").read_text())
    recipe |= {"max_steps": 3, "per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 3}
    (tmp_path / "student-lora.yaml").write_text(yaml.safe_dump(recipe))
    file = tmp_path / "student.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


# PEFT 0.21 uses a property that transformers 5.23 has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.slow
def test_every_stage_runs_and_the_adapter_loads_over_the_aligned_base(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    file, out = write_small_config(tmp_path), tmp_path / "build"
    figures = build(read_config(file, Config, example="one.yaml"), out, recipe=tmp_path / "student-lora.yaml")
    for stage in ("seeing", "language", "alignment"):
        log = [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == list(range(1, 9))
        assert log[-1]["loss"] < log[0]["loss"]
    assert figures["tuning"]["steps"] == 3
    assert sum(score["n"] for score in figures["by_query"].values()) == figures["scores"]["tuned"]["overall"]["n"]
    assert set(figures["scores"]) == {"aligned", "tuned", "swapped"}
    assert figures == build(read_config(file, Config, example="one.yaml"), out, recipe=tmp_path / "student-lora.yaml")
    base = AutoModelForImageTextToText.from_pretrained(out / "aligned")
    model = PeftModel.from_pretrained(base, str(out / "tuned"))
    trained = {name for name, weight in model.named_parameters() if "lora_B" in name and weight.any()}
    assert any("language_model" in name for name in trained)
    assert any("multi_modal_projector" in name for name in trained)
    assert not any("vision_tower" in name for name in trained)
    assert AutoProcessor.from_pretrained(out / "tuned").chat_template


def test_another_config_is_not_mixed_in(tmp_path: Path) -> None:
    config = read_config(SCRIPT / "student.yaml", Config, example="one.yaml")
    (tmp_path / "student.yaml").write_text("seed: 7\n")
    with pytest.raises(UsageError, match="another config"):
        build(config, tmp_path, recipe=SCRIPT / "student-lora.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [("seed: [", "not valid YAML"), ("seed: one\n", "seed: "), ("seeds: 1\n", "valid keys are seed")],
)
def test_a_config_that_is_none_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    file = tmp_path / "student.yaml"
    file.write_text(text)
    assert main([str(file), "--out", str(tmp_path / "build")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "build").exists()
