"""A method from a package of one file goes all the way of a run; no other file knows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import JournalError, StoppedEarly, UsageError
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.generate import generate
from compact_hf.methods.registry import get_method, list_methods
from compact_hf.methods.status import status
from compact_hf.runs.journal import FILE_NAME, Journal

SCENES = "scenes:60"
COMMAND = (sys.executable, "-c", "import sys; from compact_hf.cli.main import main; sys.exit(main())")


def install(directory: Path) -> None:
    """Install the toy's package, as pip does: the module and a dist-info beside it."""
    shutil.copy(Path(__file__).with_name("toy_method.py"), directory)
    dist_info = directory / "toy_method-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_method\nVersion: 1.0\n", encoding="utf-8")
    (dist_info / "entry_points.txt").write_text(
        "[compact_hf.methods]\ncaptions = toy_method:Captions\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    install(directory)
    return directory


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.fixture(scope="module")
def clean(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with planted faults that nothing disturbed."""
    run = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        generate(SCENES, run, method="captions", tone="lively", noise=0.3)
    return run


def read_outcomes(run: Path) -> list[tuple[str, str]]:
    with Journal.read(run) as journal:
        return [(finished.image_id, finished.body) for finished in journal.outcomes()]


def test_it_is_listed_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(list_methods()) == ["annotate", "augment", "captions", "compact"]
    assert main(["method", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"] == {
        "makes": "captions",
        "needs": "images",
        "asks": ["teacher", "verifier"],
        "options": ["tone"],
        "reject_reasons": ["untrue caption"],
    }


def test_a_run_is_counted_with_its_own_reasons_and_faults(clean: Path) -> None:
    run_status = status(clean)
    assert run_status.identity["method"] == "captions"
    assert run_status.identity["tone"] == "lively"
    assert run_status.finished == 60
    (reject,) = run_status.rejects
    assert (reject.stage, reject.reason) == ("verification", get_method("captions").reject_reasons[0].UNTRUE)
    (fault,) = run_status.planted
    assert (fault.fault, fault.count, fault.passed) == ("exaggeration", reject.count, 0)
    assert 0 < reject.count < 60
    assert run_status.questions == run_status.conversations == 60 - reject.count


def test_a_run_that_is_killed_comes_to_the_same(clean: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["generate", SCENES, "--out", str(run), "--method", "captions", "--tone", "lively", "--noise", "0.3"]
    # The real command, to be killed: a start is part of what is tested. Slowly, so that it is not done before.
    command = [*COMMAND, *arguments, "--rpm", "300"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ)) as child:
        while child.poll() is None and not count_finished(run):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert 0 < count_finished(run) < 60
    generate(SCENES, run, method="captions", tone="lively", noise=0.3)
    assert read_outcomes(run) == read_outcomes(clean)


def count_finished(run: Path) -> int:
    if not (run / FILE_NAME).is_file():
        return 0
    try:
        with Journal.read(run) as journal:
            return journal.counts()[0]
    except JournalError:  # the file is being made
        return 0


def test_a_budget_stops_it_and_the_same_call_resumes(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly):
        generate(SCENES, tmp_path / "run", method="captions", tone="lively", noise=0.3, max_requests=7)
    generate(SCENES, tmp_path / "run", method="captions", tone="lively", noise=0.3)
    assert read_outcomes(tmp_path / "run") == read_outcomes(clean)


def test_shards_come_to_the_whole(clean: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        shard = tmp_path / f"shard-{index}-of-2"
        generate(SCENES, shard, method="captions", tone="lively", noise=0.3, shard=f"{index}/2")
    assert status(tmp_path).questions == status(clean).questions


def test_a_dry_run_counts_its_requests_and_learns_from_the_run(clean: Path, tmp_path: Path) -> None:
    forecast = dry_run("scenes:100", tmp_path / "new", method="captions")
    assert [(line.kind, line.requests) for line in forecast.lines] == [("teacher", 100), ("verifier", 100)]
    resumed = dry_run("scenes:160", clean, method="captions", tone="lively")
    assert (resumed.pictures, resumed.finished, resumed.requests) == (100, 60, 200)
    assert resumed.questions == round(100 * status(clean).questions / 60)
    with pytest.raises(UsageError, match="tone was 'lively', now 'plain'"):
        dry_run("scenes:160", clean, method="captions")


def test_its_option_is_a_flag_where_it_is_named_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main(["generate", "scenes:2", "--out", run, "--method=captions", "--tone", "lively"]) == 0
    assert main(["status", run]) == 0
    assert "method captions" in capsys.readouterr().out
    for arguments in (["--tone", "lively"], ["--method", "captions", "--strict"]):
        with pytest.raises(SystemExit, match="2"):
            main(["generate", "scenes:2", "--out", run, *arguments])
        assert "unrecognized arguments" in capsys.readouterr().err
    assert main(["generate", "scenes:2", "--out", run, "--method", "captoins"]) == 2
    assert "did you mean captions" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["generate", "--method", "captions", "--help"])
    assert "--tone TONE" in capsys.readouterr().out


def test_a_keyword_of_another_method_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'tune' for the method captions; did you mean tone"
    ):
        generate("scenes:2", tmp_path / "run", method="captions", tune="lively")
    with pytest.raises(TypeError, match="'tone' for the method compact"):
        generate("scenes:2", tmp_path / "run", tone="lively")


def test_a_method_by_its_path_stands_in_the_identity(tmp_path: Path) -> None:
    generate("scenes:2", tmp_path / "run", method="toy_method:Captions")
    assert status(tmp_path / "run").identity["method"] == "toy_method:Captions"
    assert status(tmp_path / "run").finished == 2
    with pytest.raises(UsageError, match="not a method"):
        generate("scenes:2", tmp_path / "other", method="toy_method:CaptionReply")


def test_an_option_that_every_run_has_is_refused(tmp_path: Path, site: Path) -> None:
    (site / "clashing_method.py").write_text(
        "from dataclasses import dataclass\n"
        "from compact_hf.methods.base import Method\n"
        "@dataclass(frozen=True)\nclass Options: limit: int = 3\n"
        "class Clash(Method): name = 'clash'; summary = ''; options = Options\n",
        encoding="utf-8",
    )
    with pytest.raises(UsageError, match=r"options that every run has \(limit\)"):
        generate("scenes:2", tmp_path / "run", method="clashing_method:Clash")
