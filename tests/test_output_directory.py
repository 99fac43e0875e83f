"""Tests that an output directory is claimed by one kind of work, locked by one process, and bound to its settings."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.dataset.export import export
from compact_hf.errors import (
    CompactError,
    JournalError,
    ReleaseError,
    SettingsMismatchError,
    UsageError,
)
from compact_hf.output_directory import OutputDirectory
from compact_hf.runs.journal import Journal
from compact_hf.storage import replace_directory

STALE_PART = f".settings.json.{'0' * 32}.part"


def open_directory(path: Path) -> OutputDirectory:
    return OutputDirectory(
        path,
        "a test",
        "settings.json",
        lock_name="test.lock",
        error_type=JournalError,
    )


def test_new_empty_and_own_directories_are_claimed(tmp_path: Path) -> None:
    directory = open_directory(tmp_path / "new" / "out")
    directory.claim()
    assert not (tmp_path / "new").exists(), "a claim alone makes nothing"
    with directory.lock():
        directory.claim()  # a process killed here leaves only the lock file
        directory.bind({"seed": 1})
    (directory.path / "results.txt").touch()
    directory.claim()
    directory.bind({"seed": 1})
    assert directory.read_settings() == {"seed": 1}


def test_a_file_and_something_else_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for path, message in ((tmp_path, "is not empty, and is not a test"), (tmp_path / "thesis.tex", "is a file")):
        with pytest.raises(UsageError, match=message):
            open_directory(path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    directory = open_directory(tmp_path)
    with (
        directory.lock(),
        pytest.raises(JournalError, match="is in use by another process"),
        open_directory(tmp_path).lock(),
    ):
        pass
    with directory.lock():
        pass


def test_other_settings_are_told_by_what_differs(tmp_path: Path) -> None:
    directory = open_directory(tmp_path)
    directory.bind({"seed": 1, "ks": (1, 2)})
    directory.bind({"ks": [1, 2], "seed": 1})
    with pytest.raises(SettingsMismatchError, match=r"\(limit was None, now 5; seed was 1, now 2\)"):
        directory.bind({"seed": 2, "ks": [1, 2], "limit": 5})


def test_of_machines_that_start_at_the_same_time_those_with_other_settings_are_refused(tmp_path: Path) -> None:
    """All of them look for the marker before one of them has written it."""
    results: list[int | CompactError] = []
    barrier = threading.Barrier(8)

    class SlowDirectory(OutputDirectory):
        def read_settings(self) -> dict[str, object] | None:
            settings = super().read_settings()
            if settings is None:
                barrier.wait()
            return settings

    def bind(seed: int) -> None:
        try:
            SlowDirectory(tmp_path, "a test", "settings.json").bind({"seed": seed})
            results.append(seed)
        except CompactError as error:
            results.append(error)

    threads = [threading.Thread(target=bind, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [result for result in results if isinstance(result, int)]
    losers = [result for result in results if isinstance(result, SettingsMismatchError)]
    assert (len(winners), len(losers)) == (1, 7), results
    assert open_directory(tmp_path).read_settings() == {"seed": winners[0]}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_damaged_marker_gives_one_line_and_is_kept(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    directory = open_directory(tmp_path)
    directory.claim()
    with pytest.raises(JournalError, match=r"settings.json is damaged \(.*\); restore it from a copy"):
        directory.bind({"seed": 1})
    assert (tmp_path / "settings.json").read_bytes() == content


def test_what_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = open_directory(tmp_path / "file" / "out")
    directory.claim()
    with pytest.raises(JournalError, match=r"cannot be written \(Not a directory\)"), directory.lock():
        pass


@pytest.mark.parametrize(("name", "reason"), [("x" * 256, "File name too long"), ("a\0b", "embedded null byte")])
def test_an_impossible_path_gives_one_line(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=rf"cannot be read \({reason}\)"):
        open_directory(tmp_path / name).claim()


def test_what_kills_left_more_than_a_day_ago_is_removed_with_the_claim(tmp_path: Path) -> None:
    directory = open_directory(tmp_path)
    directory.bind({})
    names = STALE_PART, f".settings.json.{'1' * 32}.part", ".notes.part"
    for name in names:
        (tmp_path / name).touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    for name in (STALE_PART, ".notes.part"):
        os.utime(tmp_path / name, (two_days_ago, two_days_ago))
    directory.claim()
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", *names[1:]}


def test_what_a_kill_left_does_not_keep_a_dataset_or_an_export_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".data.json.part").touch()
    with pytest.raises(CompactError) as excinfo:
        export(tmp_path / "nothing", tmp_path / "out", format="llava")
    assert "not empty" not in str(excinfo.value)
    with replace_directory(tmp_path / "out", is_replaceable=lambda path: False) as directory:
        (directory / "data").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]
    with (
        pytest.raises(ReleaseError, match="contents other"),
        replace_directory(tmp_path / "out", is_replaceable=lambda path: False),
    ):
        pass


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "PATH", "--out", "out"],
        ["generate", "scenes:2", "--out", "PATH"],
        ["annotate", "PATH", "--out", "out"],
        ["assemble", "PATH", "--version", "1.0.0", "--out", "out"],
        ["assemble", "run", "--version", "1.0.0", "--out", "PATH"],
        ["validate", "PATH"],
        ["show", "PATH", "--out", "out"],
        ["status", "PATH"],
        ["export", "PATH", "--format", "llava", "--out", "out"],
        ["diff", "PATH", "PATH"],
        ["publish", "PATH", "org/name"],
        ["evaluate", "PATH", "scenes:2", "--out", "out"],
        ["analyze", "PATH"],
        ["ablate", "PATH", "--out", "out"],
        ["demo", "--out", "PATH"],
        ["tune", "PATH"],
        ["tune", "tiny-cpu", "--dataset_name", ".", "--output_dir", "PATH"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("name", "reason"), [("x" * 300, "File name too long"), ("null\0byte", "")], ids=["long", "null"]
)
def test_every_command_says_in_one_line_that_a_path_is_impossible(
    command: list[str],
    name: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Journal.open(tmp_path / "run", {"method": "compact", "source": "scenes:1"}).close()
    status = main([f"./{name}" if word == "PATH" else word for word in command])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("compact: ")]
    assert status in (1, 2)
    assert reason in line
