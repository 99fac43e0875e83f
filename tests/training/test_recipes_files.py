"""Checks that recipes are found by name, read, listed, shown and copied, without importing TRL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import TuningError, UsageError
from compact_hf.models.llava.processor import chat_template
from compact_hf.training.recipes import copy_recipe, read_recipe, recipe_names, recipe_path


def test_the_shipped_recipes() -> None:
    assert recipe_names() == (
        "llava15-7b-lora",
        "llava15-7b-lora-1gpu",
        "llava15-7b-lora-fsdp2",
        "llava15-7b-lora-zero3",
        "llava15-7b-qlora",
        "tiny-cpu",
    )


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_needs_a_path(name: str) -> None:
    settings = read_recipe(name)
    assert settings["model_name_or_path"].startswith("org/")
    assert settings["dataset_name"] == "org/compact"
    assert "chat_template_path" not in settings


def test_a_file_of_ones_own_is_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 0.1\n")
    assert read_recipe(recipe) == {"learning_rate": 0.1}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny-gpu", "did you mean tiny-cpu"),
        ("llava-7b-lora", "did you mean llava15-7b-lora"),
        ("xyz", "one of llava15-7b-lora, .*tiny-cpu$"),
        ("elsewhere/tiny-cpu", "give a YAML file or one of"),
        ("", "give a YAML file or one of"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipe_path(name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [1\n", "cannot be read"),
        (b"- a\n- b\n", "is a YAML list, not a mapping"),
        (b"", "is a YAML NoneType, not a mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_bytes(content)
    with pytest.raises(TuningError, match=told) as excinfo:
        read_recipe(recipe)
    assert "\n" not in str(excinfo.value)


def test_a_copy_differs_in_the_base_and_its_template_only(tmp_path: Path) -> None:
    odd = 'a "base": # of mine'
    copy = copy_recipe("llava15-7b-lora", tmp_path / "mine", model=odd)
    settings = read_recipe(copy.recipe)
    assert settings.pop("chat_template_path") == str(copy.template)
    assert settings == {**read_recipe("llava15-7b-lora"), "model_name_or_path": odd}
    assert copy.template.read_text() == chat_template()
    assert "# The loss covers" in copy.recipe.read_text()


@pytest.mark.parametrize("name", ["tiny-cpu.yaml", "chat_template.jinja"])
def test_a_copy_overwrites_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} exists already"):
        copy_recipe("tiny-cpu", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_recipe_without_a_base_cannot_be_copied(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\n")
    with pytest.raises(TuningError, match="has 0 lines `model_name_or_path"):
        copy_recipe(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list", "--json"]) == 0
    purposes = json.loads(capsys.readouterr().out)
    assert tuple(purposes) == recipe_names()
    assert "24 GB" in purposes["llava15-7b-qlora"]
    assert main(["recipe", "list"]) == 0
    table = capsys.readouterr().out
    assert all(f"\n{name} " in table for name in recipe_names())
    assert main(["recipe", "show", "tiny-cpu"]) == 0
    assert capsys.readouterr().out == recipe_path("tiny-cpu").read_text()
    assert main(["recipe", "copy", "tiny-cpu", "--out", str(tmp_path), "--model", "me/base"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny-cpu.yaml'}\n"
    assert main(["recipe", "show", "tiny-gpu"]) == 2
    assert "did you mean tiny-cpu?" in capsys.readouterr().err
