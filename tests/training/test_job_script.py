"""docs/tune_on_hf_jobs.py: what uv and the Hub's own command make of it, and the whole of it with a stand-in for uv."""

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
UV = """\
#!/bin/sh
echo "$4" >> "$TMPDIR/asked"
[ "$1 $2 $3 $5" = "tool run --from compact" ] || exit 2
shift 5
exec {python} -c "import sys; from compact_hf.cli.main import main; sys.exit(main())" "$@"
"""


def metadata() -> dict[str, object]:
    """The script's inline metadata, as PEP 723 says to read it."""
    block = re.search(r"(?m)^# /// script$\n((?:#(?: .*)?\n)+?)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    assert block
    return tomllib.loads("".join(line[2:] for line in block[1].splitlines(keepends=True)))


def test_its_metadata_can_be_met_here() -> None:
    from packaging.specifiers import SpecifierSet

    found = metadata()
    assert set(found) == {"requires-python", "dependencies"}
    assert SpecifierSet(str(found["requires-python"])).contains(".".join(map(str, sys.version_info[:3])))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["requires-python"] == project["requires-python"]


def test_the_hubs_own_command_knows_what_the_example_gives_it() -> None:
    example = SCRIPT.read_text(encoding="utf-8").partition("hf jobs uv run")[2].partition("docs/tune")[0]
    told = subprocess.run(
        [Path(sys.executable).with_name("hf"), "jobs", "uv", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "1000"},
    ).stdout
    used = set(re.findall(r"--[a-z]+", example))
    assert {"--flavor", "--secrets", "--timeout"} <= used <= set(re.findall(r"--[a-z-]+", told))
    flavor = re.search(r"--flavor (\S+)", example)
    assert flavor
    assert f"|{flavor[1]}|" in told


def test_the_example_names_a_recipe() -> None:
    recipe = re.search(r"docs/tune_on_hf_jobs.py (\S+)", SCRIPT.read_text(encoding="utf-8"))
    assert recipe
    assert recipe[1] in recipe_names()


def run(*arguments: str, folder: Path, **environment: str) -> int:
    """Run the script where `uv` is a stand-in that runs this very package; return the exit status."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "uv").write_text(UV.replace("{python}", sys.executable))
    (commands / "uv").chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | environment
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=folder, env=variables, check=False).returncode


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
    assert run(recipe, "me/student", folder=tmp_path, COMPACT_HF=source) == 1
    assert (tmp_path / "asked").read_text().splitlines() == [asked]


def test_without_a_repository_it_says_what_it_takes(tmp_path: Path) -> None:
    assert run("tiny-cpu", folder=tmp_path) == 1
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_recipe_becomes_a_repository(tmp_path: Path) -> None:
    from compact_hf.models.llava.tiny import build_tiny
    from tests.training.samples import release, texts

    base = build_tiny(tmp_path / "base", texts(8), seed=0)
    data = release(tmp_path / "release", rows=8)
    settings = {"model_name_or_path": base, "dataset_name": data, "max_steps": 2, "save_steps": 2}
    with HubServer() as hub:
        status = run(
            *("tiny-cpu", "org/student"),
            *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
            folder=tmp_path,
            **hub.environment,
        )
        files = hub.store.repository("model", "org/student").at(MAIN).files
    assert status == 0
    assert {"model.safetensors", "README.md", "chat_template.jinja"} <= set(files)
    assert len(set((tmp_path / "asked").read_text().splitlines())) == 1
