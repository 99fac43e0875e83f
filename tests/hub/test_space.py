"""`compact publish` takes a metric and a Space to repositories of their kind, wheel and all, by the real client."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.hub.server import HubServer

from .clients import COMPACT, PUSH, ROOT, at, contents, run, statuses

METRIC = ROOT / "compact_hf" / "evaluation" / "compact_accuracy"
SPACE = ROOT / "spaces_demo"
UNUSED = re.compile(r"__pycache__|^\.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not UNUSED.search(name)}


def test_a_metric_becomes_a_space_of_just_its_files(server: HubServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = run(server, COMPACT, "publish", str(METRIC), "org/compact_accuracy", home=home)
    assert (done.returncode, done.stdout) == (0, f"{server.url}/spaces/org/compact_accuracy/tree/main\n"), done.stderr
    assert "package index" not in done.stderr
    repository = server.store.repository("space", "org/compact_accuracy")
    assert at(repository, "main") == of(METRIC)
    commit = repository.refs["refs/heads/main"]
    again = run(server, COMPACT, "publish", str(METRIC), "org/compact_accuracy", home=home)
    assert (again.returncode, repository.refs["refs/heads/main"]) == (0, commit)
    assert statuses(repository) == ["merged"]


def test_a_space_is_pushed_with_a_wheel_that_its_requirements_can_fetch(
    server: HubServer, wheel: Path, tmp_path: Path
) -> None:
    before = of(SPACE)
    done = run(server, COMPACT, "publish", str(SPACE), "org/space", "--wheel", str(wheel), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    there = at(server.store.repository("space", "org/space"), "main")
    assert there.pop(wheel.name) == wheel.read_bytes()
    requirements = there.pop("requirements.txt").decode()
    assert there == {name: data for name, data in before.items() if name != "requirements.txt"}
    assert of(SPACE) == before, "the folder stays as it is"
    (line,) = [line for line in requirements.splitlines() if line.startswith("compact_hf")]
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, line], check=True, capture_output=True, timeout=120)
    assert (target / "compact_hf" / "cli" / "main.py").is_file()


def test_hidden_files_of_a_space_are_not_published(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "metric"
    shutil.copytree(METRIC, folder)
    (folder / ".env").write_text("HF_TOKEN=secret\n")
    (folder / ".answers").mkdir()
    (folder / ".answers" / "all.json").write_text("{}")
    done = run(server, COMPACT, "publish", str(folder), "org/no_hidden_files", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert at(server.store.repository("space", "org/no_hidden_files"), "main") == of(METRIC)


def test_a_dry_run_lists_what_would_be_pushed_and_says_what_the_index_has_to_have(
    server: HubServer, tmp_path: Path
) -> None:
    done = run(server, COMPACT, "publish", str(SPACE), "org/space", "--dry-run", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()[2:]} == set(of(SPACE))
    assert "from the package index; where that does not have it, give --wheel FILE" in done.stderr
    assert not server.store.has("space", "org/space")


def _without(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _header(line: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\n{line}\n---\n")


def test_what_cannot_be_published_is_one_clear_line_and_nothing_there(
    server: HubServer, folder: Path, wheel: Path, tmp_path: Path
) -> None:
    broken = {
        "no app.py": lambda at: _without("app.py", at),
        "no requirements.txt": lambda at: _without("requirements.txt", at),
        "sdk 'docker'": lambda at: _header("sdk: docker", at),
        "no YAML": lambda at: _header("sdk: [gradio", at),
    }
    asked: list[tuple[str, list[str]]] = [
        ("no use for a wheel", [str(METRIC), "org/new", "--wheel", str(wheel)]),
        ("pip wheel --no-deps", [str(SPACE), "org/new", "--wheel", str(SPACE / "app.py")]),
        ("exclude each other", [str(SPACE), "org/new", "--wheel", str(wheel), "--private"]),
        ("holds no model or adapter, and only those take --version", [str(SPACE), "org/new", "--version", "1.0.0"]),
        ("holds no Space, and only those take --wheel", [str(folder), "org/new", "--wheel", str(wheel)]),
        ("holds something else (data", [str(SPACE), "org/things"]),
    ]
    for number, (words, harm) in enumerate(broken.items()):
        copy = tmp_path / str(number)
        shutil.copytree(METRIC, copy)
        harm(copy)
        asked.append((words, [str(copy), "org/new"]))
    assert run(server, PUSH.replace('"dataset"', '"space"'), folder, home=tmp_path / "home").returncode == 0
    for words, arguments in asked:
        done = run(server, COMPACT, "publish", *arguments, home=tmp_path / "home")
        assert done.returncode in (1, 2), words
        assert words in done.stderr.strip().splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
    assert not server.store.has("space", "org/new")
