"""README cannot rot: its example prints what it says, its commands exist, its tree is the tree, figures are files'."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.readme import README_ROWS, format_costs, format_table, format_training, read_result
from compact_hf.cli.main import make_parser
from tests.readme import README, ROOT, code_blocks, section


def test_the_example_prints_what_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,), (expected,) = (code_blocks(language, section("In Python")) for language in ("python", ""))
    monkeypatch.chdir(tmp_path)
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        exec(compile(code, "README.md", "exec"), {})
    assert stdout.getvalue() == expected


def test_the_example_has_about_ten_lines() -> None:
    (code,) = code_blocks("python", section("In Python"))
    assert len(code.splitlines()) <= 12


def test_every_config_that_readme_loads_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compact_hf import assemble, generate

    monkeypatch.chdir(tmp_path)
    generate("scenes:60", "run")
    assemble(["run"], "demo-out/release", version="1.0.0")
    (code,) = code_blocks("python", section("Load it"))
    imported, _, loads = code.partition("\n\n")
    names: dict[str, object] = {}
    exec(imported, names)
    lengths = [len(list(eval(line, names)["train"])) for line in loads.splitlines()]
    assert len(lengths) == 5
    assert all(lengths)


def test_every_command_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.partition("#")[0].strip() for block in code_blocks("sh") for line in block.splitlines()]
    inline = re.findall(r"`(?:GEMINI_API_KEY=\S+ )?(compact \w+ [^`]+)`", README)
    lines += [text for text in inline if "..." not in text]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("compact ")]
    assert len(commands) >= 6
    for arguments in commands:
        make_parser().parse_args(arguments)


def test_every_path_that_readme_names_is_there() -> None:
    (tree,) = code_blocks("", section("Where things are"))
    entries = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    assert {name.rstrip("/") for name in entries} <= {
        path.relative_to(ROOT / "compact_hf").as_posix() for path in (ROOT / "compact_hf").rglob("*")
    }
    assert len(entries) > 10
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for path, _, heading in (link.partition("#") for link in re.findall(r"\]\((?!http)([^)]+)\)", README)):
        assert (ROOT / path).exists(), path
        assert path or heading in headings, heading
    for script in re.findall(r"(?:python|--config) ([\w/.-]+\.(?:py|yaml))", README):
        assert (ROOT / script).exists(), script


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_figures_are_those_of_the_files() -> None:
    speed = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert format_table() in speed
    assert format_costs(read_result("costs")) in README
    assert format_table(README_ROWS) in README
    assert format_training(read_result("training")) in README


def test_what_is_said_of_the_student_is_what_was_measured() -> None:
    scores = read_result("student")["scores"]
    tuned, swapped = ([f"{scores[name]['by_k'][k]['accuracy']:.0%}" for k in "14"] for name in ("tuned", "swapped"))
    words = f"{tuned[0]} right at k = 1 and {tuned[1]} at k = 4, which it was never tuned on, against"
    assert f"{words} {swapped[0]} and {swapped[1]} with the pictures swapped" in " ".join(README.split())
