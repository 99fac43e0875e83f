"""Checks docs/tune_on_hf_jobs.py: its metadata for uv and `hf jobs`, and a full run with a substitute for uv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compact_hf.training.recipes import recipe_names
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import MAIN

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "tune_on_hf_jobs.py"
FAKE_UV = """\
#!/bin/sh
echo "$4" >> "$TMPDIR/asked"
[ "$1 $2 $3 $5" = "tool run --from compact" ] || exit 2
shift 5
exec {python} -c "import sys; from compact_hf.cli.main import main; sys.exit(main())" "$@"
"""


def read_metadata() -> dict[str, object]:
    """Return the script's inline metadata, read as PEP 723 specifies."""
    block = re.search(r"(?m)^# /// script$\n((?:#(?: .*)?\n)+?)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    assert block
    return tomllib.loads("".join(line[2:] for line in block[1].splitlines(keepends=True)))


def test_its_metadata_can_be_met_here() -> None:
    from packaging.specifiers import SpecifierSet

    script_metadata = read_metadata()
    assert set(script_metadata) == {"requires-python", "dependencies"}
    assert SpecifierSet(str(script_metadata["requires-python"])).contains(".".join(map(str, sys.version_info[:3])))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert script_metadata["requires-python"] == project["requires-python"]


def test_the_hubs_own_command_knows_what_the_example_gives_it() -> None:
    example = SCRIPT.read_text(encoding="utf-8").partition("hf jobs uv run")[2].partition("docs/tune")[0]
    help_text = subprocess.run(
        [Path(sys.executable).with_name("hf"), "jobs", "uv", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "1000"},
    ).stdout
    used = set(re.findall(r"--[a-z]+", example))
    assert {"--flavor", "--secrets", "--timeout"} <= used <= set(re.findall(r"--[a-z-]+", help_text))
    flavor = re.search(r"--flavor (\S+)", example)
    assert flavor
    assert f"|{flavor[1]}|" in help_text


def test_the_example_names_a_recipe() -> None:
    recipe = re.search(r"docs/tune_on_hf_jobs.py (\S+)", SCRIPT.read_text(encoding="utf-8"))
    assert recipe
    assert recipe[1] in recipe_names()


def run_script(*arguments: str, directory: Path, **environment: str) -> int:
    """Run the script with a substitute for `uv` that runs this package, and return the exit status."""
    bin_directory = directory / "bin"
    bin_directory.mkdir(exist_ok=True)
    (bin_directory / "uv").write_text(FAKE_UV.replace("{python}", sys.executable))
    (bin_directory / "uv").chmod(0o755)
    path = f"{bin_directory}:{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)} | environment
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=directory, env=variables, check=False).returncode


@pytest.mark.parametrize(
    ("recipe", "source", "asked"),
    [
        ("qlora", "git+https://example.org/compact", "compact_hf[tune,qlora] @ git+https://example.org/compact"),
        ("zero3", "", "compact_hf[tune,deepspeed]"),
    ],
)
def test_asks_for_what_the_recipe_needs_and_stops_where_training_fails(
    tmp_path: Path, recipe: str, source: str, asked: str
) -> None:
    assert run_script(recipe, "me/student", directory=tmp_path, COMPACT_HF=source) == 2
    assert (tmp_path / "asked").read_text().splitlines() == [asked]


def test_without_a_repository_it_says_what_it_takes(tmp_path: Path) -> None:
    assert run_script("tiny-cpu", directory=tmp_path) == 1
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_recipe_becomes_a_repository(tmp_path: Path) -> None:
    from compact_hf.models.llava.tiny import build_tiny
    from tests.training.samples import MODEL_SIZE, texts, write_release

    base = build_tiny(tmp_path / "base", texts(8), seed=0, size=MODEL_SIZE)
    data = write_release(tmp_path / "release", rows=8)
    settings = {"model_name_or_path": base, "dataset_name": data, "max_steps": 2, "save_steps": 2}
    with HubServer() as hub:
        status = run_script(
            *("tiny-cpu", "org/student"),
            *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
            directory=tmp_path,
            **hub.environment,
        )
        files = hub.store.repository("model", "org/student").get_commit(MAIN).files
    assert status == 0
    assert {"model.safetensors", "README.md", "chat_template.jinja"} <= set(files)
    assert len(set((tmp_path / "asked").read_text().splitlines())) == 1
