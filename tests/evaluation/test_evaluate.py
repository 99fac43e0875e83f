"""Tests `evaluate` with tiny models: its files, several models, resuming, and errors."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compact_hf.answers import ANSWER_RULES_VERSION, SHORT_ANSWER_INSTRUCTION
from compact_hf.cli.main import main
from compact_hf.errors import CompactError, EvaluationError, SettingsMismatchError, UsageError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.inference import Student, model_inputs
from compact_hf.evaluation.plan import plan_evaluation
from compact_hf.evaluation.predict import read_predictions, sort_for_batching
from compact_hf.evaluation.questions import Question
from compact_hf.evaluation.results_directory import write_predictions
from compact_hf.evaluation.significance import compare
from compact_hf.models.llava.tiny import build_tiny
from tests import preforked
from tests.disk import limited_file_size
from tests.evaluation.samples import score
from tests.training.samples import MODEL_SIZE, draw_image, texts, write_release

BATCH = 4
MODEL_FILES = {"predictions.jsonl", "results.json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("model") / "tiny", texts(4), seed=0, size=MODEL_SIZE))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build another model in a directory of the same name."""
    return str(build_tiny(tmp_path_factory.mktemp("other") / "tiny", texts(4), seed=1, size=MODEL_SIZE))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_release(tmp_path_factory.mktemp("release") / "drawn", rows=12))


@pytest.fixture(scope="module")
def done(model: str, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    evaluate(model, dataset, out, split="train", batch_size=BATCH)
    return out


def read_outputs(out: Path) -> dict[str, bytes]:
    """Return the contents of all files of an evaluation except the page, which contains the path of the directory."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "report.html"}


def test_writes_one_line_per_question_and_the_scores(done: Path) -> None:
    names = {"evaluation.json", "evaluation.lock", "results.json", "report.html", "tiny"}
    assert {path.name for path in done.iterdir()} == names
    assert {path.name for path in (done / "tiny").iterdir()} == MODEL_FILES
    predictions = read_predictions(done / "tiny")
    expected = score(predictions, model="tiny", dataset="drawn (compositional, train)").to_json()
    results = json.loads((done / "results.json").read_text(encoding="utf-8"))
    assert results["models"] == [expected] == [json.loads((done / "tiny" / "results.json").read_text())]
    assert (results["schema"], results["task"], results["task_version"]) == (3, "compact", "1")
    assert (results["comparisons"], results["notes"]) == ([], [])
    assert expected["overall"]["n"] == len(predictions) > 2 * BATCH


def test_a_further_model_is_added_and_compared_with_the_first(
    model: str, other: str, dataset: str, tmp_path: Path
) -> None:
    together, one_by_one, steps = tmp_path / "together", tmp_path / "one by one", []
    evaluation = evaluate(
        [model, other], dataset, together, split="train", batch_size=BATCH, on_progress=lambda *step: steps.append(step)
    )
    assert [results.model for results in evaluation.results] == ["tiny", "tiny-2"]
    first, second = (read_predictions(together / directory) for directory in evaluation.slugs)
    assert evaluation.comparisons == (compare(second, first),)
    assert steps[-1] == (2 * len(first), 2 * len(first))
    assert [answered for answered, _ in steps] == sorted(answered for answered, _ in steps)
    assert evaluation.read_image(first[0].id).startswith(b"\x89PNG")
    for model_path in (model, other):
        evaluate(model_path, dataset, one_by_one, split="train", batch_size=BATCH)
    assert read_outputs(one_by_one) == read_outputs(together)
    with pytest.raises(UsageError, match="are the same model; give it once"):
        evaluate([model, model], dataset, together, split="train")


@pytest.mark.parametrize("torn", [False, True])
def test_goes_on_where_it_was_stopped_and_ends_with_the_same_files(
    model: str, dataset: str, done: Path, tmp_path: Path, torn: bool
) -> None:
    out, steps = tmp_path / "out", []

    def stop(answered: int, _: int) -> None:
        if answered:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, dataset, out, split="train", batch_size=BATCH, on_progress=stop)
    part = out / "tiny" / "predictions.part.jsonl"
    assert len(part.read_bytes().splitlines()) == BATCH
    if torn:
        with part.open("ab") as file:
            file.write(b'{"answer": "r')
    # As another version of the rule may have marked them.
    part.write_bytes(part.read_bytes().replace(b'"right":false', b'"right":true'))
    plan = plan_evaluation(model, dataset, out, split="train", batch_size=BATCH)
    assert (plan.models[0].answered, plan.models[0].to_ask) == (BATCH, plan.questions - BATCH)
    evaluate(model, dataset, out, split="train", batch_size=BATCH, on_progress=lambda *step: steps.append(step))
    assert [answered for answered, _ in steps[:2]] == [BATCH, 2 * BATCH]
    assert read_outputs(out) == read_outputs(done)


def test_a_full_disk_loses_no_answer_and_with_space_the_same_call_resumes(
    model: str, dataset: str, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(
            EvaluationError, match=r"out cannot be written \(File too large\); no answer is lost: free"
        ) as excinfo,
        limited_file_size(2_000),
    ):
        evaluate(model, dataset, out, split="train", batch_size=BATCH)
    assert "\n" not in str(excinfo.value)
    assert (out / "tiny" / "predictions.part.jsonl").stat().st_size == 2_000
    evaluate(model, dataset, out, split="train", batch_size=BATCH)
    assert read_outputs(out) == read_outputs(done)


KILL_SCRIPT = """
import os, signal, sys
from compact_hf.cli import console
from compact_hf.cli.main import main

def show(bar, answered, total, note=""):
    if answered:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

console.ProgressBar.show = show
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("by", "status"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 3), ("SIGTERM", 3)])
def test_a_killed_command_goes_on_and_ends_with_the_same_files(
    model: str, dataset: str, done: Path, tmp_path: Path, by: str, status: int
) -> None:
    command = ["evaluate", model, dataset, "--out", str(tmp_path / "out"), "--split", "train", "--batch-size", "4"]
    process = preforked.run([sys.executable, "-c", KILL_SCRIPT, by, *command])
    assert process.returncode == status, process.stderr
    if status == 3:
        assert process.stderr.splitlines()[-1] == (
            "compact: interrupted; finished work is kept: run the same command again to resume"
        )
        assert "Traceback" not in process.stderr
    part = tmp_path / "out" / "tiny" / "predictions.part.jsonl"
    assert len(part.read_bytes().splitlines()) == BATCH
    assert main(command) == 0
    assert read_outputs(tmp_path / "out") == read_outputs(done)


def test_a_finished_evaluation_is_not_asked_again(
    model: str, dataset: str, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compact_hf.evaluation.evaluate.predict", lambda *_, **__: pytest.fail("asked again"))
    before = (done / "results.json").read_bytes()
    evaluate(model, dataset, done, split="train", batch_size=BATCH)
    assert (done / "results.json").read_bytes() == before


def test_answers_that_an_older_rule_marked_are_marked_again_and_not_compared_before(
    model: str,
    dataset: str,
    done: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compact_hf.evaluation.evaluate.predict", lambda *_, **__: pytest.fail("asked again"))
    out = shutil.copytree(done, tmp_path / "out")
    manifest = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert manifest.pop("matching_version") == ANSWER_RULES_VERSION == "2"
    (out / "evaluation.json").write_text(json.dumps(manifest), encoding="utf-8")
    first, *others = read_predictions(out / "tiny")
    # Version 1 took neither full-width letters nor an answer of symbols alone for right.
    changed = [replace(first, prediction="".join(chr(ord(letter) + 0xFEE0) for letter in first.answers[0])), *others]
    changed[0] = replace(changed[0], right=False)
    write_predictions(out / "tiny", changed)
    with pytest.raises(EvaluationError, match=r"different versions of the rule \(1 and 2\): run the compact evaluate"):
        compare(read_predictions(out / "tiny"), read_predictions(done / "tiny"))
    assert plan_evaluation(model, dataset, out, split="train", batch_size=BATCH).models[0].to_ask == 0

    command = ["evaluate", model, dataset, "--split", "train", "--out", str(out)]
    assert main(command) == 0
    assert "marked by version 1 of the rule exact: marked them again by version 2" in capsys.readouterr().err
    again = read_predictions(out / "tiny")
    assert again == [replace(changed[0], right=True), *others]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (results["matching_version"], results["models"][0]["matching_version"]) == ("2", "2")
    assert results["models"][0]["overall"]["right"] == sum(item.right for item in again)
    assert "(Rule exact, version 2.)" in (out / "report.html").read_text(encoding="utf-8")
    assert main(command) == 0
    assert "marked" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dataset": "scenes:2", "split": None}, "dataset_identity was"),
        ({"matching": "relaxed"}, "matching was 'exact', now 'relaxed'"),
        ({"swap_pictures": True}, "dataset_identity was"),
        ({"control": "blind"}, "dataset_identity was"),
        ({"max_new_tokens": 4}, "max_new_tokens was 16, now 4"),
    ],
)
def test_other_questions_or_settings_are_not_taken_for_them(
    model: str, dataset: str, done: Path, changed: dict[str, Any], told: str
) -> None:
    arguments: dict[str, Any] = {"dataset": dataset, "split": "train", "batch_size": BATCH, **changed}
    with pytest.raises(SettingsMismatchError, match=told) as excinfo:
        evaluate(model, out=done, **arguments)
    assert "\n" not in str(excinfo.value)


def test_swapping_pictures_is_the_control_of_that_name(
    model: str, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", model, dataset, "--split", "train", "--out", str(tmp_path / "out"), "--limit", "6"]
    assert main([*command, "--swap-pictures"]) == 0
    before = read_outputs(tmp_path / "out")
    assert main([*command, "--control", "swapped-images"]) == 0
    evaluate(model, dataset, tmp_path / "out", split="train", limit=6, swap_pictures=True)
    assert read_outputs(tmp_path / "out") == before
    assert "--control</span> swapped-images" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_blind_model_is_asked_the_same_words_without_an_image(model: str, dataset: str, tmp_path: Path) -> None:
    evaluation = evaluate(model, dataset, tmp_path / "out", split="train", control="blind")
    assert evaluation.dataset == "drawn (compositional, train), without images"
    predictions = read_predictions(tmp_path / "out" / "tiny")
    (alone,) = Student(model).answer(
        [(None, f"What color is the thing?\n{SHORT_ANSWER_INSTRUCTION}")], max_new_tokens=16
    )
    answers = {item.prediction for item in predictions if item.question == "What color is the thing?"}
    assert answers == {alone}
    assert "<img" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_folder_with_other_things_is_left_alone(model: str, dataset: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty, and is not an evaluation"):
        evaluate(model, dataset, tmp_path, split="train")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_batches_hold_questions_of_one_picture_together_the_longest_first() -> None:
    questions = [
        Question(id=f"{name}{number}", image_id=name, question="?", answers=("a",), read_image=lambda: b"")
        for number, name in enumerate(("x", "y", "x", "z", "y"))
    ]
    assert [question.id for question in sort_for_batching(questions, [3, 5, 9, 1, 2])] == ["x0", "x2", "y1", "y4", "z3"]


def test_questions_about_one_picture_get_the_answers_that_each_gets_alone(model: str) -> None:
    student = Student(model)
    questions = ("What color is the thing?", "How many red discs are there in the picture?", "What is it?")
    pairs = [(draw_image(color), question) for question in questions for color in ("red", "green", "blue")]
    alone = [student.answer([pair], max_new_tokens=8)[0] for pair in pairs]
    shared = student._prepare_inputs(pairs)
    assert len(shared.pixel_values) == 3
    assert student.answer(pairs, max_new_tokens=8) == alone
    plain = model_inputs(student._processor, pairs, device="cpu", dtype=student._network.dtype)
    assert len(plain["pixel_values"]) == 9
    assert student._generate_answers(pairs, plain, 8) == alone


@pytest.mark.parametrize(
    ("setting", "value", "made"),
    [("patch_size", 28, 16), ("vision_feature_select_strategy", "full", 65), ("num_additional_image_tokens", 0, 63)],
)
@pytest.mark.parametrize("several", [1, 3])
def test_a_processor_that_counts_other_image_tokens_is_told_in_one_line(
    model: str, setting: str, value: object, made: int, several: int
) -> None:
    student = Student(model)
    setattr(student._processor, setting, value)
    with pytest.raises(
        EvaluationError, match=f"makes {made} tokens per image, and the model expects 64; fix"
    ) as excinfo:
        student.answer([(draw_image("red"), "What is it?")] * several, max_new_tokens=2)
    assert "\n" not in str(excinfo.value)


def test_questions_about_images_that_cannot_be_decoded_are_dropped_by_name(model: str, tmp_path: Path) -> None:
    lines = [{"question": "What?", "answer": "that", "image": f"{id}.png", "id": id} for id in ("good", "cut", "gone")]
    (tmp_path / "good.png").write_bytes(draw_image("red"))
    (tmp_path / "cut.png").write_bytes(draw_image("red")[:90])
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    evaluation = evaluate(model, tmp_path / "own.jsonl", tmp_path / "out")
    assert [prediction.id for prediction in read_predictions(tmp_path / "out" / evaluation.slugs[0])] == ["good"]
    *counted, cut, gone = evaluation.notes
    assert [note.rpartition(": ")[2] for note in counted] == ["corrupt picture", "unreadable file"]
    assert cut.startswith("skipped question cut: corrupt picture: PNG")
    assert gone.startswith("skipped question gone: unreadable file: gone.png")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "was not found: there is no such directory, and it is not the name of a repository"),
        ("empty", "is not a model: give a directory with config.json"),
        ("text only", "cannot be loaded"),
        ("damaged", "cannot be loaded"),
        ("adapter without base", "model '/nowhere' was not found"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(dataset: str, tmp_path: Path, what: str, told: str) -> None:
    directory = tmp_path / "model"
    if what != "missing":
        directory.mkdir()
    if what == "text only":
        (directory / "config.json").write_text('{"model_type": "llama"}')
    if what == "damaged":
        (directory / "config.json").write_text("{")
    if what == "adapter without base":
        (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}')
    with pytest.raises(CompactError, match=told) as excinfo:
        evaluate(str(directory), dataset, tmp_path / "out", split="train")
    assert "\n" not in str(excinfo.value)


def test_a_batch_too_large_for_the_memory_is_answered_in_halves(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    student, sizes = Student(model), []
    generate = student._network.generate
    pairs = [(draw_image(color), "What color is the thing?") for color in ("red", "green", "blue", "red", "green")]
    expected = [student.answer([pair], max_new_tokens=4)[0] for pair in pairs]

    def limited_generate(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > max_batch:
            raise torch.OutOfMemoryError("no room")
        return generate(**inputs)

    monkeypatch.setattr(student._network, "generate", limited_generate)
    max_batch = 2
    assert student.answer(pairs, max_new_tokens=4) == expected
    assert sizes == [5, 2, 3, 1, 2]
    max_batch = 0
    with pytest.raises(EvaluationError, match=r"not enough memory on .* for this model: no room"):
        student.answer(pairs, max_new_tokens=4)
