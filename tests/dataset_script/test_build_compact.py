"""The release script: one command from a pinned config to a release, again and again the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compact_hf.errors import UsageError
from dataset_script.build_compact import main, read_config

CONFIGS = Path(__file__).parents[2] / "dataset_script"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The offline config that is shipped, over fewer scenes."""
    settings = yaml.safe_load((CONFIGS / "compact-scenes.yaml").read_text())
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(settings | {"source": "scenes:25"}))
    return file


def parquet(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "release").rglob("*.parquet")}


def test_one_command_makes_a_release_and_again_makes_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import load_dataset

    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "build" / "release")
    first = parquet(tmp_path / "build")
    assert load_dataset(str(tmp_path / "build" / "release"), split="train").num_rows > 10
    assert main([str(config), "--out", str(tmp_path / "build")]) == 0
    assert main([str(config), "--out", str(tmp_path / "other")]) == 0
    assert parquet(tmp_path / "build") == parquet(tmp_path / "other") == first


@pytest.mark.parametrize("name", ["compact-scenes.yaml", "compact-v1.yaml"])
def test_the_shipped_configs_pin_every_step(name: str) -> None:
    config = read_config(CONFIGS / name)
    assert config.k == [1, 2, 3]
    assert "latest" not in config.teacher + config.verifier


def test_an_unknown_key_is_named_with_those_that_exist(config: Path) -> None:
    config.write_text(config.read_text() + "teachr: gemini\n")
    with pytest.raises(UsageError, match=r"teachr: Extra inputs are not permitted; the keys are version, source"):
        read_config(config)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe\xff", "is not YAML"), (b"a: [", "is not YAML"), (b"", "the whole of it"), (b"- 1", "the whole of it")],
)
def test_a_file_that_is_no_config_is_said_to_be_none(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_config(tmp_path / "odd.yaml")


def test_a_config_that_is_not_there_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.yaml"), "--out", str(tmp_path / "build")]) == 2
    assert "cannot read" in capsys.readouterr().err
