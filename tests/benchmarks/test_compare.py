"""Tests that benchmarks/compare.py only says "slower" with enough evidence, and that it removes its worktree."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare, compared

PROGRAM = compared.ROOT / "benchmarks" / "compare.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def checkout() -> None:
    if shutil.which("git") is None or not (compared.ROOT / ".git").exists():
        pytest.skip("needs a git checkout: an earlier commit is what is compared with")


def test_a_ratio_is_that_of_a_pair_so_that_drift_does_not_count() -> None:
    """The machine becomes three times slower over the rounds; each pair still differs by 10%."""
    line = compare.compare_pairs([(1.1, 1.0), (2.2, 2.0), (3.3, 3.0)])
    assert (line.ratio, line.least, line.most) == pytest.approx((1.1, 1.1, 1.1))
    assert (line.this_s, line.rev_s) == (2.2, 2.0)
    assert line.noise == pytest.approx(0.5)
    assert line.pairs == ((1.1, 1.0), (2.2, 2.0), (3.3, 3.0))


@pytest.mark.parametrize(
    ("ratios", "noise", "expected"),
    [
        ([1.05, 1.06, 1.2], 0.0, "slower"),
        ([0.95, 0.94, 0.8], 0.0, "faster"),
        ([1.05, 1.06, 0.99], 0.0, "unclear"),
        ([1.05, 1.01, 0.95], 0.0, "no difference within the spread"),
        ([1.01, 1.01, 1.01], 0.0, "no difference within the spread"),
        ([1.05, 1.06, 1.2], 0.1, "no difference within the spread"),
        ([0.88, 1.34, 1.4, 1.5, 1.56], 0.1, "unclear"),
        ([0.88] + [1.3] * 7, 0.1, "unclear"),
        ([0.88] + [1.3] * 8, 0.1, "slower"),
        ([1.1] + [0.7] * 8, 0.1, "faster"),
        ([1.1] * 4, 0.1, "no difference within the spread"),
        ([1.1] * 9, 0.1, "slower"),
        ([2.0, 2.0], 0.0, "too few rounds"),
    ],
)
def test_nearly_every_pair_has_to_be_beyond_margin_and_noise(ratios: list[float], noise: float, expected: str) -> None:
    assert compare.verdict(ratios, noise) == expected


def test_two_runs_that_agree_by_luck_do_not_make_a_noisy_machine_quiet() -> None:
    """These times were measured on a busy machine with the same commit on both sides."""
    line = compare.compare_pairs([(0.75, 0.79), (0.75, 0.791), (0.74, 0.93)])
    assert line.noise > 0.1
    assert line.verdict == "no difference within the spread"


def test_pairs_may_disagree_as_far_as_chance_remains_as_small() -> None:
    assert [compare.count_allowed_outliers(count) for count in (1, 3, 5, 8, 9, 12, 16)] == [0, 0, 0, 0, 1, 2, 3]


def test_slower_and_faster_are_each_other_s_mirror() -> None:
    pairs = [(1.3, 1.0), (1.25, 1.01), (1.28, 0.99)]
    assert compare.compare_pairs(pairs).verdict == "slower"
    assert compare.compare_pairs([(rev, this) for this, rev in pairs]).verdict == "faster"


def test_each_tree_starts_by_the_entry_point_of_its_own_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nscripts = { compact = "elsewhere.start:run" }\n')
    assert "from elsewhere.start import run;" in compared.Tree("this tree", tmp_path).start_code()


def test_a_failing_process_is_one_line_that_names_the_tree(tmp_path: Path) -> None:
    tree = compared.Tree("v0 (1234567)", tmp_path)
    with pytest.raises(
        compared.BenchmarkError,
        match=r"^v0 \(1234567\) exited with status 1: tune tiny-cpu: ValueError: no such thing$",
    ):
        compared.ProcessRunner(tmp_path).run(tree, "raise ValueError('no such thing')", "tune", "tiny-cpu")


def test_cpu_seconds_are_those_of_all_descendants(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}], check=True)"
    seconds = compared.ProcessRunner(tmp_path).run(compared.Tree("this tree", tmp_path), code)
    assert seconds.cpu >= 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-commit"], "'no-such-commit' is not a commit"),
        (["HEAD", "--only", "help,flying"], "--only 'flying' is not a benchmark: give some of help,generation,"),
        (["HEAD", "--rounds", "0"], "--rounds 0 is too few"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    process = run(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"compare.py: {message}")
    assert process.stderr.count("\n") == 1


def parse_worktree(progress: str) -> str:
    return re.findall(r"^HEAD is checked out: (.+)$", progress, flags=re.MULTILINE)[0]


def is_gone(worktree: str) -> bool:
    return not Path(worktree).parent.exists() and worktree not in compared.git("worktree", "list", "--porcelain")


@pytest.mark.slow
@pytest.mark.usefixtures("checkout")
def test_head_is_compared_with_this_tree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that fails is reported with the name of the tree, and the other benchmarks still run."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(compared.BENCHMARKS, "broken", lambda inputs, out: compared.Command(("no-such-command",)))
    assert compare.main(["HEAD", "--only", "broken,help", "--rounds", "1", "--json"]) == 1
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["rev"] == {"name": "HEAD", "commit": compared.git("rev-parse", "HEAD")}
    assert list(result["benchmarks"]) == ["help"]
    for line in result["benchmarks"]["help"].values():
        assert line["ratio"] == line["least"] == line["most"] == line["this_s"] / line["rev_s"]
        assert line["verdict"] == "too few rounds"
    assert list(result["failed"]) == ["broken"]
    assert re.match(r"HEAD \(\w{7}\) exited with status 2: no-such-command: ", result["failed"]["broken"])
    table = compare.format_table(result)
    assert table.count("\n| help |") == 2
    assert "\n| broken | failed: HEAD (" in table
    assert "\nhelp: round 1 of 1, this tree" in output.err
    assert is_gone(parse_worktree(output.err))


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_worktree_is_removed_when_it_is_interrupted(sent: signal.Signals, status: int) -> None:
    command = [sys.executable, str(PROGRAM), "HEAD", "--only", "help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        worktree = parse_worktree(process.stderr.readline())
        assert not is_gone(worktree)
        os.killpg(process.pid, sent)  # like Ctrl-C in a terminal, which also reaches git
        stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (status, "")
    assert is_gone(worktree)
