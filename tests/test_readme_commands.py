"""Runs the commands of the README, unchanged and in order, with test servers that speak the protocols."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from compact_hf import copy_student
from compact_hf.cli.main import main
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.server import HubServer
from tests.hub.clients import COMPACT, run
from tests.methods.data_sets import llava_item
from tests.readme import ROOT, commands
from tests.teachers.asking import photograph


def compact_commands(title: str) -> list[list[str]]:
    """Return the arguments of the `compact` commands of a section."""
    return [words[1:] for words in commands(title) if words[0] == "compact"]


pytestmark = pytest.mark.usefixtures("preforked_training")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the commands use: two directories of images, and a file in LLaVA's format."""
    directory = tmp_path_factory.mktemp("newcomer")
    names = [f"{number}.jpg" for number in range(24)]
    for subdirectory in ("images", "pool"):
        (directory / subdirectory).mkdir()
        for number, name in enumerate(names):
            (directory / subdirectory / name).write_bytes(photograph(64 + number))
    items = [{**llava_item(name, ()), "conversations": _conversation(number)} for number, name in enumerate(names)]
    (directory / "llava_v1_5_mix665k.json").write_text(json.dumps(items))
    return directory


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
    dry_run, *rest = compact_commands("From your own images")
    assert run_against(gemini, dry_run) == 0
    assert not gemini.requests
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    for arguments in rest:
        assert run_against(gemini, arguments) == 0, capsys.readouterr().err
    assert "release is valid" in capsys.readouterr().err
    assert [arguments[0] for arguments in rest].count("generate") == 2


def test_the_k_of_data_that_is_there_is_judged_and_raised(
    folder: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    section_commands = compact_commands("From existing datasets")
    assert len(section_commands) == 2
    for arguments in section_commands:
        assert run_against(gemini, arguments) == 0, capsys.readouterr().err


def test_a_release_goes_to_the_hub_and_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_release("release")
    dry_run, publish, *rest = compact_commands("Publish to the Hub")
    assert dry_run == [*publish, "--dry-run"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", rest[0][1].partition("@")[2])
    with HubServer() as server:
        for arguments in (dry_run, publish, *rest):
            run_in(tmp_path, arguments, server)
        assert server.store.repository("dataset", "org/name").get_commit("v1.0.0").files
    assert (tmp_path / "llava" / "dataset_info.json").is_file()
    assert (tmp_path / "org-name-v1.0.0-sheet" / "contact_sheet.png").is_file()


def run_in(directory: Path, arguments: list[str], hub: HubServer | None = None) -> str:
    """Run a command in a directory, with a test server as the Hub (a new one by default), and return its output."""
    source = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(directory)!r})\n{COMPACT}"
    with nullcontext(hub) if hub else HubServer() as server:
        process = run(server, source, *arguments, home=directory / "home")
    assert process.returncode == 0, process.stderr
    return process.stdout


def make_release(out: str, *, scenes: int = 40) -> None:
    assert main(["generate", f"scenes:{scenes}", "--out", "run"]) == 0
    assert main(["assemble", "run", "--out", out, "--version", "1.0.0", "--keep-similar"]) == 0


def test_what_the_demo_left_is_tuned_and_ready_to_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_aligned("demo-out/base")
    make_release("demo-out/release")
    section_commands = compact_commands("Tune")
    runnable = [
        arguments for arguments in section_commands if "llava-base" not in arguments and "adapter" not in arguments
    ]
    assert [arguments[0] for arguments in runnable] == ["recipe", "tune", "tune", "publish"]
    *tune_commands, publish = runnable
    for arguments in tune_commands:
        # Fewer steps than in the README, to save time.
        overrides = ["--max_steps", "3"] if arguments[0] == "tune" else []
        assert main([*arguments, *overrides]) == 0, arguments
    assert (tmp_path / "student" / "README.md").is_file()
    run_in(tmp_path, publish)


def test_the_space_is_ready_to_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_release("demo-out/release")
    (publish,) = compact_commands("The Space")
    (tmp_path / "spaces_demo").symlink_to(ROOT / "spaces_demo")
    # The README builds the wheel with pip, which would download the build backend.
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    assert "compact_hf-0.1.0-py3-none-any.whl" in run_in(tmp_path, publish)


def test_data_and_models_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_release("release", scenes=80)  # of 40, none is in the validation split
    copy_student("students")
    for arguments in compact_commands("Evaluate"):
        # Fewer questions than in the README, to save time.
        shortened = ["scenes:8" if word == "scenes:100" else word for word in arguments]
        assert main(shortened) == 0, arguments
    for page in ("judged/report.html", "swapped/report.html", "analysis/analysis.html"):
        assert (tmp_path / page).is_file()
