"""Tests the scripts for Slurm and for Jobs on the Hub, with stand-ins for both: shards are saved and resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.runs.journal import Journal
from compact_hf.runs.shards import find_runs
from tests import preforked

pytestmark = pytest.mark.skipif(not shutil.which("timeout"), reason="the scripts are for Linux")
ROOT = Path(__file__).parents[2]
COMPACT = """\
#!/bin/sh
echo "$@" >> "$TMPDIR/asked"
exec {python} {preforked} -u -c "import sys; from compact_hf.cli.main import main; sys.exit(main())" "$@"
"""
SRUN = """\
#!/bin/sh
exec "$@"
"""
# The bucket is a directory, and each job gets a new directory as /tmp/run.
HF = """\
#!/bin/bash
set -e
folder() { echo "${1/#hf:\\/\\/buckets/$TMPDIR}"; }
case "$1 $2" in
"buckets sync")
    [ "$3" != --delete ] || { shift; rm -rf "$(folder "$4")"; }
    mkdir -p "$(folder "$4")"; cp -r "$(folder "$3")/." "$(folder "$4")" ;;
"jobs run")
    export DISK=$(mktemp -d)
    exec bash -c "${!#//\\/tmp\\/run/$DISK/run}" ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("compact", COMPACT.format(python=sys.executable, preforked=preforked.__file__)),
        ("srun", SRUN),
        ("hf", HF),
    ):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
    }


def run_script(name: str, *arguments: str, environment: dict[str, str]) -> None:
    subprocess.run(
        ["bash", ROOT / "docs" / name, *arguments], cwd=environment["TMPDIR"], env=environment, timeout=120, check=True
    )


def count_replies(run: Path) -> int:
    with Journal.read(run) as journal:
        return sum(1 for _ in journal.replies())


@pytest.mark.slow
def test_an_array_of_slurm_makes_a_run_and_goes_on_with_it(tmp_path: Path, environment: dict[str, str]) -> None:
    def submit(index: int, limit: int) -> None:
        task_environment = environment | {"SLURM_ARRAY_TASK_ID": str(index)}
        run_script("slurm.sh", "scenes:16", "--limit", str(limit), environment=task_environment)

    for index in range(1, 9):
        submit(index, 8)
    runs = find_runs(tmp_path / "run")
    before = [count_replies(run) for run in runs]
    submit(3, 16)
    assert [run.name for run in runs] == [f"shard-{index}-of-8" for index in range(1, 9)]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(run.name for run in runs)
    after = [count_replies(run) for run in runs]
    assert after[2] > before[2] > 0
    assert after[:2] + after[3:] == before[:2] + before[3:]
    assert not list(tmp_path.glob("tmp.*"))
    assert assemble(tmp_path / "run", tmp_path / "release", version="1.0.0").rows() > 4


def test_jobs_on_the_hub_bring_shards_into_a_bucket_and_go_on_from_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    arguments = ("image", "hf://buckets/me/runs", "scenes:8", "--noise", "0.1")
    (tmp_path / "me/runs").mkdir(parents=True)
    run_script("hf_jobs.sh", *arguments, environment=environment)
    runs = find_runs(tmp_path / "me" / "runs")
    assert len(runs) == 4
    before = [count_replies(run) for run in runs]
    assert all(before)
    # A file that only the older session has must not be combined with the journal of the newer one.
    (runs[0] / "journal.sqlite-wal").write_bytes(b"")
    run_script("hf_jobs.sh", *arguments, environment=environment)
    assert [count_replies(run) for run in runs] == before
    assert not (runs[0] / "journal.sqlite-wal").exists()
    commands = (tmp_path / "asked").read_text().splitlines()
    assert len(commands) == 8
    assert re.fullmatch(r"generate scenes:8 --noise 0\.1 --out /\S+/run --shard 1/4", commands[0])


@pytest.mark.parametrize("command", ["jobs run", "buckets sync", "buckets create"])
def test_the_hubs_own_command_knows_every_option(command: str) -> None:
    text = (ROOT / "docs" / "hf_jobs.sh").read_text()
    used_options = {
        option
        for line in text.splitlines()
        if f"hf {command}" in line
        for option in re.findall(r"(--[a-z]+)", line.partition(f"hf {command}")[2].partition("&&")[0])
    }
    result = subprocess.run(
        [Path(sys.executable).with_name("hf"), *command.split(), "--help"], capture_output=True, text=True, check=True
    )
    assert used_options
    assert used_options <= set(re.findall(r"--[a-z-]+", result.stdout))
