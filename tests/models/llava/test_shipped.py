"""Checks that the shipped student is small, can be loaded, and has scores that show that it uses the image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_hf.models.llava.shipped import CHECKPOINTS_DIRECTORY, copy_student
from tests.doubles.hub.server import HubServer
from tests.hub.clients import COMPACT, contents, revision_files, run

FIGURES = Path(__file__).parents[3] / "docs" / "figures" / "student.json"


def test_both_checkpoints_leave_the_wheel_under_12_megabytes_and_name_no_folder_of_their_makers() -> None:
    files = [path for path in CHECKPOINTS_DIRECTORY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10.5e6
    assert not [path for path in files if path.suffix == ".json" and b"/tmp" in path.read_bytes()]


# PEFT 0.21 uses a property that transformers 5.23 has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_adapter_loads_over_the_aligned_base(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    aligned, tuned = copy_student(tmp_path)
    assert json.loads((tuned / "adapter_config.json").read_text())["base_model_name_or_path"] == str(aligned)
    base = AutoModelForImageTextToText.from_pretrained(aligned)
    assert PeftModel.from_pretrained(base, str(tuned)).active_adapter == "default"
    assert AutoProcessor.from_pretrained(tuned).chat_template == AutoProcessor.from_pretrained(aligned).chat_template


def test_both_are_published_with_their_cards(tmp_path: Path) -> None:
    aligned, tuned = copy_student(tmp_path / "students")
    with HubServer() as server:
        for command in ((aligned, "org/aligned"), (tuned, "org/tuned", "--base", "org/aligned")):
            process = run(server, COMPACT, "publish", *command, home=tmp_path / "home")
            assert process.returncode == 0, process.stderr
            assert "metadata block was not found" not in process.stderr
        base, adapter = (
            revision_files(server.store.repository("model", name), "main") for name in ("org/aligned", "org/tuned")
        )
    assert base == contents(aligned)
    assert base["README.md"].startswith(b"---\nlicense: apache-2.0\n")
    assert b"base_model: org/aligned\n" in adapter["README.md"]
    assert b"license: apache-2.0\n" in adapter["README.md"]


def test_at_every_k_it_is_above_the_majority_and_above_not_looking() -> None:
    scores = json.loads(FIGURES.read_text())["scores"]
    tuned, swapped = (scores[name]["by_k"] for name in ("tuned", "swapped"))
    assert set(tuned) == {"1", "2", "3", "4", "5"}
    assert all(score["low"] > score["majority"]["accuracy"] for score in tuned.values())
    assert all(score["low"] > swapped[k]["high"] for k, score in tuned.items())
