"""Tests that paths in files and directories of other people are never waited for, and never lead to a publication."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compact_hf.dataset.instruction import sample_instruction_rows
from compact_hf.dataset.publish import publish
from compact_hf.dataset.show import show
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import CompactError, SourceError, TuningError, UsageError
from compact_hf.evaluation.analysis.analyze import analyze
from compact_hf.evaluation.questions import DataOptions
from compact_hf.evaluation.rows import read_rows
from compact_hf.hub.space import publish_space
from compact_hf.images.codec import ImageError
from compact_hf.images.inspection import inspect_image
from compact_hf.models import loading
from compact_hf.models.family import ModelFamily
from compact_hf.models.loading import LOAD_ERRORS, load_config, load_processor, resolve_model
from compact_hf.records import Reject
from compact_hf.runs.sources import open_dataset_source
from compact_hf.training.arguments import load_processor as load_processor_to_train
from compact_hf.training.arguments import load_splits
from compact_hf.training.merge_adapter import _find_licenses
from compact_hf.training.publish import publish_model
from tests.dataset.samples import make_rows
from tests.irregular import IRREGULAR, released_pipes

QUESTIONS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]


@pytest.fixture(params=IRREGULAR)
def irregular(request: pytest.FixtureRequest) -> tuple[Callable[[Path], object], str]:
    """Return a function that makes a file of one kind, and a part of the message about it."""
    return IRREGULAR[request.param]


def test_an_image_that_a_list_names(irregular: tuple[Callable[[Path], object], str], tmp_path: Path) -> None:
    make, message = irregular
    make(tmp_path / "it.png")
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([{"id": "1", "image": "it.png", "conversations": QUESTIONS}]))
    with released_pipes(tmp_path):
        source = open_dataset_source(str(file))
        (ref,) = source.refs()
        (sampled,) = sample_instruction_rows(file, image_root=tmp_path, seed=0, rows=1)
        for reject in (inspect_image(source, ref), sampled):
            assert isinstance(reject, Reject)
            assert reject.reason == "unreadable file"
            assert message in reject.detail


def test_an_image_that_a_row_names(irregular: tuple[Callable[[Path], object], str], tmp_path: Path) -> None:
    make, message = irregular
    make(tmp_path / "it.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "it.png", "question": "What is it?", "answer": "A cat"}))
    rows = read_rows(str(tmp_path / "rows.jsonl"), DataOptions())
    # A link that leads out of the directory is not followed at all.
    with released_pipes(tmp_path), pytest.raises(ImageError, match=rf"{message}|outside the directory"):
        rows.images.read(0)


def test_an_image_beside_the_tables_of_a_dataset(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "it.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "it.png", "question": "?", "answer": "A cat"}))
    source = open_dataset_source(str(tmp_path))
    (ref,) = source.refs()
    (tmp_path / "it.png").unlink()
    IRREGULAR["pipe"][0](tmp_path / "it.png")  # replaced after it was listed
    with released_pipes(tmp_path):
        reject = inspect_image(source, ref)
        assert isinstance(reject, Reject)
        assert "named pipe" in reject.detail
        with pytest.raises(SourceError, match=r"it\.png is a named pipe, not a regular file"):
            open_dataset_source(str(tmp_path))


def read_as_evaluation(path: str) -> Any:
    return read_rows(path, DataOptions())


@pytest.mark.parametrize("read", [open_dataset_source, analyze, read_as_evaluation])
def test_a_table_of_a_dataset(read: Callable[[str], object], tmp_path: Path) -> None:
    table = pa.table({"image_id": ["a"], "question": ["?"], "answer": ["!"], "capabilities": [["color"]]})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00002.parquet")
    IRREGULAR["pipe"][0](tmp_path / "data" / "train-00001-of-00002.parquet")
    with released_pipes(tmp_path), pytest.raises(CompactError, match=r"data/train-00001.* is a named pipe"):
        read(str(tmp_path))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "out"
    write_dataset(make_rows(4), out, sources=("compact",), version="1.0.0")
    return out


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "release"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [("data", "unreadable file"), ("README.md", "card cannot be read"), ("assets", "card's figure cannot be read")],
)
def test_a_file_of_a_release(
    irregular: tuple[Callable[[Path], object], str], name: str, problem: str, release: Path, tmp_path: Path
) -> None:
    make, _ = irregular
    path = release / name
    path = path if path.is_file() else sorted(path.rglob("*.p*"))[0]
    path.unlink()
    make(path)
    with released_pipes(tmp_path):
        assert problem in validate(release).counts
        if name == "data":
            with pytest.raises(CompactError, match="cannot be read"):
                show(release, tmp_path / "sheet")


def test_the_config_of_a_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    IRREGULAR["pipe"][0](model / "tokenizer.json")
    message = "tokenizer.json is a named pipe, not a regular file"
    with released_pipes(tmp_path):
        with pytest.raises(TuningError, match=message):
            resolve_model(str(model))
        for load in (load_config, load_processor):
            with pytest.raises(LOAD_ERRORS, match=message):
                load(model)


def test_the_data_and_the_template_that_a_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    IRREGULAR["pipe"][0](tmp_path / "train.parquet")
    args: Any = SimpleNamespace(
        script=SimpleNamespace(
            dataset_name=str(tmp_path), dataset_config=None, dataset_train_split="train", dataset_streaming=False
        ),
        training=SimpleNamespace(eval_strategy="no", chat_template_path=str(tmp_path / "train.parquet")),
        mixture=SimpleNamespace(datasets=[], streaming=False),
        extras=SimpleNamespace(dataset_revision=None),
        model=SimpleNamespace(model_name_or_path="base", model_revision=None),
    )
    monkeypatch.setattr(loading, "load_processor", lambda name, config, revision: SimpleNamespace())
    with released_pipes(tmp_path):
        with pytest.raises(TuningError, match=r"train\.parquet is a named pipe, not a regular file"):
            load_splits(args)
        with pytest.raises(TuningError, match="a named pipe, not a regular file"):
            load_processor_to_train(args, ModelFamily(), None)


SPACE_CARD = "---\nsdk: gradio\napp_file: app.py\n---\n"


def make_space(directory: Path) -> Path:
    directory.mkdir()
    (directory / "README.md").write_text(SPACE_CARD)
    (directory / "app.py").touch()
    (directory / "requirements.txt").touch()
    return directory


PUBLISHERS: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "dataset": (publish, "assets/private.png"),
    "model": (publish_model, "LICENSE"),
    "adapter's card": (publish_model, "README.md"),
    "Space": (publish_space, "data/private.txt"),
}


@pytest.mark.parametrize("kind", PUBLISHERS)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{outside}/secret", "is a link out of the directory, to .*/secret: replace it by a copy"),
        ("{outside}", "links to a directory, and only regular files are published: remove it"),
        (".", "links to a directory, and only regular files are published: remove it"),
        ("nothing", "is a broken link, and only regular files are published: remove it"),
        ("/dev/null", "is a device, and only regular files are published: remove it"),
    ],
)
def test_nothing_is_published_through_a_link(kind: str, target: str, message: str, tmp_path: Path) -> None:
    push, name = PUBLISHERS[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    directory = make_space(tmp_path / "directory")
    path = directory / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target.format(outside=outside))
    # Raised before the Hub is asked, which cannot be reached here.
    with pytest.raises(UsageError, match=f"{name} {message}"):
        push(directory, "org/name")


def test_links_inside_the_directory_and_ignored_ones_are_no_obstacle(tmp_path: Path) -> None:
    directory = make_space(tmp_path / "directory")
    (directory / "copy.py").symlink_to("app.py")
    (directory / ".venv").symlink_to("/usr")
    (directory / "__pycache__").symlink_to("/usr")
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(CompactError, match="Hub"):  # the next step, which needs the network
        publish_space(tmp_path / "link", "org/name")


def test_a_license_elsewhere_is_not_copied_into_a_merged_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "NOTICE").write_text("a notice")
    assert [path.name for path in _find_licenses(base)] == ["NOTICE"]
    (tmp_path / "secret").touch()
    (base / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="LICENSE is a link out of the directory"):
        _find_licenses(base)


def test_an_index_names_only_files_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(TuningError, match=r"names '\.\./a\.safetensors', which is not a file next to it"):
        publish_model(tmp_path, "org/name")
