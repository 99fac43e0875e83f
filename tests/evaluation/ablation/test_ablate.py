"""Tests an ablation with the tiny model: its files, resuming, extending it, and errors."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compact_hf.cli.main import main
from compact_hf.errors import ContentsMismatchError, ReleaseError, SettingsMismatchError, UsageError
from compact_hf.evaluation.ablation.forecast import forecast_ablation
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.evaluation.ablation.results import format_markdown
from compact_hf.evaluation.ablation.run import ablate
from compact_hf.evaluation.ablation.variant import RunContents, ablation_directory, bind_to_contents, read_contents
from compact_hf.training import train
from compact_hf.training.train import tune
from tests import preforked

PLAN: dict[str, Any] = {
    "scenes": 30,
    "max_similarity": 1,
    "base": "aligned",
    "recipe": "tiny-cpu",
    "settings": {"max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 2},
    "seeds": [0],
    "dataset": "scenes:3",
    "baseline": "k1",
    "variants": {"k1": {"k": [1], "questions": 4}, "k123": {"questions": 4}},
}


def write_plan(file: Path, **changes: Any) -> Path:
    file.write_text(yaml.safe_dump({**PLAN, **changes}))
    return file


KILL_SCRIPT = """
import os, signal, sys
from compact_hf.evaluation.ablation.run import ablate
from compact_hf.training import train
from tests import preforked
train.Popen = preforked.Popen

def stop(stage, done, total, note):
    if (stage, done) == ("units", 1):
        print(note, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

ablate(sys.argv[1], sys.argv[2], on_progress=stop)
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """Return a plan, its directory after a kill between the first and second unit, and when the first was finished."""
    directory = tmp_path_factory.mktemp("ablation")
    plan, out = write_plan(directory / "plan.yaml"), directory / "out"
    process = preforked.run([sys.executable, "-c", KILL_SCRIPT, plan, out])
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert process.stdout.startswith("about ")
    return plan, out, (out / "units" / "k1-seed-0.json").stat().st_mtime


@pytest.fixture(scope="module")
def done(stopped: tuple[Path, Path, float], monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """Finish the same ablation and return its directory."""
    plan, out, _ = stopped
    tuned_names = []

    def record_tune(recipe: str, **kwargs: Any) -> Any:
        tuned_names.append(Path(kwargs["overrides"]["output_dir"]).name)
        return tune(recipe, **kwargs)

    monkeypatch_module.setattr("compact_hf.evaluation.ablation.variant.tune", record_tune)
    monkeypatch_module.setattr(train, "Popen", preforked.Popen)
    ablate(plan, out)
    assert tuned_names == ["k123-seed-0"]  # the finished unit was not repeated
    return out


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_what_is_left_says_what_was_done_and_what_came_out(done: Path) -> None:
    ablation = json.loads((done / "ablation.json").read_text(encoding="utf-8"))
    assert ablation["schema"] == 1
    assert [(unit["variant"], unit["seed"], unit["steps"]) for unit in ablation["units"]] == [
        ("k1", 0, 2),
        ("k123", 0, 2),
    ]
    assert ablation["units"][0]["data"]["questions"] == {"1": 4}
    assert sum(ablation["units"][1]["data"]["questions"].values()) == 4
    assert [line["label"] for line in ablation["lines"]][:4] == ["all", "k = 1", "k = 2", "k = 3"]
    for line in ablation["lines"]:
        assert line["accuracy"].keys() == {"k1", "k123"}
        assert line["difference"].keys() == {"k123"}
    table = (done / "ablation.md").read_text(encoding="utf-8")
    assert "| k1 | 4 (4 of k = 1) | 2 | 2 | 2 |" in table
    page = (done / "ablation.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (done / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_ablation_is_not_done_again_and_tells_the_same(
    stopped: tuple[Path, Path, float], done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (done / name).read_bytes() for name in ("ablation.json", "ablation.md", "ablation.html")}
    monkeypatch.setattr("compact_hf.evaluation.ablation.variant.tune", lambda *_, **__: pytest.fail("tuned again"))
    ablation = ablate(stopped[0], done)
    assert {name: (done / name).read_bytes() for name in before} == before
    assert format_markdown(ablation) == before["ablation.md"].decode()
    assert (done / "units" / "k1-seed-0.json").stat().st_mtime == stopped[2]


def test_the_forecast_knows_questions_steps_and_what_is_left(stopped: tuple[Path, Path, float], done: Path) -> None:
    forecast = forecast_ablation(write_plan(stopped[0].with_name("more.yaml"), seeds=[0, 1]), done)
    assert (forecast.units, forecast.finished) == (4, 2)
    assert [(arm.variant, sum(arm.data.questions.values()), arm.steps) for arm in forecast.arms] == [
        ("k1", 4, 2),
        ("k123", 4, 2),
    ]
    assert forecast.seconds_left is not None
    assert forecast.seconds_left > 0


def test_a_unit_that_was_resumed_does_not_lower_the_time_left(stopped: tuple[Path, Path, float], done: Path) -> None:
    """The time of its start-up is not known, because an earlier call did a part of the work."""
    plan = write_plan(stopped[0].with_name("more.yaml"), seeds=[0, 1])
    files = [done / "units" / f"{name}-seed-0.json" for name in ("k1", "k123")]
    texts = [file.read_text() for file in files]
    try:
        files[0].write_text(json.dumps(json.loads(texts[0]) | {"seconds": 2.0, "other_seconds": 50.0}))
        files[1].unlink()  # as if a kill had come before its last step
        ablate(stopped[0], done)
        resumed = json.loads(files[1].read_text())
        assert resumed["other_seconds"] is None
        seconds_left = forecast_ablation(plan, done).seconds_left
        assert seconds_left == pytest.approx(2 * (50.0 + 2 * (2.0 + resumed["seconds"]) / 4))
        files[0].write_text(json.dumps(json.loads(texts[0]) | {"other_seconds": None}))
        assert forecast_ablation(plan, done).seconds_left is None
    finally:
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        ablate(stopped[0], done)


def test_before_anything_is_there_the_forecast_says_what_it_can(
    stopped: tuple[Path, Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", str(stopped[0]), "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "2 units, 0 of them finished"
    assert not (tmp_path / "new").exists()


def test_another_plan_in_its_folder_is_told_by_what_differs(stopped: tuple[Path, Path, float], done: Path) -> None:
    for change, message in (
        ({"settings": {"max_steps": 3}}, "settings was"),
        ({"variants": {**PLAN["variants"], "k1": {"k": [1], "questions": 5}}}, "variant k1 was"),
    ):
        with pytest.raises(SettingsMismatchError, match=message):
            ablate(write_plan(stopped[0].with_name("other.yaml"), **change), done)


def test_other_contents_at_the_same_paths_are_refused_before_anything_is_tuned(
    stopped: tuple[Path, Path, float], done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compact_hf.evaluation.ablation.variant.tune", lambda *_, **__: pytest.fail("tuned"))
    unit = done / "units" / "k123-seed-0.json"
    hidden = unit.rename(unit.with_suffix(".hidden"))  # one unit is left to do
    other_base = (done / "base" / "generation_config.json", "\n}", ',\n  "top_k": 3\n}', r"of the base \(hash \w+, now")
    answers = done / "judged" / "evaluation.json"
    identity = json.loads(answers.read_text())["dataset_identity"]
    other_answers = (answers, identity, "0" * 32, r"3 reserved scenes \(other questions or answers\)")
    try:
        for file, old, new, message in (other_base, other_answers):
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
            with pytest.raises(ContentsMismatchError, match=message):
                ablate(stopped[0], done)
            file.write_text(text)
    finally:
        hidden.rename(unit)


def test_rows_of_the_runs_and_the_instruction_file_are_bound_by_their_contents(done: Path, tmp_path: Path) -> None:
    instruction, directory, notes = tmp_path / "instruction.json", ablation_directory(tmp_path / "out"), list[str]()
    instruction.write_text("[1]")
    later = {"instruction": str(instruction), "image_root": str(tmp_path)}
    plan = Plan.model_validate(PLAN)

    def bind(contents: RunContents) -> None:
        bind_to_contents(directory, plan, contents, base_identity="a", on_note=notes.append)

    contents = read_contents(plan, [done / "run"])
    directory.path.mkdir()
    bind(contents)
    bind(read_contents(plan, [done / "run"]))
    plan = Plan.model_validate({**PLAN, **later})  # as a variant with instruction rows is added
    bind(contents)
    with pytest.raises(ContentsMismatchError, match=r"other contents of the runs \("):
        bind(replace(contents, rows_identity="b"))  # the same combinations with other answers
    instruction.write_text("[2]")
    with pytest.raises(ContentsMismatchError, match=r"other contents of the instruction file \("):
        bind(contents)
    assert notes == []
    directory.write_settings({"questions": (directory.read_settings() or {})["questions"]})  # as version 0.1.0 wrote it
    bind(contents)
    assert notes[0].endswith("whether the runs and the base and the instruction file changed since cannot be checked")
    assert list(directory.read_settings() or {}) == ["questions"]


def test_too_few_questions_are_told_before_anything_is_tuned(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compact_hf.evaluation.ablation.variant.tune", lambda *_, **__: pytest.fail("tuned"))
    changes = {"scenes": None, "runs": [str(done / "run")], "variants": {"k1": {}, "k2": {"k": [2], "questions": 500}}}
    with pytest.raises(ReleaseError, match=r"variant k2: the runs have too few questions .* missing\)"):
        ablate(write_plan(tmp_path / "plan.yaml", **changes), tmp_path / "out")


def test_a_unit_that_cannot_be_trained_is_named(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "Popen", preforked.Popen)
    base = {"scenes": None, "runs": [str(done / "run")], "base": str(done / "base")}
    plan = write_plan(tmp_path / "plan.yaml", **base, settings={"learning_speed": 1})
    with pytest.raises(UsageError, match=r"^unit k1-seed-0: the recipe has a key that neither .*: learning_speed"):
        ablate(plan, tmp_path / "out")


def test_a_folder_with_other_things_is_left_alone(stopped: tuple[Path, Path, float], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty, and is not an ablation"):
        ablate(stopped[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_work_in_one_folder(stopped: tuple[Path, Path, float], done: Path) -> None:
    with ablation_directory(done).lock(), pytest.raises(UsageError, match="is in use by another process"):
        ablate(stopped[0], done)
