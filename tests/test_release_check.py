"""`make release-check` on small repositories: one that can be released, and others with a fault each."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.readme import ROOT

SCRIPT = ROOT / ".ci" / "release_check.py"
FILES = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "compact_hf"
version = "1.2.3"
requires-python = ">=3.11"
readme = "README.md"
""",
    "compact_hf/__init__.py": "from importlib.metadata import version\n__version__ = version(__name__)\n",
    "README.md": "# compact_hf\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\n",
    "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2026-11-30\n\n## [1.2.2] - 2026-10-01\n",
    ".gitignore": "dist/\n",
}


def git(repository: Path, *args: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *args], cwd=repository, check=True, capture_output=True)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "First")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(repository: Path) -> tuple[int, dict[str, str]]:
    """Return the exit status, and by point what is wrong with it: nothing if it is right."""
    process = subprocess.run([sys.executable, SCRIPT], cwd=repository, capture_output=True, text=True, check=False)
    lines = [re.fullmatch(r"(ok   |wrong) (\w+): (.+)", line) for line in process.stdout.splitlines()]
    assert all(lines), process.stdout + process.stderr
    return process.returncode, {line[2]: line[3] if line[1] == "wrong" else "" for line in lines if line}


def test_a_repository_that_can_be_released_passes_and_leaves_what_is_uploaded(repository: Path) -> None:
    git(repository, "tag", "v1.2.3")
    assert check(repository) == (
        0,
        dict.fromkeys(("citation", "changelog", "tree", "tag", "build", "size", "metadata"), ""),
    )
    assert {path.name for path in (repository / "dist").iterdir()} == {
        "compact_hf-1.2.3-py3-none-any.whl",
        "compact_hf-1.2.3.tar.gz",
    }


def test_every_fault_has_a_line_of_its_own_and_the_check_fails(repository: Path) -> None:
    replace(repository / "CITATION.cff", "1.2.3", "1.2.2")
    replace(repository / "CHANGELOG.md", "[1.2.3] - 2026-11-30", "[Unreleased]")
    replace(repository / "pyproject.toml", 'readme = "README.md"\n', "")
    (repository / "compact_hf" / "weights.bin").write_bytes(os.urandom(12_100_000))
    git(repository, "tag", "v1.2.4")
    status, wrong = check(repository)
    assert status == 1
    assert "write `version: 1.2.3`" in wrong["citation"]
    assert "'[Unreleased]' (a release needs its version and date): write `## [1.2.3] - " in wrong["changelog"]
    assert wrong["tree"].startswith("4 files differ from the commit (")
    assert wrong["tag"].startswith("this commit has the tag v1.2.4 (pyproject.toml: 1.2.3): ")
    assert not wrong["build"]
    assert re.match(r"compact_hf-1\.2\.3\S+ has 12\.1 MB \(allowed: less than 12\): ", wrong["size"])
    assert "long_description" in wrong["metadata"]


def break_build(repository: Path) -> None:
    replace(repository / "pyproject.toml", 'readme = "README.md"', 'readme = "READ.md"')


def leave_version_behind(repository: Path) -> None:
    (repository / "compact_hf" / "__init__.py").write_text('__version__ = "1.2.2"\n', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_build, r"hatchling cannot build \(.*READ\.md.*\): run "),
        (leave_version_behind, r"compact_hf\.__version__ of the wheel is 1\.2\.2: it has to be 1\.2\.3"),
    ],
)
def test_a_wheel_that_cannot_be_built_or_has_another_version_is_a_fault(
    repository: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(repository)
    assert re.match(reason, fault_of("build"))


def test_a_version_that_is_written_otherwise_in_the_names_of_files_is_a_fault(repository: Path) -> None:
    replace(repository / "pyproject.toml", "1.2.3", "1.2.3-rc1")
    assert re.search(
        r"1\.2\.3rc1\S+ \(version 1\.2\.3-rc1\): write the version as PEP 440 does", fault_of("build", "1.2.3-rc1")
    )


def test_without_a_build_there_is_nothing_to_check(repository: Path) -> None:
    for point in ("size", "metadata"):
        assert fault_of(point) == "nothing was built: fix the point `build` first"


@pytest.mark.parametrize(
    "heading", ["[Unreleased]", "[1.2.3] - unreleased", "[1.2.3]", "[1.2.2] - 2026-11-30", "[1.2.3] - 2026-13-30"]
)
def test_the_newest_heading_of_the_changelog_has_the_version_and_a_date(repository: Path, heading: str) -> None:
    replace(repository / "CHANGELOG.md", "[1.2.3] - 2026-11-30", heading)
    assert f"{heading!r} (a release needs its version and date): write `## [1.2.3] - " in fault_of("changelog")


def test_a_file_that_is_not_committed_is_a_fault(repository: Path) -> None:
    (repository / "notes.txt").touch()
    assert fault_of("tree") == "1 files differ from the commit (notes.txt): commit or remove them"


def test_a_tag_on_another_commit_is_a_fault(repository: Path) -> None:
    git(repository, "tag", "-a", "v1.2.3", "-m", "1.2.3")
    assert not fault_of("tag")
    git(repository, "commit", "-q", "--allow-empty", "-m", "Second")
    assert fault_of("tag") == "the tag v1.2.3 is on another commit (a release never changes): raise the version"


def test_a_directory_without_git_is_a_fault(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(repository / "nothing"))
    assert re.match(r"git cannot read this directory \(fatal: .+\): run this in a checkout", fault_of("tree"))


def fault_of(point: str, version: str = "1.2.3") -> str:
    """Return what one point says is wrong in the current directory: nothing if it is right."""
    script = runpy.run_path(str(SCRIPT))
    try:
        script["POINTS"][point](version)
    except script["CheckFailed"] as error:
        return str(error)
    return ""
