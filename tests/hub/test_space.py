"""Tests publishing a metric and a Space, with or without a wheel, by `compact publish` and the real client."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.hub.server import HubServer

from .clients import COMPACT, PUSH, ROOT, contents, revision_files, run, statuses

METRIC = ROOT / "compact_hf" / "evaluation" / "compact_accuracy"
SPACE = ROOT / "spaces_demo"
UNUSED = re.compile(r"__pycache__|^\.|\.pyi$")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(directory.glob("*.whl"))


def published_files(directory: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(directory).items() if not UNUSED.search(name)}


def test_a_metric_becomes_a_space_of_just_its_files(server: HubServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = run(server, COMPACT, "publish", str(METRIC), "org/compact_accuracy", home=home)
    assert (process.returncode, process.stdout) == (0, f"{server.url}/spaces/org/compact_accuracy/tree/main\n"), (
        process.stderr
    )
    assert "package index" not in process.stderr
    repository = server.store.repository("space", "org/compact_accuracy")
    assert revision_files(repository, "main") == published_files(METRIC)
    commit = repository.refs["refs/heads/main"]
    second_process = run(server, COMPACT, "publish", str(METRIC), "org/compact_accuracy", home=home)
    assert (second_process.returncode, repository.refs["refs/heads/main"]) == (0, commit)
    assert statuses(repository) == ["merged"]
    assert "README.md" not in second_process.stderr
    edited = shutil.copytree(METRIC, tmp_path / "metric", ignore=shutil.ignore_patterns("__pycache__"))
    with (edited / "README.md").open("a") as card:
        card.write("Thanks.\n")
    third_process = run(server, COMPACT, "publish", str(edited), "org/compact_accuracy", home=home)
    assert third_process.returncode == 0, third_process.stderr
    assert f"README.md of org/compact_accuracy differs from {edited / 'README.md'}, which" in third_process.stderr


def test_a_space_is_pushed_with_a_wheel_that_its_requirements_can_fetch(
    server: HubServer, wheel: Path, tmp_path: Path
) -> None:
    before = published_files(SPACE)
    process = run(server, COMPACT, "publish", str(SPACE), "org/space", "--wheel", str(wheel), home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    remote_files = revision_files(server.store.repository("space", "org/space"), "main")
    assert remote_files.pop(wheel.name) == wheel.read_bytes()
    requirements = remote_files.pop("requirements.txt").decode()
    assert remote_files == {name: data for name, data in before.items() if name != "requirements.txt"}
    assert published_files(SPACE) == before, "the directory was changed"
    (line,) = [line for line in requirements.splitlines() if line.startswith("compact_hf")]
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, line], check=True, capture_output=True, timeout=120)
    assert (target / "compact_hf" / "cli" / "main.py").is_file()


@pytest.mark.parametrize("existed", [False, True])
def test_a_wheel_is_not_published_in_a_space_that_is_private_by_default(
    existed: bool, wheel: Path, tmp_path: Path
) -> None:
    with HubServer(private_by_default=True) as server:
        if existed:
            server.store.create("space", "org/space", private=True, author="tester")
        command = ["publish", str(SPACE), "org/space", "--wheel", str(wheel)]
        process = run(server, COMPACT, *command, home=tmp_path / "home")
        assert process.returncode == 1
        line = process.stderr.splitlines()[-1]
        assert f"org/space {'is' if existed else 'would be'} private, and the build of a Space cannot download" in line
        assert server.store.has("space", "org/space") == existed
        assert not [request for request in server.requests if request.path.startswith("/lfs/")]


def test_hidden_and_generated_files_of_a_space_are_not_published(server: HubServer, tmp_path: Path) -> None:
    directory = tmp_path / "metric"
    shutil.copytree(METRIC, directory)
    (directory / ".env").write_text("HF_TOKEN=secret\n")
    (directory / ".answers").mkdir()
    (directory / ".answers" / "all.json").write_text("{}")
    (directory / "app.pyi").write_text("# Gradio writes these when the app starts\n")
    process = run(server, COMPACT, "publish", str(directory), "org/no_hidden_files", home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert revision_files(server.store.repository("space", "org/no_hidden_files"), "main") == published_files(METRIC)


def test_a_dry_run_lists_what_would_be_pushed_and_says_what_the_index_has_to_have(
    server: HubServer, tmp_path: Path
) -> None:
    process = run(server, COMPACT, "publish", str(SPACE), "org/space", "--dry-run", home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert {line.split()[0] for line in process.stdout.splitlines()[2:]} == set(published_files(SPACE))
    assert "from the package index; if it was not published there, give --wheel FILE" in process.stderr
    assert not server.store.has("space", "org/space")


def _remove_file(name: str, directory: Path) -> None:
    (directory / name).unlink()


def _write_header(line: str, directory: Path) -> None:
    (directory / "README.md").write_text(f"---\n{line}\n---\n")


def test_what_cannot_be_published_is_one_clear_line_and_nothing_there(
    server: HubServer, folder: Path, wheel: Path, tmp_path: Path
) -> None:
    broken = {
        "no app.py": lambda directory: _remove_file("app.py", directory),
        "no requirements.txt": lambda directory: _remove_file("requirements.txt", directory),
        "sdk 'docker'": lambda directory: _write_header("sdk: docker", directory),
        "not valid YAML": lambda directory: _write_header("sdk: [gradio", directory),
    }
    cases: list[tuple[str, list[str]]] = [
        ("needs no wheel", [str(METRIC), "org/new", "--wheel", str(wheel)]),
        ("pip wheel --no-deps", [str(SPACE), "org/new", "--wheel", str(SPACE / "app.py")]),
        ("cannot be combined", [str(SPACE), "org/new", "--wheel", str(wheel), "--private"]),
        ("is not a model or adapter: --version cannot be", [str(SPACE), "org/new", "--version", "1.0.0"]),
        ("is not a Space: --wheel cannot be used with it", [str(folder), "org/new", "--wheel", str(wheel)]),
        ("contains something else (data", [str(SPACE), "org/things"]),
    ]
    for number, (message, spoil) in enumerate(broken.items()):
        copy = tmp_path / str(number)
        shutil.copytree(METRIC, copy)
        spoil(copy)
        cases.append((message, [str(copy), "org/new"]))
    assert run(server, PUSH.replace('"dataset"', '"space"'), folder, home=tmp_path / "home").returncode == 0
    for message, arguments in cases:
        process = run(server, COMPACT, "publish", *arguments, home=tmp_path / "home")
        assert process.returncode in (1, 2), message
        assert message in process.stderr.strip().splitlines()[-1], process.stderr
        assert "Traceback" not in process.stderr
    assert not server.store.has("space", "org/new")
