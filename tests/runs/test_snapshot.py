"""Tests of snapshots: a journal is copied while it is written to, and copies that diverged can be merged."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.records import Reject
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.snapshot import add_snapshot, take_snapshot, write_snapshot
from compact_hf.teachers.base import Reply

IDENTITY = {"source": "pictures"}


def record_replies(run: Path, keys: set[str], text: str = "x") -> Path:
    with Journal.open(run, IDENTITY) as journal:
        for key in keys:
            journal.record_reply("picture", "teacher", Reply(key, text=text, model="m"))
    return run


def read_reply_texts(run: Path) -> dict[str, str]:
    with closing(Journal.read(run)) as journal:
        return {reply.key: reply.text for _, _, reply in journal.replies()}


def test_a_snapshot_holds_all_that_was_written_before_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        for number in range(300):
            journal.record_inspection(f"{number}.jpg", "1:2", Reject("picture", "empty file", f"{number}.jpg"))
            journal.record_reply("picture", "teacher", Reply(str(number), text="y" * 1000, model="m"))
        write_snapshot(take_snapshot(tmp_path / "run"), tmp_path / "copy")
        with Journal.read(tmp_path / "copy") as copy:
            assert copy.inspections() == journal.inspections()
            assert list(copy.replies()) == list(journal.replies())
            assert copy.identity == IDENTITY


def test_a_snapshot_is_one_file_that_reading_leaves_alone(tmp_path: Path) -> None:
    write_snapshot(take_snapshot(record_replies(tmp_path / "run", {"a"})), tmp_path / "copy")
    with Journal.read(tmp_path / "copy") as copy:
        assert [path.name for path in (tmp_path / "copy").iterdir()] == [FILE_NAME]
        assert copy.get_reply("a") is not None


def test_a_run_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    write_snapshot(take_snapshot(record_replies(tmp_path / "run", {"a"})), tmp_path / "copy")
    assert read_reply_texts(record_replies(tmp_path / "copy", {"b"})) == {"a": "x", "b": "x"}


def test_snapshots_are_whole_while_the_run_goes_on(tmp_path: Path) -> None:
    """Each snapshot is taken while up to 50 replies are being written, however slow the machine is."""
    run, numbers = record_replies(tmp_path / "run", {"0"}), SimpleQueue[int | None]()
    written = threading.Semaphore(0)

    def write() -> None:
        with Journal.open(run, IDENTITY) as journal:
            while (number := numbers.get()) is not None:
                journal.record_reply("picture", "teacher", Reply(str(number), text="z" * 5000, model="m"))
                written.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for first in range(1, 1001, 50):
            for number in range(first, first + 50):
                numbers.put(number)
            copy = tmp_path / f"after {first}"
            write_snapshot(take_snapshot(run), copy)
            keys = {int(key) for key in read_reply_texts(copy)}
            assert first <= len(keys) <= first + 50
            assert keys == set(range(len(keys))), "written one after the other, without gaps"
            for _ in range(50):
                assert written.acquire(timeout=60)
    finally:
        numbers.put(None)
        writer.join()


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_two_journals_of_one_run_come_together(
    tmp_path_factory: pytest.TempPathFactory, here: set[str], there: set[str]
) -> None:
    directory = tmp_path_factory.mktemp("parted")
    record_replies(directory / "here", here, "here")
    record_replies(directory / "there", there, "there")
    add_snapshot(take_snapshot(directory / "there"), directory / "here")
    assert read_reply_texts(directory / "here") == dict.fromkeys(there, "there") | dict.fromkeys(here, "here")


@pytest.mark.parametrize("left", [None, b"", b"SQLite format 3\0 cut off"])
def test_what_was_left_without_a_beginning_is_replaced(tmp_path: Path, left: bytes | None) -> None:
    snapshot = take_snapshot(record_replies(tmp_path / "there", {"a"}))
    if left is not None:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / FILE_NAME).write_bytes(left)
        (tmp_path / "here" / f"{FILE_NAME}-wal").write_bytes(b"of another file")
    add_snapshot(snapshot, tmp_path / "here")
    assert read_reply_texts(record_replies(tmp_path / "here", {"b"})) == {"a": "x", "b": "x"}


def test_an_attempt_that_became_the_reply_is_not_unused_after_a_merge(tmp_path: Path) -> None:
    reply = Reply("a", text="", model="m", input_tokens=7)
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        for _ in range(2):
            journal.record_unused("picture", "teacher", reply)
        earlier = take_snapshot(tmp_path / "run")
        journal.promote_unused("picture", "teacher", reply)
        expected = journal.usage()
    add_snapshot(earlier, tmp_path / "run")
    with Journal.read(tmp_path / "run") as journal:
        assert journal.usage() == expected


def test_a_snapshot_of_version_2_is_added_to_a_newer_journal_and_the_other_way_round(tmp_path: Path) -> None:
    old_run = Path(__file__).parents[1] / "golden" / "made_by_0_1_0" / "stopped"
    old = take_snapshot(shutil.copytree(old_run, tmp_path / "old"))
    expected = read_reply_texts(tmp_path / "old")
    new = take_snapshot(record_replies(tmp_path / "new", {"b"}))
    add_snapshot(old, tmp_path / "new")
    add_snapshot(new, tmp_path / "old")
    assert read_reply_texts(tmp_path / "new") == read_reply_texts(tmp_path / "old") == {**expected, "b": "x"}
