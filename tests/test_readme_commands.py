"""README's commands, run as they stand there, in their order, against servers that speak the protocols."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from compact_hf import copy_student
from compact_hf.cli import main
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.hub.server import HubServer
from compact_hf.testing.model import KEY
from tests.hub.clients import COMPACT, ROOT, run
from tests.synthesis.data_sets import llava_item
from tests.teachers.asking import photograph

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(section: str) -> list[list[str]]:
    """The `compact` commands in the first shell block of a section, as their arguments."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    block = text.partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("compact ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures`, 24 of them; `pool` and a file of LLaVA-665K's form that asks about them."""
    folder = tmp_path_factory.mktemp("newcomer")
    names = [f"{number}.jpg" for number in range(24)]
    for of in ("pictures", "pool"):
        (folder / of).mkdir()
        for number, name in enumerate(names):
            (folder / of / name).write_bytes(photograph(64 + number))
    asked = [{**llava_item(name, ()), "conversations": _conversation(number)} for number, name in enumerate(names)]
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(asked))
    return folder


def _conversation(number: int) -> list[dict[str, str]]:
    question = f"<image>\nHow many things are on shelf {number}?"
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "two"}]


@pytest.fixture(scope="module")
def gemini() -> Iterator[GeminiServer]:
    with GeminiServer(accept_rate=0.8) as server:
        yield server


def run_against(server: GeminiServer, arguments: list[str]) -> int:
    option = {"generate": "--teacher-url", "augment": "--teacher-url", "annotate": "--verifier-url"}.get(arguments[0])
    return main([*arguments, *((option, server.url) if option else ())])


def test_a_release_is_made_of_ones_own_images(
    folder: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    plan, *others = commands("Your own images")
    assert run_against(gemini, plan) == 0
    assert not gemini.asked
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    for arguments in others:
        assert run_against(gemini, arguments) == 0, capsys.readouterr().err
    assert "release is valid" in capsys.readouterr().err
    assert [arguments[0] for arguments in others].count("generate") == 2


def test_the_k_of_data_that_is_there_is_judged_and_raised(
    folder: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    found = commands("The k of data that is there")
    assert len(found) == 2
    for arguments in found:
        assert run_against(gemini, arguments) == 0, capsys.readouterr().err


def test_a_release_goes_to_the_hub_and_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "scenes:60", "--out", "run"]) == 0
    assert main(["assemble", "run", "--out", "release", "--version", "1.0.0", "--keep-similar"]) == 0
    plan, *others = commands("The data set")
    assert plan[-1] == "--dry-run"
    assert re.fullmatch(r"v\d+\.\d+\.\d+", others[0][1].partition("@")[2])
    inside = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r})\n{COMPACT}"
    with HubServer() as server:
        for arguments in (plan, plan[:-1], *others):
            done = run(server, inside, *arguments, home=tmp_path / "home")
            assert done.returncode == 0, done.stderr
        assert server.store.repository("dataset", "org/name").at("v1.0.0").files
    assert (tmp_path / "llava" / "dataset_info.json").is_file()
    assert (tmp_path / "org-name-v1.0.0-sheet" / "contact_sheet.png").is_file()


def test_data_and_models_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "scenes:40", "--out", "run"]) == 0
    assert main(["assemble", "run", "--out", "release", "--version", "1.0.0", "--keep-similar"]) == 0
    copy_student("students")
    for arguments in commands("Judge"):
        # As many questions as a test has time for.
        few = ["scenes:8" if word == "scenes:100" else word for word in arguments]
        assert main(few) == 0, arguments
    for page in ("judged/report.html", "swapped/report.html", "analysis/analysis.html"):
        assert (tmp_path / page).is_file()
