"""Tests `compact analyze` on datasets, runs and tables: statistics that can be counted by hand, and errors."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from compact_hf.answers import normalise
from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import CompactError, EvaluationError, JournalError, SourceError, UsageError
from compact_hf.evaluation.analysis.analyze import analyze
from compact_hf.methods.annotate.annotate import annotate
from compact_hf.methods.generate import generate
from compact_hf.records import Message, Row
from compact_hf.runs.journal import Journal
from tests.dataset.samples import make_row
from tests.evaluation.analysis.samples import Question, write_questions
from tests.methods.data_sets import write_scenes_file

SCENES = "scenes:20-45"  # scene 41 is in the validation split
ROWS: list[Question] = [
    ("p1", "What color is the cat?", "red", ["color"]),
    ("p1", "How many cats are there?", "2", ["counting", "color"]),
    ("p2", "What color is the cat?", "blue", ["color"]),
    ("p2", "Say hello.", "Hello", []),
    ("p3", "What is at the left of the cat?", "dog", ["object_recognition", "spatial_relationship", "color"]),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    generate(SCENES, run)
    return run


@pytest.fixture(scope="module")
def release(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases") / "release"
    assemble([run], out, version="1.0.0", max_similarity=1)
    return out


def test_a_release_has_the_figures_that_its_rows_have(release: Path) -> None:
    (analysis,) = analyze(release).data
    rows = [row for split in load_dataset(os.fspath(release)).remove_columns("images").values() for row in split]
    turns = [turn for row in rows for turn in row["turns"]]
    pairs = Counter(pair for turn in turns for pair in combinations(turn["capabilities"], 2))
    assert (analysis.questions, analysis.sampled, analysis.pictures) == (len(turns), len(turns), len(rows))
    assert {k: count for k, count in analysis.complexity.by_k.items() if count} == Counter(
        len(turn["capabilities"]) for turn in turns
    )
    assert {(pair.one, pair.other): pair.questions for pair in analysis.complexity.by_pair} == pairs
    assert analysis.combinations == Counter("+".join(turn["capabilities"]) for turn in turns)
    assert analysis.question_words.by_words == Counter(len(turn["question"].split()) for turn in turns)
    assert analysis.answers is not None
    assert analysis.answers.all.different == len({normalise(turn["answer"]) for turn in turns})
    assert analysis.repeats.question == pytest.approx(
        1 - len({normalise(turn["question"]) for turn in turns}) / len(turns)
    )
    assert analysis.text_alone is not None
    assert analysis.text_alone.overall.n == len(turns)
    assert analysis.k_is == "asked"


def test_a_run_has_the_figures_of_its_release(run: Path, release: Path) -> None:
    release_analysis, run_analysis = analyze(release, run).data
    assert release_analysis.complexity == run_analysis.complexity
    assert release_analysis.question_words == run_analysis.question_words
    assert release_analysis.text_alone == run_analysis.text_alone
    assert release_analysis.repeats == run_analysis.repeats


def test_shards_are_one_run(run: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        generate(SCENES, tmp_path / f"shard-{index}-of-2", shard=f"{index}/2")
    shards, whole = analyze(tmp_path, run).data
    assert shards.complexity == whole.complexity
    assert shards.pictures == whole.pictures


def test_an_annotated_data_set_is_judged(tmp_path: Path) -> None:
    file, turns = write_scenes_file(tmp_path, "scenes:12")
    annotate(str(file), tmp_path / "annotated", image_root="scenes:12")
    result = analyze(tmp_path / "annotated", tmp_path / "generated")
    annotated, generated = result.data
    assert (annotated.k_is, generated.k_is) == ("judged", "asked")
    assert annotated.questions == sum(map(len, turns.values()))
    assert annotated.complexity == generated.complexity, "the verifier of scenes finds the requested capabilities"
    assert result.comparison is not None
    assert set(result.comparison.distances.values()) == {0}
    assert result.comparison.shared_pictures == annotated.pictures


def test_a_table_of_questions_counts_those_that_need_nothing(tmp_path: Path) -> None:
    (analysis,) = analyze(write_questions(tmp_path / "asked", ROWS)).data
    assert (analysis.name, analysis.k_is, analysis.questions, analysis.pictures) == ("asked", "judged", 5, 3)
    assert analysis.complexity.by_k == {0: 1, 1: 2, 2: 1, 3: 1}
    assert (analysis.complexity.mean_k, analysis.complexity.mode_k) == (1.4, 1)
    assert (analysis.complexity.at_most_2, analysis.complexity.none_needed) == (0.8, 0.2)
    assert analysis.repeats.question == pytest.approx(0.2)
    assert analysis.text_alone is None, "three images are too few"


def test_questions_without_answers_have_all_figures_but_those_of_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_questions(
        tmp_path / "asked", [(image, question, "", capabilities) for image, question, _, capabilities in ROWS]
    )
    assert main(["analyze", os.fspath(directory), "--out", os.fspath(tmp_path / "out")]) == 0
    assert ["distinct", "answers", "–"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    analysis = json.loads((tmp_path / "out" / "analysis.json").read_text())["data"][0]
    assert (analysis["answers"], analysis["answer_words"], analysis["text_alone"]) == (None, None, None)
    assert analysis["complexity"]["mean_k"] == 1.4
    assert "Too few questions have answers" in (tmp_path / "out" / "analysis.html").read_text()


def test_two_data_sets_are_looked_at_in_samples_of_one_size(release: Path, tmp_path: Path) -> None:
    large, small = analyze(release, write_questions(tmp_path / "small", ROWS)).data
    assert (large.questions > 60, small.sampled) == (True, 5)
    assert 5 <= large.sampled <= 7, "as many questions as in the small dataset, and the rest of the last image"
    alone = analyze(release).data[0]
    assert large.complexity == alone.complexity
    assert alone.sampled == alone.questions


def test_configs_and_splits_are_those_of_load_dataset(release: Path) -> None:
    train, validation = analyze(release, release, split=("train", "validation")).data
    expected = load_dataset(os.fspath(release), "compositional")
    assert (train.pictures, validation.pictures) == (len(expected["train"]), len(expected["validation"]))
    assert (train.name, validation.name) == ("release (train)", "release (validation)")
    (k2,) = analyze(release, config="k2").data
    assert set(k2.complexity.by_k) == {0, 1, 2}
    assert k2.complexity.by_k[2] == k2.questions
    first, second = analyze(release, release).data
    assert first.name != second.name


def test_instruction_rows_are_left_out_and_numbered(tmp_path: Path) -> None:
    text_rows = [
        Row(id=f"{number:032x}", messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction")
        for number in (7, 8)
    ]
    write_dataset(
        [make_row(1), make_row(2, k=2), *text_rows], tmp_path / "release", sources=("compact",), version="1.0.0"
    )
    (analysis,) = analyze(tmp_path / "release").data
    assert (analysis.questions, analysis.unlabelled_rows) == (4, 2)
    with pytest.raises(EvaluationError, match="no questions with known capabilities, in 2 rows"):
        analyze(tmp_path / "release", config="instruction")


def test_the_command_tells_tables_or_json_and_leaves_a_page(
    release: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    assert main(["analyze", os.fspath(release), os.fspath(run), "--out", os.fspath(out)]) == 0
    stdout, stderr = capsys.readouterr()
    lines = [line.split() for line in stdout.splitlines()]
    assert ["LLaVA-665K", "(paper)", "judged", "5,400", "1.95", "–", "77%", "1.1%"] in lines
    assert ["statistic", "release", "run"] in lines
    assert "analysis.html" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["analysis.html", "analysis.json"]
    assert main(["analyze", os.fspath(release), os.fspath(run), "--json"]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert figures == json.loads((out / "analysis.json").read_text())
    assert (figures["schema"], [dataset["name"] for dataset in figures["data"]]) == (1, ["release", "run"])
    assert set(figures["data"][0]["text_alone"]["overall"]) == {
        *("n", "right", "accuracy", "low", "high", "majority", "chance")
    }
    assert figures["comparison"]["distances"]["k"] == 0


def test_what_cannot_be_analyzed_is_refused_in_one_line(release: Path, run: Path, tmp_path: Path) -> None:
    def write_parquet(name: str, rows: list[Question], *dropped: str) -> Path:
        import pyarrow.parquet as pq

        directory = write_questions(tmp_path / name, rows)
        file = next(directory.iterdir())
        pq.write_table(pq.read_table(file).drop_columns(list(dropped)), file)
        return directory

    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data")
    jsonl = tmp_path / "text"
    jsonl.mkdir()
    (jsonl / "train.jsonl").write_text('{"question": "?"}\n')
    damaged = Path(shutil.copytree(release, tmp_path / "damaged"))
    next(damaged.rglob("k2/*.parquet")).write_bytes(b"PAR1 and no more")
    Journal.open(tmp_path / "captions", {"method": "tests.toys.toy_method:Captions"}).close()
    bad_run = tmp_path / "begun"
    bad_run.mkdir()
    (bad_run / "journal.sqlite").write_bytes(b"not SQLite")
    cases: list[tuple[dict[str, Any], type[CompactError], str]] = [
        ({"dataset": tmp_path / "nowhere"}, UsageError, "was not found; give the directory"),
        ({"dataset": tmp_path / "notes.txt"}, UsageError, "is a file; give the directory"),
        ({"dataset": tmp_path / "empty"}, SourceError, "cannot be read"),
        ({"dataset": jsonl}, EvaluationError, "is not in Parquet"),
        ({"dataset": damaged}, SourceError, "cannot be read"),
        ({"dataset": bad_run}, JournalError, "journal"),
        ({"dataset": tmp_path / "captions"}, UsageError, "is a run of the method tests.toys.*, which has no questions"),
        (
            {"dataset": write_parquet("bare", ROWS, "image_id", "capabilities")},
            EvaluationError,
            "lacks image_id, capabilities",
        ),
        ({"dataset": write_parquet("none", [])}, EvaluationError, "has no rows"),
        (
            {"dataset": write_questions(tmp_path / "odd", [("p", "?", "a", ["colour"])])},
            EvaluationError,
            "did you mean color",
        ),
        ({"dataset": release, "config": "k9"}, UsageError, "has the configs all, compositional"),
        ({"dataset": release, "split": "test"}, UsageError, "has the splits train, validation"),
        ({"dataset": release, "split": ("train", "validation")}, UsageError, "2 values of --split for 1"),
        ({"dataset": run, "split": "train"}, UsageError, "is a run, which has no splits"),
        ({"dataset": run, "out": tmp_path / "notes.txt"}, UsageError, "is a file"),
    ]
    for arguments, error_type, message in cases:
        with pytest.raises(error_type, match=message) as excinfo:
            analyze(**arguments)
        assert "\n" not in str(excinfo.value)


def test_missing_columns_are_named_beside_those_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "vqa").mkdir()
    turns = pa.array([[{"question": "?", "answer": "a"}]])
    pq.write_table(pa.table({"image_id": ["p"], "turns": turns, "label": ["x"]}), tmp_path / "vqa" / "train.parquet")
    assert main(["analyze", os.fspath(tmp_path / "vqa")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks turns.capabilities (it has image_id, turns, label)" in line
    assert "compact annotate" in line
