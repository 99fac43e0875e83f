"""`evaluate` with a real tiny model: its files, going on after a stop, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import EvaluationError, IdentityError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.scoring import Prediction, score
from compact_hf.evaluation.student import Student
from compact_hf.records import from_json
from compact_hf.tuning.tiny import build_tiny
from tests.tuning.samples import picture, release, texts

BATCH = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("model") / "tiny", texts(4), seed=0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(release(tmp_path_factory.mktemp("release") / "drawn", rows=12))


@pytest.fixture(scope="module")
def done(model: str, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    evaluate(model, dataset, out, split="train", batch_size=BATCH)
    return out


def test_writes_one_line_per_question_and_the_scores(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {"evaluation.json", "predictions.jsonl", "results.json"}
    lines = (done / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    keys = {"id", "picture", "k", "capabilities", "question", "answers", "prediction", "right"}
    assert all(set(json.loads(line)) == keys for line in lines)
    results = json.loads((done / "results.json").read_text(encoding="utf-8"))
    predictions = [from_json(Prediction, line) for line in lines]
    assert results == score(predictions, model="tiny", dataset="drawn (compositional, train)").to_json()
    assert results["overall"]["n"] == len(lines) > 2 * BATCH


@pytest.mark.parametrize("torn", [False, True])
def test_goes_on_where_it_was_stopped_and_ends_with_the_same_files(
    model: str, dataset: str, done: Path, tmp_path: Path, torn: bool
) -> None:
    out, steps = tmp_path / "out", []

    def stop(answered: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, dataset, out, split="train", batch_size=BATCH, on_progress=stop)
    part = out / "predictions.part.jsonl"
    assert len(part.read_bytes().splitlines()) == BATCH
    if torn:
        with part.open("ab") as file:
            file.write(b'{"answer": "r')
    evaluate(model, dataset, out, split="train", batch_size=BATCH, on_progress=lambda *step: steps.append(step))
    assert steps[0][0] == 2 * BATCH
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in done.iterdir()
    }


def test_a_finished_evaluation_is_not_asked_again(
    model: str, dataset: str, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compact_hf.evaluation.evaluate.predict", lambda *_, **__: pytest.fail("asked again"))
    before = (done / "results.json").read_bytes()
    evaluate(model, dataset, done, split="train", batch_size=BATCH)
    assert (done / "results.json").read_bytes() == before


def test_another_model_in_the_same_place_is_not_taken_for_it(dataset: str, done: Path, tmp_path: Path) -> None:
    other = str(build_tiny(tmp_path / "tiny", texts(4), seed=1))
    with pytest.raises(IdentityError, match="model_identity was"):
        evaluate(other, dataset, done, split="train", batch_size=BATCH)


def test_other_questions_are_not_taken_for_them(model: str, dataset: str, done: Path) -> None:
    with pytest.raises(IdentityError, match="dataset_identity was"):
        evaluate(model, "scenes:2", done, split="train", batch_size=BATCH)


def test_a_folder_with_other_things_is_left_alone(model: str, dataset: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(EvaluationError, match="holds something else"):
        evaluate(model, dataset, tmp_path, split="train")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "no folder here, and the Hub does not give it"),
        ("empty", "is no model: a folder with config.json"),
        ("text only", "cannot be loaded"),
        ("damaged", "cannot be loaded"),
        ("adapter without base", "no model '/nowhere'"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(dataset: str, tmp_path: Path, what: str, told: str) -> None:
    folder = tmp_path / "model"
    if what != "missing":
        folder.mkdir()
    if what == "text only":
        (folder / "config.json").write_text('{"model_type": "llama"}')
    if what == "damaged":
        (folder / "config.json").write_text("{")
    if what == "adapter without base":
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}')
    with pytest.raises(EvaluationError, match=told) as caught:
        evaluate(str(folder), dataset, tmp_path / "out", split="train")
    assert "\n" not in str(caught.value)


def test_a_batch_too_large_for_the_memory_is_answered_in_halves(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    student, sizes = Student(model), []
    generate = student._network.generate
    asked = [(picture(color), "What color is the thing?") for color in ("red", "green", "blue", "red", "green")]
    expected = [student.answer([one], max_new_tokens=4)[0] for one in asked]

    def limited(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no room")
        return generate(**inputs)

    monkeypatch.setattr(student._network, "generate", limited)
    most = 2
    assert student.answer(asked, max_new_tokens=4) == expected
    assert sizes == [5, 2, 3, 1, 2]
    most = 0
    with pytest.raises(EvaluationError, match="too small for this model: no room"):
        student.answer(asked, max_new_tokens=4)
