"""Tests the wheel: built from the checkout, installed into a separate environment, run in another directory."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests import preforked

ROOT = Path(__file__).parent.parent
SMALL_DEMO = """
import sys
import compact_hf
from compact_hf.cli.main import main
from compact_hf.demo import run
from compact_hf.training import train
from tests import preforked

train.Popen = preforked.Popen
run._MIN_SCENES, run._IMAGE_ROWS, run._INSTRUCTION_ROWS = 8, 6, 8
print(compact_hf.__file__)
sys.exit(main())
"""
SHIPPED = {"compact_hf": "compact_hf", "model_card": "compact_hf/_model_card", "spaces_demo": "compact_hf/_spaces_demo"}


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    (path,) = directory.glob("compact_hf-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with only the wheel; a path file makes the dependencies importable.

    A path file adds a directory but does not read the path files in it, so an editable install of the package is not
    importable.
    """
    directory = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=directory,
    )
    packages = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=directory).strip())
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return directory / "bin"


def test_the_wheel_holds_what_the_package_reads_at_run_time(wheel: Path) -> None:
    tracked = run("git", "ls-files", *SHIPPED, cwd=ROOT).splitlines()
    expected = {SHIPPED[name.split("/")[0]] + name.removeprefix(name.split("/")[0]) for name in tracked}
    archived = set(ZipFile(wheel).namelist())
    assert expected <= archived, sorted(expected - archived)
    for pattern in ("recipes/*.yaml", "*.jinja", "_model_card/*", "_spaces_demo/app.py", "py.typed"):
        assert any(Path(name).match(pattern) for name in archived), pattern


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    for name in ZipFile(wheel).namelist():
        assert name.startswith(("compact_hf/", "compact_hf-")), name
        assert "__pycache__" not in name, name
        assert not name.endswith((".pyc", ".orig", ".log")), name


def test_the_metadata_say_what_to_install(wheel: Path) -> None:
    archive = ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(name).decode().splitlines()
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == {"tune", "eval", "demo", "local", "openai", "qlora", "deepspeed", "ray", "testing", "dev", "all"}
    core = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert core
    assert not any("torch" in line for line in core)
    assert "Requires-Python: >=3.11" in lines
    assert "License-Expression: Apache-2.0" in lines


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    location = run(installed / "python", "-c", "import compact_hf; print(compact_hf.__file__)", cwd=tmp_path)
    assert Path(location.strip()).is_relative_to(installed.parent)


def test_the_command_answers_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "generate" in run(installed / "compact", "--help", cwd=tmp_path)


def test_the_demo_runs_from_the_wheel_outside_the_checkout_and_goes_on(installed: Path, tmp_path: Path) -> None:
    """Runs all steps, on a smaller scale than the command allows; a second call has nothing to do and prints the same.

    The process is a fork with the files of the wheel first on its path: a new interpreter would import for a minute.
    """
    packages = Path(
        run(installed / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    command = (sys.executable, "-c", SMALL_DEMO, "demo", "--out", "demo", "--scenes", "8", "--steps", "1")

    def run_demo() -> str:
        process = preforked.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(packages)})
        assert process.returncode == 0, process.stderr
        return str(process.stdout)

    output = run_demo()
    assert output.startswith(str(packages))
    assert "what to do next" in output
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "demo" / "release" / "data").rglob("*.parquet"))
    assert "pipeline_tag: image-text-to-text" in (tmp_path / "demo" / "student" / "README.md").read_text()
    assert run_demo() == output


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it takes seven minutes on two idle cores, twelve on busy ones
def test_the_demo_at_its_full_size_learns(installed: Path, tmp_path: Path) -> None:
    run(installed / "compact", "demo", "--out", "demo", cwd=tmp_path)
    demo = tmp_path / "demo"
    losses = [loss for _, loss in json.loads((demo / "student" / "training.json").read_text())["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    before, after = (
        json.loads((demo / stage / "results.json").read_text())["models"][0]["overall"] for stage in ("before", "after")
    )
    assert after["low"] > before["high"]
