"""Checks that an output directory belongs to one run, which can be resumed, and that others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_hf.errors import CompactError, SettingsMismatchError, TuningError, UsageError
from compact_hf.training.checkpoints import (
    COMPLETE_FILE,
    find_last_checkpoint,
    init_output_dir,
    pin_revision,
    read_finished_record,
    read_train_seconds,
    write_record,
)

SETTINGS = {"learning_rate": 0.001, "dataset_revision": None, "save_steps": 5, "env": {"HF_TOKEN": "hf_secret"}}


def test_the_same_settings_come_back_to_the_same_folder_and_others_do_not(tmp_path: Path) -> None:
    init_output_dir(tmp_path / "new" / "out", SETTINGS)
    init_output_dir(tmp_path / "new" / "out", {**SETTINGS, "learning_rate": "0.001"})
    differences = r"\(learning_rate was '0.001', now '0.1'; seed was None, now '3'\).* choose another output_dir"
    with pytest.raises(SettingsMismatchError, match=differences):
        init_output_dir(tmp_path / "new" / "out", {**SETTINGS, "learning_rate": 0.1, "seed": 3})


def test_what_does_not_change_the_outcome_may_change_and_is_not_kept(tmp_path: Path) -> None:
    init_output_dir(tmp_path, SETTINGS)
    init_output_dir(tmp_path, {**SETTINGS, "save_steps": 9, "dataloader_num_workers": 2, "machine_rank": 1, "env": {}})
    assert all(b"hf_secret" not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("old", [{}, {"model_revision": "main"}])
def test_a_run_of_version_0_1_0_which_did_not_pin_its_base_is_resumed(tmp_path: Path, old: dict[str, str]) -> None:
    init_output_dir(tmp_path, SETTINGS | old)
    init_output_dir(tmp_path, SETTINGS | {"model_revision": "1" * 40})
    init_output_dir(tmp_path / "new", SETTINGS | {"model_revision": "1" * 40})
    with pytest.raises(SettingsMismatchError, match=r"model_revision was .1{40}., now .2{40}."):
        init_output_dir(tmp_path / "new", SETTINGS | {"model_revision": "2" * 40})


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="is not empty, and is not a training run"):
        init_output_dir(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"output_dir .* cannot be read \(Not a directory\); give another output_dir"):
        init_output_dir(tmp_path / "file" / "out", SETTINGS)


def test_the_newest_whole_checkpoint_counts_by_its_number(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path) is None
    assert read_train_seconds(None) == 0
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-best"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best"):
        (tmp_path / name / COMPLETE_FILE).write_text('{"seconds": 1.5}')
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert read_train_seconds(tmp_path / "checkpoint-10") == 1.5


def test_a_record_comes_back_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert read_finished_record(tmp_path) is None
    write_record(tmp_path, {"steps": 3})
    assert read_finished_record(tmp_path) == {"steps": 3}
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(TuningError, match="remove it to train again from the last checkpoint"):
        read_finished_record(tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("dataset", "revision", "found"),
    [
        (f"org/name@{COMMIT}", None, ("org/name", COMMIT)),
        ("org/name", COMMIT, ("org/name", COMMIT)),
        (f"org/name@{COMMIT}", COMMIT, ("org/name", COMMIT)),
        ("release", None, ("release", None)),
    ],
)
def test_a_commit_is_taken_as_it_is_without_the_hub(
    dataset: str, revision: str | None, found: tuple[str, str | None]
) -> None:
    assert pin_revision(dataset, revision) == found


@pytest.mark.parametrize(
    ("dataset", "revision", "told"),
    [
        ("org/name@v1.0.0", None, "HF_HUB_OFFLINE is set"),
        ("org/name", None, "HF_HUB_OFFLINE is set"),
        ("org/name@v1.0.0", "v1.0.1", "two different revisions"),
        ("release", "v1.0.0", "not a repository on the Hub"),
    ],
)
def test_a_revision_that_cannot_be_pinned_is_told(dataset: str, revision: str | None, told: str) -> None:
    with pytest.raises(CompactError, match=told):
        pin_revision(dataset, revision)
