"""Checks the README: the output of its example, its commands, paths and links, and its numbers against the files."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.tables import PAGES as TABLE_PAGES
from benchmarks.tables import read_result, render_page
from compact_hf.cli.main import make_parser
from tests.readme import README, ROOT, code_blocks, section


def test_the_example_prints_what_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,), (expected,) = (code_blocks(language, section("In Python")) for language in ("python", ""))
    monkeypatch.chdir(tmp_path)
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        exec(compile(code, "README.md", "exec"), {})
    assert stdout.getvalue() == expected


def test_readme_shows_commands() -> None:
    assert len([line for block in code_blocks("sh") for line in block.splitlines() if line.startswith("compact ")]) > 25


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 240


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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_parsed(page: Path) -> None:
    blocks = code_blocks("sh", page.read_text(encoding="utf-8"))
    for line in (re.split(r"  #| > ", line)[0].strip() for block in blocks for line in block.splitlines()):
        words = [word for word in shlex.split(line) if not word.startswith("CUDA_VISIBLE_DEVICES=")]
        if words[:1] == ["compact"]:
            make_parser().parse_args(words[1:])
        for script in re.findall(r"python ([\w/.-]+\.py)", line):
            assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_text_exists_with_its_options(page: Path) -> None:
    for line in re.findall(r"`(?:GEMINI_API_KEY=\S+ )?compact ([a-z][^`]*)`", page.read_text(encoding="utf-8")):
        names = re.match(r"[a-z ]*[a-z]", line)
        assert names, line
        options = find_options(names[0].split())
        assert set(re.findall(r"--[\w-]+", line)) <= options, line


def find_options(words: list[str]) -> set[str]:
    """Return the options of the command that the words begin with."""
    parser = make_parser()
    for word in words:
        children = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not children:
            break
        assert word in children[0].choices, word
        parser = children[0].choices[word]
    return set(parser._option_string_actions)


def test_every_path_that_readme_names_is_there() -> None:
    (tree,) = code_blocks("", section("Where things are"))
    entries = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    assert {name.rstrip("/") for name in entries} <= {
        path.relative_to(ROOT / "compact_hf").as_posix() for path in (ROOT / "compact_hf").rglob("*")
    }
    assert len(entries) >= 10
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


@pytest.mark.parametrize("page", TABLE_PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_measurements(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = {
        "README.md": ["costs"],
        "speed.md": ["speed"],
        "student.md": ["student", "queries", "stages", "first_student"],
        "tuning.md": ["training"],
    }
    assert re.findall(r"<!-- table: (\w+) -->", text) == names[page.name]
    assert text.count("<!-- end of table -->") == len(names[page.name])
    assert render_page(text) == text


def test_what_is_said_of_the_student_is_what_was_measured() -> None:
    scores = read_result("student")["scores"]
    tuned, swapped = ([f"{scores[name]['by_k'][k]['accuracy']:.0%}" for k in "14"] for name in ("tuned", "swapped"))
    text = " ".join(README.split())
    assert f"{tuned[0]} right at k = 1 and {tuned[1]} at k = 4, on which it was never tuned." in text
    assert f"with the image of another question, it answers {swapped[0]} and {swapped[1]} right." in text
