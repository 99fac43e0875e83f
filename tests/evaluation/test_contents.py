"""Checks that an evaluation is bound to the contents of its dataset, models and bases, and not to their paths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from huggingface_hub import constants

from compact_hf.cli.main import main
from compact_hf.errors import ContentsMismatchError, EvaluationError, TuningError, UsageError
from compact_hf.evaluation.evaluate import EvaluationSettings, format_commands, identity_settings, resolve_models
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.questions import DataOptions
from compact_hf.evaluation.results_directory import EvaluationDirectory, read_entries
from compact_hf.evaluation.side_by_side import SideBySide
from compact_hf.evaluation.task import load_task, read_questions
from compact_hf.runs.options import RunLimits
from compact_hf.training.card_results import read_card_results
from compact_hf.training.inputs import bind_inputs
from tests.training.samples import draw_image

OUT = Path("out")
ROWS = [{"question": f"What color is thing {number}?", "answer": "red", "image": "a.png"} for number in range(2)]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go into a directory with questions about an image in a file, and an adapter on a base; no model is loaded."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(draw_image("red"))
    write_rows(ROWS)
    for name, text in {
        "base/config.json": "{}",
        "base/model.safetensors": "weights",
        "lora/adapter_config.json": json.dumps({"base_model_name_or_path": "base"}),
        "lora/adapter_model.safetensors": "adapter",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)


def write_rows(rows: Sequence[dict[str, str]]) -> None:
    Path("questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def start(*models: str, base: str | None = None, answers: bool = True) -> tuple[list[str], list[str]]:
    """Start or resume an evaluation up to where a model would be loaded; return the models' directories and notes.

    Each model gets an empty file of answers, unless `answers` is False: it then cannot be loaded.
    """
    notes: list[str] = []
    entries = resolve_models(models, batch_size=4, url=None, base=base)
    task = load_task("compact")
    question_set = read_questions(task, "questions.jsonl", DataOptions())
    settings = identity_settings(task, question_set, EvaluationSettings.of(task, None, 4, None, None, RunLimits()))
    with EvaluationDirectory.open(OUT, settings, on_note=notes.append) as directory:
        directories = [directory.add_model(entry) for entry in entries]
    for model_directory in directories if answers else ():
        (model_directory / "predictions.part.jsonl").touch()
    return [model_directory.name for model_directory in directories], notes


def forget(*keys: str) -> None:
    """Make the evaluation one of version 0.1.0, which did not write these keys."""
    manifest = json.loads((OUT / "evaluation.json").read_text())
    for values in (manifest, *manifest["models"].values()):
        for key in keys:
            values.pop(key, None)
    (OUT / "evaluation.json").write_text(json.dumps(manifest))


def test_another_image_in_the_same_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("base") == (["base"], [])
    Path("a.png").write_bytes(draw_image("blue"))
    with pytest.raises(ContentsMismatchError, match=r"other contents of questions.jsonl .* \(other images\): put"):
        start("base")
    assert main(["evaluate", "base", "questions.jsonl", "--out", "out", "--dry-run"]) == 2
    assert "other images" in capsys.readouterr().err
    Path("a.png").write_bytes(draw_image("red"))
    assert start("base") == (["base"], [])


def test_other_answers_in_the_same_file_are_refused() -> None:
    start("base")
    write_rows([{**row, "answer": "blue"} for row in ROWS])
    with pytest.raises(ContentsMismatchError, match=r"\(other questions or answers\): put the earlier contents back"):
        start("base")


def test_an_adapter_whose_base_has_other_weights_is_another_model() -> None:
    assert start("lora") == (["lora"], [])
    Path("base/model.safetensors").write_text("WEIGHTS")
    assert start("lora") == (
        ["lora-2"],
        ["the base of lora has other files than in an earlier call: it answers as lora-2"],
    )
    Path("base/model.safetensors").write_text("weights")
    assert start("lora") == (["lora"], [])
    with pytest.raises(UsageError, match="are the same model"):
        start("lora", str(Path("lora").resolve()))


def test_an_adapter_is_not_asked_with_other_weights_than_it_was_trained_on() -> None:
    bind_inputs(Path("lora"), {"model_name_or_path": "base"}, on_note=pytest.fail)
    Path("base/model.safetensors").write_text("WEIGHTS")
    with pytest.raises(EvaluationError, match="base has other weights than those that lora was trained on: put"):
        Student("lora")
    for names in ({"model": "lora"}, {"adapter": "lora"}):
        with pytest.raises(EvaluationError, match="base has other weights than those that lora was trained on: put"):
            SideBySide(**names)


def test_a_model_with_other_weights_is_another_model() -> None:
    assert start("base") == (["base"], [])
    Path("base/model.safetensors").write_text("WEIGHTS")
    assert start("base") == (["base-2"], [])


def test_what_cannot_be_compared_is_said_and_not_recorded() -> None:
    start("lora")
    (OUT / "lora" / "predictions.jsonl").touch()
    forget("images_identity", "base")
    for _ in range(2):
        names, (images, base) = start("lora")
        assert names == ["lora"]
        assert "of version 0.1.0, which did not record images: whether those of questions.jsonl" in images
        assert base.endswith("the one that they were given with cannot be checked: it was not recorded")
    assert start("base")[0] == ["base"]
    assert "images_identity" not in json.loads((OUT / "evaluation.json").read_text())


def test_answers_of_an_adapter_are_kept_when_its_base_is_gone() -> None:
    start("lora")
    Path("base").rename("elsewhere")
    names, (note,) = start("lora")
    assert names == ["lora"]
    assert note.endswith("cannot be checked: it was not found")


@pytest.mark.parametrize(
    ("named_base", "given_bases", "message"),
    [
        ("base", [None], None),
        ("base", ["other"], "results in out are of lora on other, not of lora with its current weights and base; eval"),
        ("base", ["other", None], None),
        ("org/base", [None], None),
        ("org/base", ["other"], "are of lora on other, not of lora with"),
        ("org/base", ["other", None], None),
        ("/gone/base", ["other"], None),  # it may have been moved there
        ("/gone/base", ["base", "other"], "are of lora on base, lora on other, and which of them is lora with its own"),
    ],
)
def test_a_card_has_the_scores_of_an_adapter_on_its_own_base(
    named_base: str, given_bases: Sequence[str | None], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("cache").resolve()))
    repository, commit = Path("cache/models--org--base"), "a" * 40
    shutil.copytree("base", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    Path("lora/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named_base}))
    Path("other").mkdir()
    Path("other/config.json").write_text('{"other": 1}')
    for base in given_bases:
        ((name,), _) = start("lora", base=base)
        (OUT / name / "results.json").write_text(json.dumps({"model": str(base)}))
    (OUT / "results.json").write_text(json.dumps({"schema": 3, "models": []}))
    if message is None:
        assert read_card_results(Path("lora"), OUT).model == str(given_bases[-1])
    else:
        with pytest.raises(TuningError, match=message):
            read_card_results(Path("lora"), OUT)


def test_a_model_that_could_not_be_loaded_is_new_in_the_next_call() -> None:
    Path("base").rename("elsewhere")
    assert start("lora", answers=False) == (["lora"], [])
    Path("elsewhere").rename("base")
    # Its base is recorded now, so other files of the base make it another model.
    assert start("lora") == (["lora"], [])
    Path("base/model.safetensors").write_text("WEIGHTS")
    assert start("lora", answers=False)[0] == ["lora-2"]
    assert start("lora", base="base") == (
        ["lora-on-base"],
        ["the base of lora has other files than in an earlier call: it answers as lora-on-base"],
    )
    assert [entry.name for entry in read_entries(OUT).values()] == ["lora", "lora on base"]


def test_the_commands_of_the_page_give_each_adapter_its_base() -> None:
    start("lora")
    shutil.copytree("base", "other")
    for weights in ("WEIGHTS", "other weights"):
        Path("other/model.safetensors").write_text(weights)
        start("base", "lora", base="other")
    assert list(read_entries(OUT)) == ["lora", "base", "lora-on-other", "lora-on-other-2"]
    options = {"limit": 5, "url": "http://localhost"}
    assert format_commands(read_entries(OUT).values(), "questions.jsonl", OUT, options).splitlines() == [
        "compact evaluate lora base questions.jsonl --out out --limit 5 --url http://localhost",
        "compact evaluate lora questions.jsonl --out out --limit 5 --base other",
    ]
