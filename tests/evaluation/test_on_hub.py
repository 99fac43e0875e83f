"""Tests that a model and a dataset on the Hub get the same results as local ones, at the requested revision."""

from __future__ import annotations

import json
from pathlib import Path

from compact_hf.evaluation.evaluate import evaluate
from compact_hf.models.llava.tiny import build_tiny
from tests.doubles.hub.server import HubServer
from tests.hub.clients import COMPACT, run, run_source
from tests.training.samples import MODEL_SIZE, texts, write_release

PUBLISH = """
import sys
from compact_hf.hub.push import push
folder = sys.argv[1]
push(f"{folder}/tiny", "org/tiny", repo_type="model", message="a model")
for version in ("v1.0.0", "v1.1.0"):
    push(f"{folder}/{version}", "org/things", repo_type="dataset", message=version, tag=version)
told = None
"""
ONLINE = {"HF_HUB_OFFLINE": "0"}


def read_predictions(out: Path) -> list[dict[str, object]]:
    (file,) = out.glob("*/predictions.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_of_the_hub_and_of_folders_the_same_is_asked_and_answered(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny", texts(8), seed=0, size=MODEL_SIZE)
    write_release(tmp_path / "v1.0.0", rows=8)
    write_release(tmp_path / "v1.1.0", rows=12)
    evaluate(str(tmp_path / "tiny"), str(tmp_path / "v1.0.0"), tmp_path / "here", split="train")
    home = tmp_path / "home"
    with HubServer() as server:
        run_source(server, PUBLISH, tmp_path, home=home, **ONLINE)
        command = ("evaluate", "org/tiny", "org/things@v1.0.0", "--split", "train", "--out", tmp_path / "there")
        process = run(server, COMPACT, *command, home=home, **ONLINE)
        assert process.returncode == 0, process.stderr
        main = ("evaluate", "org/tiny", "org/things", "--split", "train", "--out", tmp_path / "main", "--dry-run")
        newest = run(server, COMPACT, *main, home=home, **ONLINE)
        missing = run(server, COMPACT, *command[:2], "org/things@v9", *command[3:], home=home, **ONLINE)
    assert read_predictions(tmp_path / "there") == read_predictions(tmp_path / "here")
    results = json.loads((tmp_path / "there" / "results.json").read_text(encoding="utf-8"))
    assert results["dataset"] == "org/things@v1.0.0 (compositional, train)"
    assert len(read_predictions(tmp_path / "here")) == 12
    assert newest.returncode == 0, newest.stderr
    assert "18 questions" in newest.stdout + newest.stderr
    assert missing.returncode == 1
    assert len([line for line in missing.stderr.splitlines() if line.startswith("compact: ")]) == 1
    assert "org/things@v9" in missing.stderr
