from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.wording import format_command, format_count


def test_a_count_agrees_with_its_noun() -> None:
    assert [format_count(count, "image") for count in (0, 1, 2, 1200)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,200 images",
    ]
    assert format_count(2, "reply", "replies") == "2 replies"


def test_a_command_is_read_by_a_shell_as_it_was_written() -> None:
    words = ["compact", "status", "my run", "it's", "$HOME", "plain"]
    assert shlex.split(format_command(*words)) == words
    assert format_command("compact", "status", Path("run")) == "compact status run"


def test_the_next_commands_work_for_paths_with_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run_hint(hint: str) -> str:
        words = shlex.split(hint)
        assert words.pop(0) == "compact"
        assert main(words) == 0
        return capsys.readouterr().err

    assert main(["generate", "scenes:1", "--out", "my $run"]) == 0
    message, _, commands = capsys.readouterr().err.splitlines()[-1].partition("; next: ")
    assert message.startswith("1 of 1 image kept, ")
    status_hint, assemble_hint = commands.split(", ")
    run_hint(status_hint)
    assert main([*shlex.split(assemble_hint)[1:], "--out", "my release"]) == 0
    validate_hint, _, code = capsys.readouterr().err.splitlines()[-1].removeprefix("next: ").partition("; in Python: ")
    assert run_hint(validate_hint).startswith("my release is valid: ")
    assert code == "load_dataset('my release')"
