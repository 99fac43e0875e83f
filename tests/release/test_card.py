"""The card: its header and its text say what is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compact_hf.records import Message, Reject, Row
from compact_hf.release.card import header_of, is_release
from compact_hf.release.facts import Facts
from compact_hf.release.features import features
from compact_hf.release.write import write

from .samples import row, rows

TEXT_ROW = Row(id="a" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction")


def written(path: Path, *of: Row | Reject) -> tuple[Facts, dict[str, Any], str]:
    facts = write(of, path, version="1.2.3")
    return facts, header_of(path), (path / "README.md").read_text()


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    _, header, _ = written(tmp_path / "out", *rows(60), TEXT_ROW)
    data = DatasetCard.load(tmp_path / "out" / "README.md").data
    assert data.to_dict() == header
    assert header["task_categories"] == ["visual-question-answering", "image-text-to-text"]
    assert header["annotations_creators"] == ["machine-generated"]
    assert header["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in header["configs"] if config.get("default")] == ["all"]


def test_the_header_counts_every_config(tmp_path: Path) -> None:
    from datasets import Features

    facts, header, _ = written(tmp_path / "out", *rows(60), TEXT_ROW)
    assert [info["config_name"] for info in header["dataset_info"]] == list(facts.configs)
    for info in header["dataset_info"]:
        leaves = facts.configs[info["config_name"]]
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
            split: count for split in ("train", "validation") if (count := facts.rows(*leaves, split=split))
        }
        assert Features._from_yaml_list(info["features"]) == features()
        sizes = [path.stat().st_size for leaf in leaves for path in (tmp_path / "out" / "data" / leaf).iterdir()]
        assert info["download_size"] == sum(sizes)


@pytest.mark.parametrize(
    ("licenses", "told"),
    [
        (["CC0-1.0", "CC0-1.0"], "cc0-1.0"),
        (["CC0-1.0", "CC-BY-4.0"], "other"),
        (["ask my aunt"], "other"),
        (["unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_licence_is_that_of_the_pictures(licenses: list[str], told: str, tmp_path: Path) -> None:
    pictures = [replace(row(number), image_license=license) for number, license in enumerate(licenses)]
    _, header, _ = written(tmp_path / "out", *pictures, TEXT_ROW)
    assert header["license"] == told


def test_the_text_says_what_was_measured(tmp_path: Path) -> None:
    _, _, text = written(tmp_path / "out", *rows(60), TEXT_ROW, Reject("instruction", "empty file", "7"))
    for line in (
        "# COMPACT 1.2.3",
        "61 rows, 120 compositional questions.",
        "| | k = 1 | k = 2 | k = 3 |",
        "| questions | 40 | 40 | 40 |",
        "| shape | 0 | 40 | 40 |",
        "| counting | 0 | 0 | 40 |",
        "| instruction | empty file | 1 |",
        "| scenes | CC0-1.0 | 60 |",
        "| teacher | scenes |",
        "| preset | paper-1 |",
        "`k3`",
        "This is 1.2.3; [CHANGELOG.md](CHANGELOG.md)",
        "| minor | the same code loads other rows",
    ):
        assert line in text
    assert "{{" not in text.split("## Citation")[0]
    assert "\n\n\n" not in text


def test_the_text_says_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    _, header, text = written(tmp_path / "out", TEXT_ROW)
    for phrase in ("How it was made", "Pictures", "dropped on the way", "k3", "compositional questions"):
        assert phrase not in text
    assert [config["config_name"] for config in header["configs"]] == ["all", "instruction"]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    _, _, text = written(tmp_path / "out", *rows(60))
    example = text.split("```python\n")[1].split("```")[0].replace('"org/name"', repr(str(tmp_path / "out")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert scope["k3"]["train"].unique("k") == [3]


@pytest.mark.parametrize(
    "card", [None, "# A data set", "---\ntags: [compact_hf\n---\n", "---\n- a\n---\n", "---\ntags:\n- x\n---\n"]
)
def test_only_our_own_card_makes_a_release(card: str | None, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert not is_release(tmp_path)


def test_what_we_wrote_is_a_release(tmp_path: Path) -> None:
    written(tmp_path / "out", TEXT_ROW)
    assert is_release(tmp_path / "out")
    (tmp_path / "out" / "note.txt").touch()
    assert not is_release(tmp_path / "out")
