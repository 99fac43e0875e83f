"""Runs the script that trains the shipped student with minimal stages, and checks what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from compact_hf.config import read_config
from compact_hf.errors import TuningError, UsageError
from compact_hf.models.llava.shipped import copy_student
from student_script import build_student
from student_script.build_student import Config, build, check_seeds, main, ship

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
    counts = {name: sum(score["n"] for score in part.values()) for name, part in figures["by_query"].items()}
    by_k = figures["scores"]["tuned"]["by_k"]
    assert counts["tuned"] == sum(by_k[k]["n"] for k in "123")
    assert counts["all"] == counts["tuned"] + counts["untuned"] == figures["scores"]["tuned"]["overall"]["n"]
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


def test_no_two_stages_have_the_same_scenes() -> None:
    config = read_config(SCRIPT / "student.yaml", Config, example="one.yaml")
    check_seeds(config)
    for change, error in (
        ({"source": "scenes:2000000"}, "source has scenes with the seeds 0 to 1999999, and vocabulary_scenes begins"),
        ({"source": "scenes:4001000-4001001"}, "language has scenes .* and source begins at 4001000: make language"),
        ({"seeing": config.seeing.model_copy(update={"steps": 62_501})}, "seeing .* to 4000015, and language begins"),
        ({"source": "scenes:1000000000-1000000001"}, "reserved for evaluation"),
    ):
        with pytest.raises(UsageError, match=error):
            check_seeds(config.model_copy(update=change))


def test_what_is_shipped_has_half_the_size_and_replaces_what_was_there_only_if_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shipped, out = tmp_path / "checkpoints", tmp_path / "build"
    aligned, _ = copy_student(out)
    shutil.copytree(build_student.CHECKPOINTS_DIRECTORY, shipped)
    (shipped / "tuned" / "earlier.json").touch()
    monkeypatch.setattr(build_student, "CHECKPOINTS_DIRECTORY", shipped)
    monkeypatch.setattr(build_student, "_ROOT", tmp_path)
    for file, copy in build_student._RESULT_FILES.items():
        for path in (out / file, tmp_path / copy):
            path.parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text(file)
    weights = {name: weight.float() for name, weight in load_file(aligned / "model.safetensors").items()}
    not_rounded = {name: weight + 1e-3 * torch.rand_like(weight) for name, weight in weights.items()}
    before = {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
    save_file(not_rounded, aligned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TuningError, match="not rounded to bfloat16"):
        ship(out)
    assert {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()} == before

    rounded = {name: weight.bfloat16().float() for name, weight in not_rounded.items()}
    save_file(rounded, aligned / "model.safetensors", metadata={"format": "pt"})
    assert ship(out) == sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file())
    assert not (shipped / "tuned" / "earlier.json").exists()
    assert (shipped / "aligned" / "README.md").read_bytes() == before[shipped / "aligned" / "README.md"]
    assert json.loads((shipped / "tuned" / "adapter_config.json").read_text())["base_model_name_or_path"] == "aligned"
    halves = load_file(shipped / "aligned" / "model.safetensors")
    assert {half.dtype for half in halves.values()} == {torch.bfloat16}
    assert all(torch.equal(half.float(), rounded[name]) for name, half in halves.items())
    assert (tmp_path / "spaces_demo" / "swapped.json").read_text() == "swapped/results.json"
    assert str(tmp_path) not in (shipped / "tuned" / "adapter_config.json").read_text()


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
