"""Tests that a damaged journal gives an error that says what to do, and never other data."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import JournalError
from compact_hf.records import ImageInfo, Reject
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.teachers.base import Reply

IDENTITY = {"source": "images", "seed": 0}
KEYS = [f"{number:032x}" for number in range(40)]
OLD_RUN = Path(__file__).parents[1] / "golden" / "made_by_0_1_0" / "run"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a journal with rows of all kinds, short and long."""
    run = tmp_path_factory.mktemp("sound") / "run"
    with Journal.open(run, IDENTITY) as journal:
        for number, key in enumerate(KEYS):
            ref = f"{number}.jpg"
            journal.record_inspection(ref, "1:2", ImageInfo(key, ref, 640, 480, "images"))
            journal.record_reply(key, "teacher", Reply(key, text="x" * 50 * number, model="m", input_tokens=number))
            journal.record_unused(key, "verifier", Reply(key, text="", model="m", output_tokens=number))
            journal.record_outcome(FinishedImage(key, ref, f'"{"z" * 20 * number}"', number % 4))
        journal.record_inspection("b.jpg", "1:2", Reject("picture", "empty file", "b.jpg"))
        journal.record_image_total(7)
    return run


def read_all(run: Path) -> tuple[Any, ...]:
    """Return everything that a journal says."""
    with Journal.read(run) as journal:
        return (
            journal.identity,
            journal.inspections(),
            list(journal.image_rejects()),
            [journal.get_image(key, "") for key in KEYS],
            [journal.get_reply(key) for key in KEYS],
            list(journal.replies()),
            journal.usage(),
            list(journal.outcomes()),
            journal.counts(),
            journal.finish_times(),
            journal.finished_ids(),
            journal.read_image_total(),
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(sound: Path, tmp_path: Path, seed: int) -> None:
    expected, data, rng = read_all(sound), (sound / FILE_NAME).read_bytes(), random.Random(seed)
    messages: list[str] = []
    for position in rng.sample(range(len(data) * 8), 60):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / FILE_NAME).write_bytes(damaged)
        try:
            assert read_all(tmp_path) == expected, f"bit {position}"
        except JournalError as error:
            messages.append(str(error))
    assert len(messages) > 20, "most of the file is in use"
    assert not any("\n" in message for message in messages)


def flip_in(text: bytes) -> Callable[[bytes], bytes]:
    """Return a function that flips the lowest bit of the last byte of the first place with this text."""

    def flip(data: bytes) -> bytes:
        assert text in data
        return data.replace(text, text[:-1] + bytes([text[-1] ^ 1]), 1)

    return flip


@pytest.mark.parametrize(
    ("text", "message", "consequence"),
    [
        (b"xxxxx", "a reply about the image 0", "requests the reply again if it is needed"),
        (b'"output_tokens":33', "an unusable reply about the image 0", "no longer counts the cost of this reply"),
        (b"zzzzz", "the outcome of the image 0", "computes the outcome again from the replies"),
        (b'"height":480', r"what is known of the image \d+.jpg", "inspects the image again"),
    ],
)
def test_the_error_names_the_image_and_a_command_that_lets_the_run_go_on(
    sound: Path, tmp_path: Path, text: bytes, message: str, consequence: str
) -> None:
    run = shutil.copytree(sound, tmp_path / "my run")
    file = run / FILE_NAME
    file.write_bytes(flip_in(text)(file.read_bytes()))
    with pytest.raises(JournalError, match=f"journal.sqlite is damaged .{message}.* does not match") as excinfo:
        Journal.open(run, IDENTITY)
    assert str(excinfo.value).endswith(f"the same command then {consequence}")
    command = re.search(r"by `python (.*)`;", str(excinfo.value))
    assert command is not None
    _, module, *arguments = shlex.split(command[1])
    assert module == "sqlite3"
    with closing(sqlite3.connect(arguments[0], isolation_level=None)) as database:
        assert database.execute(arguments[1]).rowcount == 1
    Journal.open(run, IDENTITY).close()


@pytest.mark.parametrize("text", [b'{"seed": 0', b"journal_version3", b"identity{"])
def test_damage_to_what_the_whole_run_needs_has_no_such_command(sound: Path, tmp_path: Path, text: bytes) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(flip_in(text)((sound / FILE_NAME).read_bytes()))
    with pytest.raises(JournalError, match="restore it from a copy, or use another --out"):
        Journal.read(tmp_path)


def test_a_journal_of_version_2_is_read_without_a_change_and_upgraded_when_it_is_resumed(tmp_path: Path) -> None:
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    old = read_all(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    with Journal.open(run, old[0]) as journal:
        journal.record_unused("a", "teacher", Reply("key", text="", model="m"))
    assert read_all(run)[:6] == old[:6]
    file = run / FILE_NAME
    file.write_bytes(flip_in(b'"refused":"the picture')(file.read_bytes()))
    with pytest.raises(JournalError, match="does not match its checksum"):
        Journal.read(run)
