"""Tests of the journal: it survives kills, refuses other settings and processes, and reports errors in one line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from compact_hf.errors import JournalError, SettingsMismatchError, UsageError
from compact_hf.records import ImageInfo, Reject
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.teachers.base import Reply

IDENTITY = {"source": "pictures", "seed": 0, "k": [1, 2, 3]}
IMAGE = ImageInfo("ab" * 16, "a.jpg", 640, 480, "pictures")


def test_what_was_written_is_there_in_the_next_process(tmp_path: Path) -> None:
    reply = Reply("key", text='{"answer": "red"}', model="gemini:x", input_tokens=7, planted=("low confidence",))
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        journal.record_inspection("a.jpg", "1:2", IMAGE)
        journal.record_inspection("b.jpg", "1:2", Reject("picture", "empty file", "b.jpg"))
        journal.record_reply(IMAGE.image_id, "teacher", reply)
        journal.record_outcome(FinishedImage(IMAGE.image_id, "a.jpg", "{}", 3))
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        assert journal.inspections() == {"a.jpg": ("1:2", IMAGE.image_id), "b.jpg": ("1:2", None)}
        assert journal.get_image(IMAGE.image_id, "a.jpg") == IMAGE
        assert journal.get_reply("key") == reply
        assert journal.finished_ids() == {IMAGE.image_id}
        assert list(journal.image_rejects()) == [Reject("picture", "empty file", "b.jpg")]
        assert list(journal.outcomes()) == [FinishedImage(IMAGE.image_id, "a.jpg", "{}", 3)]


def test_a_picture_is_found_where_it_is_now(tmp_path: Path) -> None:
    moved = ImageInfo(IMAGE.image_id, "moved.jpg", 640, 480, "pictures")
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_inspection("a.jpg", "1:2", IMAGE)
        journal.record_inspection("moved.jpg", "1:2", moved)
        assert journal.get_image(IMAGE.image_id, "a.jpg") == IMAGE
        journal.record_inspection("a.jpg", "", Reject("picture", "unreadable file", "a.jpg"))
        assert journal.get_image(IMAGE.image_id, "a.jpg") == moved
        assert journal.get_image("cd" * 16, "a.jpg") is None


def test_the_same_content_under_two_names_counts_once_and_is_said(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        for ref in ("b.jpg", "a.jpg", "c.jpg"):
            journal.record_inspection(ref, "", IMAGE)
        assert journal.count_images() == 1
        assert [reject.subject for reject in journal.image_rejects()] == ["b.jpg", "c.jpg"]
        assert {reject.detail for reject in journal.image_rejects()} == {"same content as a.jpg"}


def test_another_identity_is_refused_and_names_what_differs(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_reply(IMAGE.image_id, "teacher", Reply("key", text="{}", model="m"))
    with pytest.raises(SettingsMismatchError, match="seed was 0, now 1") as excinfo:
        Journal.open(tmp_path, {**IDENTITY, "seed": 1})
    assert excinfo.value.differences == {"seed": (0, 1)}


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path, IDENTITY),
        pytest.raises(JournalError, match="is in use by another process"),
    ):
        Journal.open(tmp_path, IDENTITY)


def test_a_run_can_be_read_while_another_process_writes_to_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as writer, Journal.read(tmp_path) as reader:
        writer.record_inspection("a.jpg", "", IMAGE)
        assert reader.count_images() == 1


def test_reading_a_run_leaves_its_folder_as_it_was(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_inspection("a.jpg", "", IMAGE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Journal.read(tmp_path) as journal:
        assert journal.count_images() == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a run"):
        Journal.open(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_that_was_killed_before_its_first_write_can_start_again(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with Journal.open(tmp_path, IDENTITY) as journal:
        assert journal.identity == IDENTITY


def test_a_half_written_journal_is_called_damaged(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        for index in range(200):
            journal.record_inspection(f"{index}.jpg", "", IMAGE)
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(JournalError, match="damaged"), Journal.open(tmp_path, IDENTITY) as journal:
        list(journal.image_rejects())


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path, IDENTITY).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'journal_version'")
    with pytest.raises(JournalError, match="journal 99, this one reads 2 and 3"):
        Journal.open(tmp_path, IDENTITY)


def test_a_sqlite_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(JournalError, match="another version"):
        Journal.read(tmp_path)


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_inspection("a.jpg", "", IMAGE)
        # This limit of SQLite raises the same error as a full disk.
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalError, match=r"full .*free some space and run the same command"):
            journal.record_reply("x", "teacher", Reply("key", text="y" * 1_000_000, model="m"))
    with Journal.open(tmp_path, IDENTITY) as journal:
        assert journal.get_image(IMAGE.image_id, "a.jpg") == IMAGE


def test_a_folder_that_is_no_run_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        Journal.read(tmp_path)


def test_a_run_on_a_network_file_system_is_refused_but_can_be_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal.open(tmp_path / "copied", IDENTITY).close()
    monkeypatch.setattr("compact_hf.runs.journal.get_network_file_system", lambda path: "nfs4")
    with pytest.raises(JournalError, match=r"network file system \(nfs4\).*local disk"):
        Journal.open(tmp_path / "new", IDENTITY)
    assert not (tmp_path / "new").exists()
    with Journal.read(tmp_path / "copied") as journal:
        assert journal.identity == IDENTITY
    assert {path.name for path in (tmp_path / "copied").iterdir()} <= {FILE_NAME, "journal.lock"}


def test_a_checkpoint_empties_the_log_into_the_file_beside_the_writer(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        file, log = tmp_path / "run" / FILE_NAME, tmp_path / "run" / f"{FILE_NAME}-wal"
        for number in range(2000):
            journal.record_reply("a" * 32, "teacher", Reply(f"{number}", text="x" * 1000, model="m"))
        before = file.stat().st_size
        journal.checkpoint()
        assert file.stat().st_size > before + 2_000_000
        log_size = log.stat().st_size
        journal.record_reply("a" * 32, "teacher", Reply("after", text="y", model="m"))
        assert log.stat().st_size == log_size  # the log is overwritten from its start
        assert sum(1 for _ in journal.replies()) == 2001


def test_the_last_checkpoint_leaves_nothing_to_close(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", IDENTITY) as journal:
        journal.record_reply("image", "teacher", Reply("key", "text", "model"))
        journal.checkpoint(is_last=True)
        assert (tmp_path / "run" / "journal.sqlite-wal").stat().st_size == 0
        with Journal.read(tmp_path / "run") as reader, closing(reader.replies()) as replies:
            next(replies)
            journal.record_reply("image", "teacher", Reply("later", "text", "model"))
            journal.checkpoint(is_last=True)  # returns at once during a read, and keeps the log
    with Journal.read(tmp_path / "run") as reader:
        assert [reply.key for *_, reply in reader.replies()] == ["key", "later"]


@pytest.mark.parametrize("answered", ["reply", "unused reply", "batch"])
def test_a_run_is_replaced_only_while_nothing_was_answered(tmp_path: Path, answered: str) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_inspection("a.jpg", "1:2", IMAGE)
        journal.record_outcome(FinishedImage("cd" * 16, "b.jpg", "{}", 0))
        journal.record_image_total(2)
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "1.json").write_text('{"stage": "uploaded"}')
    with Journal.open(tmp_path, {**IDENTITY, "seed": 1}) as journal:
        assert journal.identity["seed"] == 1
        assert journal.inspections() == {"a.jpg": ("1:2", IMAGE.image_id)}, "the source is the same"
        assert (journal.finished_ids(), journal.read_image_total()) == (set(), None)
    assert not (tmp_path / "batches").exists(), "its requests were never sent"
    with Journal.open(tmp_path, {**IDENTITY, "source": "others"}) as journal:
        assert journal.inspections() == {}
        if answered == "reply":
            journal.record_reply("a", "teacher", Reply("key", text="{}", model="m"))
        elif answered == "unused reply":
            journal.record_unused("a", "teacher", Reply("key", text="", model="m"))
        else:
            (tmp_path / "batches").mkdir()
            (tmp_path / "batches" / "1.json").write_text('{"stage": "submitted"}')
    with pytest.raises(SettingsMismatchError, match="source was 'others', now 'pictures'"):
        Journal.open(tmp_path, IDENTITY)


def test_a_run_of_another_method_is_never_replaced(tmp_path: Path) -> None:
    Journal.open(tmp_path, {**IDENTITY, "method": "annotate"}).close()
    with pytest.raises(SettingsMismatchError, match="method was 'annotate', now 'compact'"):
        Journal.open(tmp_path, {**IDENTITY, "method": "compact"})


def test_an_unused_reply_counts_its_cost_and_answers_no_request(tmp_path: Path) -> None:
    unusable = Reply("key", text="", model="m", input_tokens=70, output_tokens=5)
    with Journal.open(tmp_path, IDENTITY) as journal:
        journal.record_unused("a", "teacher", unusable)
        journal.record_unused("a", "teacher", unusable)
        assert journal.get_reply("key") is None
        journal.record_reply("a", "teacher", replace(unusable, output_tokens=9, has_usage=False))
    with Journal.read(tmp_path) as journal:
        assert [reply.output_tokens for *_, reply in journal.replies()] == [9]
        (usage,) = journal.usage()
        assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.estimated) == (3, 210, 19, 1)
        assert (usage.max_input_tokens, usage.max_output_tokens) == (70, 9)


def test_the_last_attempt_becomes_the_reply_and_counts_once(tmp_path: Path) -> None:
    unusable = Reply("key", text="", model="m", input_tokens=70, output_tokens=5)
    with Journal.open(tmp_path, IDENTITY) as journal:
        for tokens in (5, 6):
            journal.record_unused("a", "teacher", replace(unusable, output_tokens=tokens))
        journal.promote_unused("a", "teacher", replace(unusable, output_tokens=6, refused="empty answer"))
        assert journal.get_reply("key") == replace(unusable, output_tokens=6, refused="empty answer")
        (usage,) = journal.usage()
        assert (usage.requests, usage.output_tokens) == (2, 11)
        # Without an earlier attempt in the journal it is stored all the same.
        journal.promote_unused("a", "teacher", replace(unusable, key="other"))
        assert journal.get_reply("other") is not None


def test_what_is_forgotten_is_requested_again_and_its_cost_still_counts(tmp_path: Path) -> None:
    with Journal.open(tmp_path, IDENTITY) as journal:
        for key in ("kept", "dropped"):
            journal.record_reply(key, "teacher", Reply(key, text="", model="m", input_tokens=70))
            journal.record_outcome(FinishedImage(key, f"{key}.jpg", "{}", 0))
        before = journal.usage()
        journal.forget({"dropped"}, {"dropped"})
        assert (journal.get_reply("dropped"), journal.finished_ids()) == (None, {"kept"})
        assert journal.usage() == before
    with Journal.open(tmp_path, IDENTITY) as journal:
        assert journal.usage() == before
