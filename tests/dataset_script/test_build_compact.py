"""Tests the script that makes a release from a pinned config: the same config always gives the same release."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from compact_hf.config import read_config
from compact_hf.errors import UsageError
from compact_hf.images.address import HUB_PREFIX
from compact_hf.methods.status import status
from dataset_script.build_compact import Config, main
from tests.dataset.samples import make_image, make_item

CONFIGS = Path(__file__).parents[2] / "dataset_script"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped offline config, with fewer scenes."""
    settings = yaml.safe_load((CONFIGS / "compact-scenes.yaml").read_text())
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(settings | {"source": "scenes:25"}))
    return file


def read_parquet_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "release").rglob("*.parquet")}


def count_rows(directory: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (directory / "release").rglob("*.parquet"))


def test_one_command_makes_a_release_and_again_makes_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import load_dataset

    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "build" / "release")
    first = read_parquet_files(tmp_path / "build")
    assert load_dataset(str(tmp_path / "build" / "release"), split="train").num_rows > 10
    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    assert main([str(config), "--out", str(tmp_path / "other")]) == 0
    assert read_parquet_files(tmp_path / "build") == read_parquet_files(tmp_path / "other") == first


def test_a_number_of_conversations_is_reached_by_drawing_more_pictures(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text()) | {"teacher": "scenes", "source": "scenes:60"}
    out = tmp_path / "build"
    config.write_text(yaml.safe_dump(settings | {"conversations": 30}))
    assert main([str(config), "--out", str(out)]) == 0
    run_status = status(out / "run")
    assert 30 <= run_status.conversations <= run_status.finished < 60
    assert count_rows(out) == run_status.conversations
    assert main([str(config), "--out", str(out), "--conversations", "61"]) == 1
    assert "from all of its 60 images, but 61 are requested" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compact-scenes.yaml", "compact-v1.yaml"])
def test_the_shipped_configs_pin_every_step(name: str) -> None:
    config = read_config(CONFIGS / name, Config, example="one.yaml")
    assert config.k == [1, 2, 3]
    assert "latest" not in config.teacher + config.verifier


def test_an_unknown_key_is_named_with_those_that_exist(config: Path) -> None:
    config.write_text(config.read_text() + "teachr: gemini\n")
    with pytest.raises(UsageError, match=r"teachr: Extra inputs are not permitted; valid keys are version, source"):
        read_config(config, Config, example="one.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\xff", "is not valid YAML"),
        (b"a: [", "is not valid YAML"),
        (b"", "the whole file: "),
        (b"- 1", "the whole file: "),
    ],
)
def test_a_file_that_is_no_config_is_said_to_be_none(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_config(tmp_path / "odd.yaml", Config, example="one.yaml")


def test_a_config_that_is_not_there_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.yaml"), "--out", str(tmp_path / "build")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["hf://datasets/org/pool", "hf://datasets/org/pool@main"])
def test_a_pool_on_the_hub_has_to_name_its_revision(source: str, config: Path) -> None:
    pinned = yaml.safe_load(config.read_text()) | {"source": f"{HUB_PREFIX}org/pool@v1"}
    config.write_text(yaml.safe_dump(pinned))
    assert read_config(config, Config, example="one.yaml").source.endswith("@v1")
    config.write_text(yaml.safe_dump(pinned | {"source": source}))
    with pytest.raises(UsageError, match="add @ and a tag or commit"):
        read_config(config, Config, example="one.yaml")


def test_a_dry_run_says_requests_price_and_disk_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uses the config of the paper's size with a source of five images and an instruction file of 60 rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    for number in range(5):
        (tmp_path / "pool" / f"{number}.png").write_bytes(make_image(number, file_format="PNG"))
    (tmp_path / "pool" / "llava_v1_5_mix665k.json").write_text(json.dumps([make_item(number) for number in range(60)]))
    assert main([str(CONFIGS / "compact-v1.yaml"), "--out", "build", "--dry-run"]) == 0
    output = capsys.readouterr().out
    for part in ("release 1.0.0 of pool, to org/compact", "instruction part: 3 rows, 5% of", "5 images; expected"):
        assert part in output
    assert re.search(r"^all +\d+ +[\d,]+ +[\d,]+ +\d+\.\d+$", output, re.MULTILINE)
    assert re.search(r"^free now +\d+$", output, re.MULTILINE)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--publish", "--conversations", "5"], "cannot be combined: set `conversations` in the config"),
        (["--conversations", "0"], "give at least 1"),
        (["--no-pr"], "--no-pr can only be used with --publish"),
        (["--publish"], "needs `repository: org/name`"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_asked(
    arguments: list[str], told: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    del settings["repository"]
    config.write_text(yaml.safe_dump(settings))
    assert main([str(config), "--out", str(tmp_path / "build"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_what_stays_out_and_the_licenses_are_pinned_as_well(config: Path, tmp_path: Path) -> None:
    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    files = sorted((tmp_path / "build" / "release").rglob("*.parquet"))
    excluded_id = pq.read_table(files[0], columns=["image_id"])["image_id"][0].as_py()
    (tmp_path / "ids.txt").write_text(excluded_id)
    pinned = {"exclude_ids": str(tmp_path / "ids.txt"), "group_similar": 6, "license": "cc-by-4.0"}
    config.write_text(config.read_text() + yaml.safe_dump(pinned))
    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    remaining_ids = pq.read_table(tmp_path / "build" / "release" / "data", columns=["image_id"])["image_id"].to_pylist()
    assert remaining_ids
    assert excluded_id not in remaining_ids
    card = (tmp_path / "build" / "release" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "| assembly | excluded by id | 1 |" in card
