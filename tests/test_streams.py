"""Tests the command with unusual streams: closed, on a full disk, closed by the reader, or with a limited encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import UsageError
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.records import Reject, to_json
from compact_hf.runs.journal import FinishedImage, Journal

SCENES = "scenes:12"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("streams") / "run"
    generate(SCENES, directory)
    return directory


def run_cli(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; from compact_hf.cli.main import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], text=True, timeout=60, check=False, **options)


def test_a_reader_that_has_had_enough_is_no_error(run: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = run_cli("status", str(run), stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_result_that_cannot_be_written_is_said_in_one_line(run: Path) -> None:
    with open("/dev/full", "w") as full:
        process = run_cli("status", str(run), stdout=full, stderr=subprocess.PIPE)
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert "cannot write to stdout (No space left" in process.stderr


def test_work_goes_on_when_nobody_listens_to_its_talk(run: Path, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = run_cli("generate", SCENES, "--out", str(tmp_path / "new"), stderr=write_end, stdout=subprocess.PIPE)
    os.close(write_end)
    assert (process.returncode, process.stdout) == (0, "")
    assert status(tmp_path / "new").finished == 12


def test_status_shows_what_any_terminal_and_any_encoding_can_take(run: Path, tmp_path: Path) -> None:
    hostile = Reject("generation", "long answer", "\x1b[31mred\r\u202e", "caf\u00e9 \u26f5")
    with Journal.open(run, status(run).identity) as journal:
        outcome = Outcome(1, None, (hostile,), (), "", "")
        journal.record_outcome(FinishedImage("0" * 32, "scene:0", to_json(outcome), 0))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for options in ([], ["--json"]):
        process = run_cli("status", str(run), *options, env=environment, capture_output=True)
        assert (process.returncode, process.stderr) == (0, "")
        assert not {"\x1b", "\r"} & set(process.stdout)
    assert any(hostile.subject == reject["examples"][0]["subject"] for reject in json.loads(process.stdout)["rejects"])


def test_options_are_written_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as excinfo:
        main(["generate", SCENES, "--ou", "run"])
    assert excinfo.value.code == 2
    assert "required: --out" in capsys.readouterr().err


def test_a_command_without_a_command_says_that_one_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as excinfo:
        main([])
    assert excinfo.value.code == 2
    assert "required: COMMAND" in capsys.readouterr().err


def test_a_k_that_can_never_give_two_questions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    with pytest.raises(UsageError, match="give k up to 9"):
        generate(str(tmp_path), tmp_path / "run", ks=(3, 10))
