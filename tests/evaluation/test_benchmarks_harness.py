"""The lines that `compact benchmarks command` prints, run by a shell: the real lmms-eval judges the shipped student.

Its eight tasks read data sets of their columns from the Hub's double, and its judge's client asks a server on the
loopback; nothing else is stood in for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.evaluation.benchmarks.lmms_eval import HARNESS_BENCHMARKS, HELDOUT_TASK, benchmark_command
from compact_hf.evaluation.benchmarks.results import HarnessScores, read_harness_scores
from compact_hf.evaluation.benchmarks.table import benchmark_table
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.models.llava.shipped import copy_student
from tests.doubles.hub.server import HubServer
from tests.evaluation.lmms_eval_runs import environment, heldout_release, hold_benchmarks, install, judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True, slots=True)
class Ran:
    """What was run: predictions of `compact evaluate`, the folder of lmms-eval's files, what the shell printed."""

    ours: list[dict[str, Any]]
    results: Path
    scores: HarnessScores
    printed: str
    environment: dict[str, str]

    def samples(self, task: str) -> list[dict[str, Any]]:
        [file] = self.results.rglob(f"*_samples_{task}.jsonl")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("harness")
    overlay = install(folder / "lmms_eval")
    _, adapter = copy_student(folder)
    release = heldout_release(folder / "release", pictures=9)
    evaluate(adapter, release, folder / "ours")
    [file] = (folder / "ours").rglob("predictions.jsonl")
    ours = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    calls = benchmark_command(adapter, folder / "out", heldout=str(release), device="cpu")
    with HubServer() as server, judge() as judging:
        hold_benchmarks(server, ours, _first_picture(release))
        shell = environment(overlay, folder / "home", server, judging)
        script = "\n".join(calls.lines()[1:])  # the first installs
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder, env=shell, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    [scores] = read_harness_scores([folder / "out" / "results"])
    return Ran(ours, folder / "out" / "results", scores, done.stdout, shell)


def _first_picture(release: Path) -> bytes:
    import pyarrow.parquet as pq

    file = min(release.glob("data/k1/validation-*.parquet"))
    data: bytes = pq.read_table(file, columns=["images"])["images"][0][0]["bytes"].as_py()
    return data


def test_the_held_out_questions_get_the_answers_and_scores_of_compact_evaluate(ran: Ran) -> None:
    asked = {(f"{one['question']}\n{SHORT_ANSWER_INSTRUCTION}", one["prediction"]) for one in ran.ours}
    theirs = [(one["input"], one["filtered_resps"]) for one in ran.samples(HELDOUT_TASK)]
    assert len(theirs) == len(ran.ours) == 18
    assert set(theirs) == asked
    by_k = defaultdict(list)
    for one in ran.ours:
        by_k[one["k"]].append(one["right"])
    heldout = ran.scores.heldout
    assert heldout is not None
    assert heldout.n == len(ran.ours)
    assert heldout.accuracy == pytest.approx(sum(one["right"] for one in ran.ours) / len(ran.ours))
    assert 0 < heldout.accuracy < 1
    assert heldout.by_k == {k: pytest.approx(sum(right) / len(right)) for k, right in sorted(by_k.items())}


def test_all_eight_benchmarks_run_and_have_the_scores_that_their_answers_deserve(ran: Ran) -> None:
    assert ran.scores.scores.keys() == {one.name for one in HARNESS_BENCHMARKS}
    assert not ran.scores.notes
    scores = ran.scores.scores
    assert scores["InfoVQA"] == scores["TextVQA"] == pytest.approx(50)  # half of their answers are the model's own
    assert (scores["MM-Vet"], scores["LLaVA-in-the-Wild"]) == (pytest.approx(50), pytest.approx(75))  # the judge's
    assert scores["SEED-Bench-2-Plus"] == pytest.approx(100 * _share_of_letters(ran.samples("seedbench_2_plus")))
    assert scores["CV-Bench"] == pytest.approx(100 * _share_of_letters(ran.samples("cv_bench")))


def _share_of_letters(samples: list[dict[str, Any]]) -> float:
    right = [one["filtered_resps"].strip()[:1].upper() == one["target"].strip("()") for one in samples]
    return sum(right) / len(right)


def test_the_last_line_prints_the_table(ran: Ran) -> None:
    table = benchmark_table([ran.results])
    own = table.cells()[-1]
    assert own[0] == "tuned"
    printed = [line.split() for line in ran.printed.splitlines()]
    assert own in printed
    assert table.heldout_cells()[-1] in printed


def test_the_units_and_the_marks_of_a_silent_judge_are_those_of_lmms_evals_own_functions(ran: Ran) -> None:
    told = """
import importlib, json
of = lambda task: importlib.import_module(f"lmms_eval.tasks.{task}.utils")
print("told:" + json.dumps([
    of("mmstar").mmstar_aggregate_results([{"score": 1.0, "l2_category": "geometry"}]),
    of("mme").mme_aggregate_results([{"question_id": 1, "category": "OCR", "score": 1.0}] * 2),
    of("llava-in-the-wild").llava_all_aggregation([{"scores": [-1, -1]}]),
]))
"""
    python = [sys.executable, "-c", told]
    done = subprocess.run(python, env=ran.environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.rpartition("told:")[2]) == [1.0, 200.0, 100.0]
