"""Tests shell completion: a real shell loads the script and completes partial command lines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compact_hf.cli.completion import SHELLS
from compact_hf.cli.main import main


def get_script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def complete(script: str, words: list[str], directory: Path) -> list[str]:
    """Return the completions that bash offers for the last of `words`, in `directory`."""
    line = " ".join(words)
    query = (
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; COMP_LINE={line!r};"
        f" COMP_POINT={len(line)}; $(complete -p compact | sed 's/.*-F \\([^ ]*\\).*/\\1/') compact {words[-1]!r}"
        f' {words[-2]!r}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    process = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{query}"], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    return process.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["compact", "gen"], ["generate"]),
        (["compact", "generate", "--pre"], ["--preset"]),
        (["compact", "export", "--format", "ll"], ["llava"]),
        (["compact", "adapter", "me"], ["merge"]),
        (["compact", "assemble", "a-r"], ["a-run"]),
        (["compact", "assemble", "a-run", "--out", "a-r"], ["a-run"]),
    ],
)
def test_bash_completes_commands_options_choices_and_paths(
    words: list[str], offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-run").mkdir()
    assert complete(get_script("bash", capsys), words, tmp_path) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_can_read_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = get_script(shell, capsys)
    assert "generate" in script
    executable = shutil.which(shell)
    if not executable:
        pytest.skip(f"{shell} is not on this machine")
    process = subprocess.run([executable, "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
