"""Shell completion: a real shell is given the script, half a command line, and asked what may follow."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compact_hf.cli.completion import SHELLS
from compact_hf.cli.main import main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(said: str, words: list[str], folder: Path) -> list[str]:
    """What bash offers for the last of `words`, in `folder`."""
    line = " ".join(words)
    ask = (
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; COMP_LINE={line!r};"
        f" COMP_POINT={len(line)}; $(complete -p compact | sed 's/.*-F \\([^ ]*\\).*/\\1/') compact {words[-1]!r}"
        f' {words[-2]!r}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{said}\n{ask}"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


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
    assert completed(script("bash", capsys), words, tmp_path) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_can_read_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = script(shell, capsys)
    assert "generate" in said
    found = shutil.which(shell)
    if not found:
        pytest.skip(f"{shell} is not on this machine")
    done = subprocess.run([found, "-n"], input=said, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
