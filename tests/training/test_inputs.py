"""Checks that a training run is bound to the contents of its data, base and template, and not to their paths."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import ContentsMismatchError
from compact_hf.training.checkpoints import COMPLETE_FILE, RECORD_FILE
from compact_hf.training.inputs import INPUTS_FILE, bind_inputs, record_images

CARD = "---\nconfigs:\n- config_name: all\n  data_files: data/*.parquet\n---\nA dataset.\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into a directory with data, base and template, and return the directory of a run on them with a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "release/README.md": CARD,
        "release/data/train-0.parquet": "rows",
        "release/assets/k.png": "figure",
        "release/.cache/index": "1",
        "base/config.json": "{}",
        "base/model.safetensors": "weights",
        "base/README.md": "A base.",
        "chat.jinja": "{% generation %}",
        "notes/a.jsonl": "{}",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    out = tmp_path / "student"
    out.mkdir()
    assert bind(out) == []
    (out / "checkpoint-2").mkdir()
    (out / "checkpoint-2" / COMPLETE_FILE).write_text('{"seconds": 1}')
    return out


def bind(out: Path, **changes: Any) -> list[str]:
    """Bind a run to its inputs, as `tune` does, and return the notes."""
    settings = {"dataset_name": "release", "model_name_or_path": "base", "chat_template_path": "chat.jinja"}
    notes: list[str] = []
    bind_inputs(out, settings | changes, on_note=notes.append)
    return notes


def replace_in_place(path: str, text: str) -> None:
    """Write other contents of the same size, and put the time of modification back, as `cp -p` or `tar` may do."""
    stat = os.stat(path)
    assert len(text) == stat.st_size
    Path(path).write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "other rows": (lambda: replace_in_place("release/data/train-0.parquet", "sowr"), r"data release \(changed: data"),
    "one more file": (lambda: Path("release/data/train-1.parquet").touch(), r"\(new: data/train-1.parquet\)"),
    "other configs": (
        lambda: Path("release/README.md").write_text(CARD.replace("data/", "test/")),
        r"\(changed: README.md; new: assets/k.png\)",
    ),
    "one file less": (
        lambda: Path("release/data/train-0.parquet").rename("release/data/x.parquet"),
        r"\(missing: data/train-0.parquet; new: data/x.parquet\)",
    ),
    "other weights": (lambda: replace_in_place("base/model.safetensors", "WEIGHTS"), r"base base \(changed: model.saf"),
    "other template": (lambda: Path("chat.jinja").write_text("{{ 1 }}"), r"chat template chat.jinja \(changed"),
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_other_contents_at_the_same_path_are_refused_and_earlier_ones_are_accepted_again(
    run: Path, name: str, finished: bool
) -> None:
    earlier = run.parent.with_name(f"{run.parent.name}-earlier")
    if finished:
        shutil.rmtree(run / "checkpoint-2")
        (run / RECORD_FILE).write_text("{}")
    shutil.copytree(".", earlier)
    change, message = CHANGES[name]
    change()
    before = (run / INPUTS_FILE).read_bytes()
    for _ in range(2):  # a refusal does not take the new contents over
        with pytest.raises(ContentsMismatchError, match=message) as excinfo:
            bind(run)
    assert (run / INPUTS_FILE).read_bytes() == before
    assert str(excinfo.value).startswith(f"{run} was started with other contents of ")
    assert str(excinfo.value).endswith("): put the earlier contents back to resume it, or choose another output_dir")
    for path in ("release", "base", "chat.jinja"):
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        copy = shutil.copytree if (earlier / path).is_dir() else shutil.copy
        copy(earlier / path, path)
    assert bind(run) == []


def test_what_is_not_trained_on_may_change(run: Path) -> None:
    Path("release/README.md").write_text(f"{CARD}With another sentence.\n")
    Path("release/CHANGELOG.md").write_text("1.0.0")
    Path("release/.cache/index").write_text("2")
    Path("release/assets/k.png").write_text("another figure")
    Path("base/README.md").write_text("Another card.")
    os.utime("release/data/train-0.parquet")
    assert bind(run) == []


def test_until_the_first_checkpoint_inputs_may_change(run: Path) -> None:
    shutil.rmtree(run / "checkpoint-2")
    Path("release/data/train-0.parquet").write_text("mended rows")
    assert bind(run) == []
    (run / RECORD_FILE).write_text("{}")
    assert bind(run) == []
    Path("release/data/train-0.parquet").write_text("rows")
    with pytest.raises(ContentsMismatchError):
        bind(run)


def test_files_are_read_again_only_if_they_may_have_changed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compact_hf.regular_files._SETTLED_NS", 0)
    bind(run)
    with monkeypatch.context() as patch:
        patch.setattr("compact_hf.training.inputs.hash_regular", lambda path: pytest.fail(f"read {path}"))
        assert bind(run) == []
    replace_in_place("base/model.safetensors", "WEIGHTS")
    with pytest.raises(ContentsMismatchError):
        bind(run)


def test_what_cannot_be_checked_is_said_in_one_line(run: Path) -> None:
    shutil.rmtree("release")
    (note,) = bind(run)
    assert note.startswith("data release was not found")
    (run / INPUTS_FILE).unlink()  # as version 0.1.0 left it
    (note,) = bind(run)
    assert "version 0.1.0 did not write it: whether its data and base are still" in note
    assert not (run / INPUTS_FILE).exists()  # because what it was started with is not known


def test_without_patterns_in_a_card_all_files_of_a_directory_are_data(run: Path) -> None:
    Path("release/README.md").unlink()
    shutil.rmtree(run / "checkpoint-2")
    bind(run)
    (run / RECORD_FILE).write_text("{}")
    assert bind(run) == []
    Path("release/assets/k.png").write_text("another image")
    with pytest.raises(ContentsMismatchError, match=r"data release \(changed: assets/k.png\)"):
        bind(run)


@pytest.mark.parametrize("card", [CARD, "A dataset without configs.\n"])
def test_files_behind_links_are_bound(run: Path, card: str) -> None:
    Path("release/README.md").write_text(card)
    Path("release/data").rename("elsewhere")
    Path("release/data").symlink_to("../elsewhere")
    Path("release/itself").symlink_to(".")
    shutil.rmtree(run / "checkpoint-2")
    bind(run)
    (run / RECORD_FILE).write_text("{}")
    assert bind(run) == []
    Path("elsewhere/train-0.parquet").write_text("other rows")
    with pytest.raises(ContentsMismatchError, match=r"data release \(changed: data/train-0.parquet\)"):
        bind(run)


@pytest.mark.parametrize("pattern", ["../notes/*.jsonl", "{}/notes/*.jsonl"])
def test_files_outside_of_a_dataset_that_its_card_names_are_bound(run: Path, pattern: str) -> None:
    Path("release/README.md").write_text(CARD.replace("data/*.parquet", pattern.format(Path.cwd())))
    shutil.rmtree(run / "checkpoint-2")
    bind(run)
    (run / RECORD_FILE).write_text("{}")
    Path("notes/a.jsonl").write_text("[]")
    with pytest.raises(ContentsMismatchError, match=r"data release \(changed: \S+/notes/a.jsonl\)"):
        bind(run)


@pytest.mark.parametrize("configs", ["5", "true", "{a: 1}", "[5]"])
def test_a_damaged_card_is_left_to_the_training_script(run: Path, configs: str) -> None:
    shutil.rmtree(run / "checkpoint-2")
    Path("release/README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    assert bind(run, datasets=[{"path": "release"}, {"path": "json", "data_dir": ["notes"]}]) == []
    assert "data/train-0.parquet" in json.loads((run / INPUTS_FILE).read_text())["data release"]


def test_only_the_config_that_is_trained_on_is_bound(run: Path) -> None:
    Path("release/README.md").write_text(
        CARD.replace("data/*", "data/t*").replace(
            "\n---\n", "\n- config_name: k1\n  data_files:\n  - split: train\n    path: [data/k1*]\n---\n"
        )
    )
    shutil.rmtree(run / "checkpoint-2")
    bind(run, dataset_config="all")
    (run / RECORD_FILE).write_text("{}")
    Path("release/data/k1.parquet").touch()
    assert bind(run, dataset_config="all") == []
    Path("release/data/test-0.parquet").touch()
    with pytest.raises(ContentsMismatchError, match=r"data release \(new: data/test-0.parquet\)"):
        bind(run, dataset_config="all")


@pytest.mark.parametrize("data", [{"dataset_name": ""}, {"datasets": "org/name"}, {"datasets": [{"name": "all"}, 3]}])
def test_settings_that_name_no_data_are_left_to_the_training_script(run: Path, data: dict[str, Any]) -> None:
    shutil.rmtree(run / "checkpoint-2")
    assert bind(run, **data) == []
    assert set(json.loads((run / INPUTS_FILE).read_text())) == {"base base", "chat template chat.jinja"}


def test_each_part_of_a_mixture_is_bound(tmp_path: Path, run: Path) -> None:
    mixture = [{"path": "release"}, {"path": "json", "data_files": {"train": ["notes/*.jsonl"]}}]
    shutil.rmtree(run / "checkpoint-2")
    bind(run, datasets=mixture)
    (run / RECORD_FILE).write_text("{}")
    assert bind(run, datasets=mixture) == []
    Path("notes/b.jsonl").write_text("{}")
    with pytest.raises(ContentsMismatchError, match=r"contents of data json \(new: notes/b.jsonl\): put"):
        bind(run, datasets=mixture)


def test_images_that_rows_name_by_path_are_bound_wherever_they_are(run: Path) -> None:
    from datasets import Dataset, Features, Image, List

    names = [f"elsewhere/{name}.png" for name in ("a", "b", "missing")]
    Path("elsewhere").mkdir()
    for name in names[:2]:
        Path(name).write_text(name)
    images = [[{"path": name, "bytes": None}] for name in names] + [[{"path": "c.png", "bytes": b"embedded"}], []]
    rows = [Dataset.from_dict({"images": images}, Features(images=List(Image())))]
    record_images(run, rows, on_note=pytest.fail)  # a run with a checkpoint is left as it is
    assert "elsewhere" not in (run / INPUTS_FILE).read_text()
    (run / "checkpoint-2" / COMPLETE_FILE).unlink()
    record_images(run, rows, on_note=pytest.fail)
    (run / "checkpoint-2" / COMPLETE_FILE).write_text('{"seconds": 1}')
    assert bind(run) == []
    Path(names[1]).write_text("another image")
    with pytest.raises(ContentsMismatchError, match=r"images that rows name by path \(changed: elsewhere/b.png\)"):
        bind(run)
    shutil.rmtree("elsewhere")
    assert len(bind(run)) == 1
    (run / "checkpoint-2" / COMPLETE_FILE).unlink()  # other rows, which name no files, may be trained on from now on
    record_images(run, [Dataset.from_dict({"images": images[-2:]}, rows[0].features)], on_note=pytest.fail)
    assert "elsewhere" not in (run / INPUTS_FILE).read_text()


def test_a_run_without_local_inputs_is_not_taken_for_one_of_version_0_1_0(tmp_path: Path) -> None:
    on_hub = {"dataset_name": "org/data", "model_name_or_path": "org/base", "chat_template_path": None}
    assert bind(tmp_path, **on_hub) == []
    (tmp_path / RECORD_FILE).write_text("{}")
    assert bind(tmp_path, **on_hub) == []


def test_a_dataset_of_a_mixture_whose_main_moved_is_refused_with_advice_that_can_be_followed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(run.parent / "cache"))
    main = run.parent / "cache" / "datasets--org--data" / "refs" / "main"
    main.parent.mkdir(parents=True)
    main.write_text("a" * 40)
    shutil.rmtree(run / "checkpoint-2")
    bind(run, datasets=[{"path": "org/data"}])
    (run / RECORD_FILE).write_text("{}")
    main.write_text("b" * 40)
    with pytest.raises(
        ContentsMismatchError, match=r"\(changed: commit\): .* choose another output_dir, and give .* as a directory"
    ):
        bind(run, datasets=[{"path": "org/data"}])


def test_the_hashes_are_the_same_on_all_machines(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the inputs on another disk has other times and inodes, and may be listed in another order."""
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    os.utime("base/config.json", (1, 1))
    assert bind(run) == []
