"""Tests of finding a model for the teacher `local`: early rejection, its published name, and its commit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.local import Local
from compact_hf.teachers.registry import open_teacher
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source
from tests.teachers.asking import ask_all, verdict_request
from tests.teachers.tiny_teacher import build_untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained(tmp_path_factory.mktemp("local") / "tiny")


def test_weights_that_cannot_be_read_end_the_run_with_one_line(folder: Path, tmp_path: Path) -> None:
    broken = copy_model(folder, tmp_path)
    (broken / "model.safetensors").write_bytes(b"not weights")
    teacher = Local(str(broken))
    with pytest.raises(TeacherError, match=r"the weights of .* cannot be loaded") as excinfo:
        ask_all(teacher, [verdict_request("What is it?"), verdict_request("Who is it?")])
    assert "\n" not in str(excinfo.value)


def copy_model(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "copy"))


def remove_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def write_text_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ 'USER: ' + messages[0].content }}", encoding="utf-8")


def remove_image_processor(model: Path) -> None:
    (model / "processor_config.json").unlink()


def make_text_only(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config["text_config"]), encoding="utf-8")


def set_unknown_type(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "crystal_ball"}', encoding="utf-8")


def remove_config(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (remove_template, "has no chat template: use an instruction-tuned model"),
        (write_text_template, "its chat template does not accept a question with an image"),
        (remove_image_processor, "image processor"),
        (make_text_only, r"is not an image-text-to-text model \(its type is llama\): use one such as"),
        (set_unknown_type, "cannot be loaded by transformers: .*crystal_ball"),
        (remove_config, "cannot be loaded by transformers: "),
    ],
)
def test_refuses_at_once_what_cannot_teach(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    model = copy_model(folder, tmp_path)
    spoil(model)
    with pytest.raises(UsageError, match=said) as excinfo:
        open_teacher(f"local:{model}", state_dir=tmp_path)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("model", ["nobody/nothing", "no such thing", "./nowhere"])
def test_refuses_a_model_that_is_not_there(model: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=rf"model '{model}' is neither a directory nor in the Hub's cache: check the name, or unset"
    ):
        open_teacher(f"local:{model}", state_dir=tmp_path)


def test_wants_a_model_and_a_batch(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--teacher local:MODEL"):
        open_teacher("local", state_dir=tmp_path)
    with pytest.raises(UsageError, match="got the batch size 0: it must be at least 1"):
        Local(str(folder), batch_size=0)


def test_is_named_without_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert {Local(path).name for path in (str(folder), ".", f"../{folder.name}/")} == {f"local:{folder.name}"}


def test_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(ModuleNotFoundError) as excinfo:
        open_teacher(f"local:{folder}", state_dir=tmp_path)
    assert excinfo.value.name == "xgrammar"


def test_a_model_of_the_hub_is_asked_and_named_as_it_was_when_the_run_began(folder: Path, tmp_path: Path) -> None:
    source = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from tests.teachers.asking import ask_all, verdict_request
from compact_hf.teachers.registry import open_teacher

api = HfApi()
api.create_repo("org/tiny")
commit = api.upload_folder(repo_id="org/tiny", folder_path=sys.argv[1]).oid
teacher = open_teacher("local:org/tiny", state_dir=Path())
(Path(sys.argv[1]) / "config.json").write_text("{}")
api.upload_folder(repo_id="org/tiny", folder_path=sys.argv[1])
(reply,) = ask_all(teacher, [verdict_request("What is it?")])
told = [teacher.name, reply.model, commit]
"""
    with HubServer() as hub:
        name, model, commit = run_source(hub, source, copy_model(folder, tmp_path), home=tmp_path / "home")
    assert (name, model) == ("local:org/tiny", f"local:org/tiny@{commit}")
