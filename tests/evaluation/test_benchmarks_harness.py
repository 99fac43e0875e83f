"""Runs the commands that `compact benchmarks command` prints: the real lmms-eval evaluates the shipped student.

Its eight tasks read small datasets with the right columns from a local Hub server, and its judge client asks another
local server; everything else is real.
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
from tests.evaluation.lmms_eval_runs import (
    add_benchmarks,
    install_harness,
    make_environment,
    make_judge,
    write_heldout_release,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True, slots=True)
class HarnessRun:
    """A finished run: predictions of `compact evaluate`, the directory of lmms-eval's files, and the shell's output."""

    predictions: list[dict[str, Any]]
    results_directory: Path
    scores: HarnessScores
    stdout: str
    environment: dict[str, str]

    def read_samples(self, task: str) -> list[dict[str, Any]]:
        [file] = self.results_directory.rglob(f"*_samples_{task}.jsonl")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> HarnessRun:
    directory = tmp_path_factory.mktemp("harness")
    overlay = install_harness(directory / "lmms_eval")
    _, adapter = copy_student(directory)
    release = write_heldout_release(directory / "release", num_images=9)
    evaluate(adapter, release, directory / "ours")
    [file] = (directory / "ours").rglob("predictions.jsonl")
    predictions = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    commands = benchmark_command(adapter, directory / "out", heldout=str(release), device="cpu")
    with HubServer() as server, make_judge() as judge_server:
        add_benchmarks(server, predictions, _read_first_image(release))
        env = make_environment(overlay, directory / "home", server, judge_server)
        script = "\n".join(commands.lines()[1:])  # the first command is the installation
        process = subprocess.run(
            ["bash", "-e", "-c", script], cwd=directory, env=env, capture_output=True, text=True, check=False
        )
    assert process.returncode == 0, process.stdout + process.stderr
    [scores] = read_harness_scores([directory / "out" / "results"])
    return HarnessRun(predictions, directory / "out" / "results", scores, process.stdout, env)


def _read_first_image(release: Path) -> bytes:
    import pyarrow.parquet as pq

    file = min(release.glob("data/k1/validation-*.parquet"))
    data: bytes = pq.read_table(file, columns=["images"])["images"][0][0]["bytes"].as_py()
    return data


def test_the_held_out_questions_get_the_answers_and_scores_of_compact_evaluate(ran: HarnessRun) -> None:
    expected = {(f"{row['question']}\n{SHORT_ANSWER_INSTRUCTION}", row["prediction"]) for row in ran.predictions}
    actual = [(row["input"], row["filtered_resps"]) for row in ran.read_samples(HELDOUT_TASK)]
    assert len(actual) == len(ran.predictions) == 18
    assert set(actual) == expected
    by_k = defaultdict(list)
    for row in ran.predictions:
        by_k[row["k"]].append(row["right"])
    heldout = ran.scores.heldout
    assert heldout is not None
    assert heldout.n == len(ran.predictions)
    assert heldout.accuracy == pytest.approx(sum(row["right"] for row in ran.predictions) / len(ran.predictions))
    assert 0 < heldout.accuracy < 1
    assert heldout.by_k == {k: pytest.approx(sum(right) / len(right)) for k, right in sorted(by_k.items())}


def test_all_eight_benchmarks_run_and_have_the_scores_that_their_answers_deserve(ran: HarnessRun) -> None:
    assert ran.scores.scores.keys() == {benchmark.name for benchmark in HARNESS_BENCHMARKS}
    assert not ran.scores.notes
    scores = ran.scores.scores
    assert scores["InfoVQA"] == scores["TextVQA"] == pytest.approx(50)  # half of the right answers are the model's
    assert (scores["MM-Vet"], scores["LLaVA-in-the-Wild"]) == (pytest.approx(50), pytest.approx(75))  # the judge's
    assert scores["SEED-Bench-2-Plus"] == pytest.approx(100 * _letter_accuracy(ran.read_samples("seedbench_2_plus")))
    assert scores["CV-Bench"] == pytest.approx(100 * _letter_accuracy(ran.read_samples("cv_bench")))


def _letter_accuracy(samples: list[dict[str, Any]]) -> float:
    right = [sample["filtered_resps"].strip()[:1].upper() == sample["target"].strip("()") for sample in samples]
    return sum(right) / len(right)


def test_the_last_line_prints_the_table(ran: HarnessRun) -> None:
    table = benchmark_table([ran.results_directory])
    own_row = table.cells()[-1]
    assert own_row[0] == "tuned"
    printed_rows = [line.split() for line in ran.stdout.splitlines()]
    assert own_row in printed_rows
    assert table.heldout_cells()[-1] in printed_rows


def test_the_units_and_the_marks_of_a_silent_judge_are_those_of_lmms_evals_own_functions(ran: HarnessRun) -> None:
    source = """
import importlib, json
of = lambda task: importlib.import_module(f"lmms_eval.tasks.{task}.utils")
print("told:" + json.dumps([
    of("mmstar").mmstar_aggregate_results([{"score": 1.0, "l2_category": "geometry"}]),
    of("mme").mme_aggregate_results([{"question_id": 1, "category": "OCR", "score": 1.0}] * 2),
    of("llava-in-the-wild").llava_all_aggregation([{"scores": [-1, -1]}]),
]))
"""
    python = [sys.executable, "-c", source]
    process = subprocess.run(python, env=ran.environment, capture_output=True, text=True, check=True)
    assert json.loads(process.stdout.rpartition("told:")[2]) == [1.0, 200.0, 100.0]
