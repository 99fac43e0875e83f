"""Tests the wheel and the sdist: built from the checkout, installed and used outside of it."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import tarfile
import venv
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests import preforked
from tests.readme import README, ROOT

MAX_WHEEL_SIZE = 12_000_000
ADDRESS = "https://github.com/compact-hf/compact_hf"
NOT_IN_SDIST = {".pre-commit-config.yaml"}  # its hooks need a git checkout
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
# Other packages are skipped: reading them takes a minute.
MYPY_SETTINGS = """
[mypy]
strict = true
follow_imports = skip
[mypy-compact_hf.*]
follow_imports = normal
"""
RIGHT_USE = """
from pathlib import Path

import compact_hf
from compact_hf import CompactError, RunProgress, RunStatus, ValidationReport
from compact_hf import assemble, evaluate, generate, status, validate


def main(images: str, out: Path) -> int:
    try:
        progress: RunProgress = generate(images, out / "run", limit=20)
        run: RunStatus = status(out / "run")
        assemble([out / "run"], out / "release", version="1.0.0")
        report: ValidationReport = validate(out / "release")
        evaluation: compact_hf.Evaluation = evaluate("student", out / "release", out / "scores")
    except CompactError as error:
        print(compact_hf.__version__.upper(), error.exit_status + 1)
        return 1
    print(run, evaluation, progress.accepted + 1)
    return sum(report.rows.values())
"""
WRONG_USE = """
import compact_hf
from compact_hf import anotate  # error: attr-defined
compact_hf.generatte("photos", "run")  # error: attr-defined
compact_hf.assemble(["run"], "release")  # error: call-arg
compact_hf.assemble(["run"], "release", version=1)  # error: arg-type
compact_hf.validate("release").is_vallid  # error: attr-defined
count: str = compact_hf.generate("photos", "run").accepted  # error: assignment
"""
SHIPPED = {"compact_hf": "compact_hf", "model_card": "compact_hf/_model_card", "spaces_demo": "compact_hf/_spaces_demo"}


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}"
    return process.stdout


def build(target: str, source: Path, directory: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", directory, cwd=source)
    (path,) = directory.iterdir()
    return path


def list_sources(*paths: str) -> set[str]:
    """Return the files below `paths` that git tracks, or would track: new ones count before they are committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the project is known in a git checkout only")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths, cwd=ROOT).splitlines()
    return {name for name in listed if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    archive = ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    return Parser().parsestr(archive.read(name).decode())


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
    expected = {SHIPPED[name.split("/")[0]] + name.removeprefix(name.split("/")[0]) for name in list_sources(*SHIPPED)}
    archived = set(ZipFile(wheel).namelist())
    assert expected <= archived, sorted(expected - archived)
    for pattern in ("recipes/*.yaml", "*.jinja", "_model_card/*", "_spaces_demo/app.py", "py.typed"):
        assert any(Path(name).match(pattern) for name in archived), pattern


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    for name in ZipFile(wheel).namelist():
        assert name.startswith(("compact_hf/", "compact_hf-")), name
        assert "__pycache__" not in name, name
        assert not name.endswith((".pyc", ".orig", ".log")), name


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_SIZE


def test_the_sdist_holds_the_files_of_the_project_and_no_others(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "compact_hf/py.typed" in names
    expected = list_sources() - NOT_IN_SDIST | {"PKG-INFO"}
    assert names == expected, f"unexpected: {sorted(names - expected)}; missing: {sorted(expected - names)}"


def test_the_sdist_builds_the_same_wheel_as_the_checkout(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    rebuilt = build("wheel", source, tmp_path / "dist")
    assert rebuilt.name == wheel.name
    assert rebuilt.read_bytes() == wheel.read_bytes()


def test_pypi_accepts_the_metadata(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=tmp_path)


def test_the_metadata_say_what_to_install(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == {"tune", "eval", "demo", "local", "qlora", "deepspeed", "ray", "testing", "dev", "all"}
    core = [requirement for requirement in metadata.get_all("Requires-Dist", []) if "extra ==" not in requirement]
    assert core
    assert not any("torch" in requirement for requirement in core)
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_license_is_an_expression_and_no_classifier(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert not any(name.startswith("License ::") for name in metadata.get_all("Classifier", []))


def test_every_address_of_the_project_is_in_one_repository(metadata: Message) -> None:
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(url == ADDRESS or url.startswith(f"{ADDRESS}/") for url in urls.values())
    assert f"repository-code: {ADDRESS}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_links_and_images_of_the_readme_lead_to_the_files_of_the_release_on_pypi(metadata: Message) -> None:
    text = str(metadata.get_payload())
    files = [
        *re.findall(rf"!\[[^]]*\]\({ADDRESS.replace('github.com', 'raw.githubusercontent.com')}/v([^)]+)\)", text),
        *re.findall(rf"(?<!!)\[[^]]*\]\({ADDRESS}/blob/v([^)#]+)[^)]*\)", text),
    ]
    for version, _, path in (name.partition("/") for name in files):
        assert version == metadata["Version"]
        assert (ROOT / path).exists(), path
    relative = r"(?<=\]\()(?!https://)[^)]*|(?:src|srcset|href)=.(?!https://)[^>]*"
    assert not re.findall(relative, text), (
        "relative addresses are broken on PyPI: see pyproject.toml, fancy-pypi-readme"
    )
    assert len(files) == len(re.findall(relative, README))


def test_code_in_the_readme_is_the_same_on_pypi(metadata: Message) -> None:
    fence = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    assert fence.findall(str(metadata.get_payload())) == fence.findall(README)


@pytest.mark.slow
def test_type_checkers_see_the_types_of_the_installed_package(installed: Path, tmp_path: Path) -> None:
    """mypy accepts a right program, and reports each wrong line of another, in a directory with nothing else."""
    for name, text in {"mypy.ini": MYPY_SETTINGS, "right.py": RIGHT_USE, "wrong.py": WRONG_USE}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = (
        "-m",
        "mypy",
        "--python-executable",
        installed / "python",
        "--cache-dir",
        os.devnull,
        "right.py",
        "wrong.py",
    )
    process = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    reported = re.findall(r"^(\w+\.py):(\d+): error: .*\[([a-z-]+)\]$", process.stdout, re.MULTILINE)
    expected = [
        ("wrong.py", str(number), line.partition("# error: ")[2])
        for number, line in enumerate(WRONG_USE.splitlines(), start=1)
        if "# error: " in line
    ]
    assert reported == expected, process.stdout + process.stderr


def test_the_installed_package_is_the_one_that_runs(installed: Path, metadata: Message, tmp_path: Path) -> None:
    code = "import compact_hf; print(compact_hf.__file__, compact_hf.__version__)"
    location, version = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(location).is_relative_to(installed.parent)
    assert version == metadata["Version"]


def test_the_command_answers_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "generate" in run(installed / "compact", "--help", cwd=tmp_path)


@pytest.mark.slow
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
