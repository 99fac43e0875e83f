"""Finding a model for the local teacher: what is refused at once, what it is called, and which commit is asked."""

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
from tests.hub.clients import told
from tests.teachers.asking import put, verdict_request
from tests.teachers.tiny_teacher import untaught


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untaught(tmp_path_factory.mktemp("local") / "tiny")


def test_weights_that_cannot_be_read_end_the_run_with_one_line(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    (broken / "model.safetensors").write_bytes(b"not weights")
    teacher = Local(str(broken))
    with pytest.raises(TeacherError, match=r"the weights of .* cannot be loaded") as refused:
        put(teacher, [verdict_request("What is it?"), verdict_request("Who is it?")])
    assert "\n" not in str(refused.value)


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def without_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def with_a_template_for_text(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ 'USER: ' + messages[0].content }}", encoding="utf-8")


def without_image_processor(model: Path) -> None:
    (model / "processor_config.json").unlink()


def of_text_only(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config["text_config"]), encoding="utf-8")


def of_no_known_kind(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "crystal_ball"}', encoding="utf-8")


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_template, "has no chat template; give a model that was trained to follow instructions"),
        (with_a_template_for_text, "the chat template of .* takes no question with a picture: "),
        (without_image_processor, "image processor"),
        (of_text_only, "is of the kind llama, which is not shown pictures and asked; give an image-text-to-text"),
        (of_no_known_kind, "is no model that transformers can load: .*crystal_ball"),
        (without_config, "is no model that transformers can load: "),
    ],
)
def test_refuses_at_once_what_cannot_teach(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    model = copied(folder, tmp_path)
    spoil(model)
    with pytest.raises(UsageError, match=said) as refused:
        open_teacher(f"local:{model}", state_dir=tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["nobody/nothing", "no such thing", "./nowhere"])
def test_refuses_a_model_that_is_not_there(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no model '{model}': it is no folder here, and the Hub does not give"):
        open_teacher(f"local:{model}", state_dir=tmp_path)


def test_wants_a_model_and_a_batch(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--teacher local:MODEL"):
        open_teacher("local", state_dir=tmp_path)
    with pytest.raises(UsageError, match="got the batch size 0; it must be at least 1"):
        Local(str(folder), batch_size=0)


def test_is_named_without_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert {Local(spelt).name for spelt in (str(folder), ".", f"../{folder.name}/")} == {f"local:{folder.name}"}


def test_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        open_teacher(f"local:{folder}", state_dir=tmp_path)
    assert missing.value.name == "xgrammar"


def test_a_model_of_the_hub_is_asked_and_named_as_it_was_when_the_run_began(folder: Path, tmp_path: Path) -> None:
    source = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from tests.teachers.asking import put, verdict_request
from compact_hf.teachers.registry import open_teacher

api = HfApi()
api.create_repo("org/tiny")
commit = api.upload_folder(repo_id="org/tiny", folder_path=sys.argv[1]).oid
teacher = open_teacher("local:org/tiny", state_dir=Path())
(Path(sys.argv[1]) / "config.json").write_text("{}")
api.upload_folder(repo_id="org/tiny", folder_path=sys.argv[1])
(reply,) = put(teacher, [verdict_request("What is it?")])
told = [teacher.name, reply.model, commit]
"""
    with HubServer() as hub:
        name, model, commit = told(hub, source, copied(folder, tmp_path), home=tmp_path / "home")
    assert (name, model) == ("local:org/tiny", f"local:org/tiny@{commit}")
