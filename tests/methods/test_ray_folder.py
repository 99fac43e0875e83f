"""Tests that invalid calls are refused before Ray starts, and that a directory belongs to one run and process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import CompactError, JournalError, SettingsMismatchError, UsageError
from compact_hf.methods.generate import generate
from compact_hf.runs.ray import generate_on_ray, lock_ray_run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Ray fail to start, so that a refusal must come before."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shards": 0}, "got 0 shards: give at least 1"),
        ({"shards": 8, "limit": 5}, "shard 8/8 gets no share of limit 5 .*: raise it to at least 8"),
        ({"shards": 8, "max_requests": 7}, "no share of max_requests 7"),
        ({"shards": 2, "teacher": "gemini-batch"}, "--runner ray does not support gemini-batch"),
        ({"shards": 2, "verifier": "gemini-batch:any"}, "omit --runner ray"),
    ],
)
@pytest.mark.usefixtures("no_ray")
def test_what_cannot_be_cut_is_refused_before_anything_begins(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        generate_on_ray(generate, "scenes:20", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_a_cluster_where_nobody_answers_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(CompactError, match=r"no Ray cluster can be reached .*ConnectionRefused.* RAY_ADDRESS"):
        generate_on_ray(generate, "scenes:4", tmp_path / "out", shards=2)


def test_a_folder_is_held_by_one_process_and_cut_one_way(tmp_path: Path) -> None:
    with (
        lock_ray_run(tmp_path / "out", 2) as run,
        pytest.raises(JournalError, match="is in use by another process"),
        lock_ray_run(tmp_path / "out", 2),
    ):
        pass
    with lock_ray_run(tmp_path / "out", 2) as reopened_run:
        assert reopened_run == run
    with (
        pytest.raises(SettingsMismatchError, match=r"\(shards was 2, now 4\): use those to resume"),
        lock_ray_run(tmp_path / "out", 4),
    ):
        pass
    with lock_ray_run(tmp_path / "other", 2) as other_run:
        assert other_run != run


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for out, message in ((tmp_path, "not a run on Ray"), (tmp_path / "thesis.txt", "is a file")):
        with pytest.raises(UsageError, match=message), lock_ray_run(out, 2):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"run": "x"}', '{"shards": 2, "run": 3}', "\xff"])
def test_a_damaged_or_foreign_marker_gives_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "ray-run.json").write_text(content, encoding="latin-1")
    with pytest.raises(JournalError, match=r"ray-run.json is damaged \(.*\); restore it"), lock_ray_run(tmp_path, 2):
        pass
    assert (tmp_path / "ray-run.json").read_text(encoding="latin-1") == content
