"""What version 0.1.0 left is read, resumed and added to by the code of today.

tests/golden/made_by_0_1_0 holds runs, a dataset, training runs, models, an evaluation and an ablation as that version
wrote them; make_fixtures.py says what each is. Every test works on a copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.training.sft import main as train
from tests.golden.parquet import hash_rows, read_all_rows, read_rows

Golden = Callable[[str, str], None]
Capsys = pytest.CaptureFixture[str]

FIXTURES = Path(__file__).parent / "made_by_0_1_0"
SCENES = "scenes:39-45"
GENERATE = ("generate", SCENES, "--teacher", "scenes", "--seed", "7")
QUESTIONS = ("questions.json", "--image-root", SCENES, "--seed", "7")
INSTRUCTION = ("--instruction", "instruction.json", "--image-root", "images", "--instruction-fraction", "1")
SIMILAR = ("--group-similar", "6")
# PEFT 0.21 still asks by the name that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go into a copy of the fixtures: all paths in them are relative to it."""
    shutil.copytree(FIXTURES, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def read_journal(run: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return what a run's journal holds: replies with the time of each, and outcomes."""
    columns = {"replies": "key, image_id, role, at, body", "outcomes": "image_id, ref, accepted, at, body"}
    with closing(sqlite3.connect(Path(run) / "journal.sqlite")) as database:
        return {
            table: database.execute(f"SELECT {names} FROM {table} ORDER BY 1").fetchall()
            for table, names in columns.items()
        }


def drop_times(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows of a journal without the time at which each was written."""
    return [tuple(value for value in row if not isinstance(value, float)) for row in rows]


def hash_files(directory: str, *, exclude: Sequence[str] = ()) -> dict[str, str]:
    """Return the hash of each file in a directory, but of locks, plots, pages and those of these names."""
    return {
        path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(directory).rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".html", ".png") and path.name not in exclude
    }


def run_command(capsys: Capsys, *arguments: str) -> str:
    """Run a command that must succeed, and return what it prints."""
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def run_assemble(*runs: str, out: str, options: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Assemble runs as the dataset of the fixtures was, and return the rows."""
    assert main(["assemble", *runs, "--version", "1.0.0", "--out", out, "--keep-similar", *options]) == 0
    return read_all_rows(Path(out))


@pytest.mark.parametrize("run", ["run", "stopped", "shards"])
def test_the_status_of_an_old_run_is_golden(run: str, golden: Golden, capsys: Capsys) -> None:
    golden(f"status_{run}.json", run_command(capsys, "status", run, "--json"))


def test_a_finished_run_is_left_as_it_is() -> None:
    before = read_journal("run")
    assert main([*GENERATE, "--out", "run"]) == 0
    assert read_journal("run") == before


def test_an_old_run_gives_its_dataset_again_and_its_images_look_the_same() -> None:
    def read_looks() -> set[tuple[str, str]]:
        """Return what is kept of images by their content; by its place, a file's look is this directory's own."""
        with closing(sqlite3.connect("run/looks.sqlite")) as database:
            rows = database.execute("SELECT picture, body FROM looks").fetchall()
        return {(image, body) for image, body in rows if not image.startswith("/")}

    before = read_looks()
    assert before
    Path("run/looks.sqlite").unlink()
    assert run_assemble("run", out="again", options=(*INSTRUCTION, *SIMILAR)) == read_all_rows(Path("dataset"))
    assert read_looks() == before


def test_a_stopped_run_is_resumed_without_asking_anything_again() -> None:
    whole, before = read_journal("run"), read_journal("stopped")
    assert 0 < len(before["replies"]) < len(whole["replies"])
    # One request more than are missing, such as one that is sent again, and the budget would stop it.
    budget = str(len(whole["replies"]))
    assert main([*GENERATE, "--out", "stopped", "--max-requests", budget]) == 0
    after = read_journal("stopped")
    assert set(before["replies"]) < set(after["replies"])
    assert drop_times(after["replies"]) == drop_times(whole["replies"])
    assert drop_times(after["outcomes"]) == drop_times(whole["outcomes"])
    assert run_assemble("stopped", out="again", options=INSTRUCTION) == read_all_rows(Path("dataset"))


def test_old_shards_are_finished_and_give_the_dataset_of_the_whole_run() -> None:
    parts = [f"shards/shard-{part}-of-2" for part in (1, 2)]
    before = [read_journal(part) for part in parts]
    for number, part in enumerate(parts, 1):
        assert main([*GENERATE, "--out", part, "--shard", f"{number}/2"]) == 0
    assert [read_journal(part) for part in parts] == before
    assert run_assemble(*parts, out="again", options=INSTRUCTION) == read_all_rows(Path("dataset"))


def test_an_old_annotation_is_told_again_and_its_table_written_anew(golden: Golden, capsys: Capsys) -> None:
    (table,) = Path("annotated").glob("*.parquet")
    before, rows = read_journal("annotated"), read_rows(table)
    table.unlink()
    golden(
        "annotated.json",
        run_command(capsys, "annotate", *QUESTIONS, "--verifier", "scenes", "--out", "annotated", "--json"),
    )
    assert read_journal("annotated") == before
    assert read_rows(table) == rows


def test_an_old_augmentation_is_left_as_it_is_and_assembled(golden: Golden) -> None:
    before = read_journal("augmented")
    assert main(["augment", *QUESTIONS, "--teacher", "scenes", "--out", "augmented"]) == 0
    assert read_journal("augmented") == before
    rows = run_assemble("augmented", out="release")
    golden("augmented_rows.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def test_an_old_dataset_is_valid_shown_and_does_not_differ_from_itself(golden: Golden, capsys: Capsys) -> None:
    assert main(["validate", "dataset"]) == 0
    page, image = run_command(capsys, "show", "dataset", "--out", "sheet").splitlines()
    assert "<img" in Path(page).read_text(encoding="utf-8")
    assert Path(image).read_bytes().startswith(b"\x89PNG")
    run_assemble("run", out="next", options=SIMILAR)
    golden("diff.json", run_command(capsys, "diff", "dataset", "next", "--json"))


def test_an_old_dataset_is_loaded_by_datasets(golden: Golden) -> None:
    from datasets import get_dataset_config_names, load_dataset

    lines = []
    for name in get_dataset_config_names("dataset"):
        for split, rows in load_dataset("dataset", name).items():
            loaded = [{**row, "images": [[image.size, image.mode] for image in row["images"]]} for row in rows]
            lines.append(f"{name} {split}  {len(rows)} rows  version {rows.info.version}  sha256 {hash_rows(loaded)}")
    golden("loaded_dataset.txt", "\n".join([*lines, ""]))


@pytest.mark.parametrize(("name", "weights"), [("lora", "adapter_model.safetensors"), ("full", "model.safetensors")])
def test_an_old_training_run_is_resumed_to_the_same_end(
    name: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    out = Path(f"{name}_stopped")
    # A loss that no training gives: it is in the record only when the checkpoint was read.
    state = out / "checkpoint-30" / "trainer_state.json"
    state_data = json.loads(state.read_text())
    state_data["log_history"][0]["loss"] = 99.0
    state.write_text(json.dumps(state_data))
    whole = json.loads((Path(name) / "training.json").read_text())
    # `compact tune` says this of its own accord to the script when it trains the projector beside a LoRA.
    rate = whole["projector_learning_rate"]
    own_rate = [] if rate is None else ["--projector_learning_rate", str(rate)]
    train(["--config", f"{name}.yaml", "--output_dir", str(out), *own_rate])
    record = json.loads((out / "training.json").read_text())
    assert record["loss"][0] == [5, 99.0]
    assert [step for step, _ in record["loss"]] == [step for step, _ in whole["loss"]] == list(range(5, 41, 5))
    assert [loss for _, loss in record["loss"][1:]] == pytest.approx([loss for _, loss in whole["loss"][1:]], abs=1e-3)
    resumed, expected = load_file(out / weights), load_file(Path(name) / weights)
    assert resumed.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(resumed[key], weight, atol=1e-3, rtol=1e-3)
    # From here on it is finished for `compact tune` as well.
    _forbid_processes(monkeypatch)
    assert main(["tune", f"{name}.yaml", "--output_dir", str(out)]) == 0


def test_a_finished_training_run_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    _forbid_processes(monkeypatch)
    before = hash_files("lora")
    capsys.readouterr()
    assert main(["tune", "lora.yaml", "--output_dir", "lora"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "lora\n"
    assert "whether its data and base are still those that it was started with cannot be checked" in captured.err
    assert hash_files("lora") == before


def _forbid_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))


def test_an_old_adapter_is_loaded_and_merged() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    def logits(model: Any) -> Any:
        processor = AutoProcessor.from_pretrained("lora")
        text = {"type": "text", "text": "What color is the thing?"}
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "path": "images/square.png"}, text]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            return model.eval()(**inputs).logits

    base = logits(AutoModelForImageTextToText.from_pretrained("base"))
    adapted = logits(PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("base"), "lora"))
    assert (adapted - base).abs().max() > 0.1
    assert main(["adapter", "merge", "lora", "--out", "merged"]) == 0
    torch.testing.assert_close(
        logits(AutoModelForImageTextToText.from_pretrained("merged")), adapted, atol=1e-4, rtol=1e-4
    )


def test_a_finished_evaluation_prints_the_same_and_asks_no_model(
    golden: Golden, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", refuse)
    rewritten = ["results.json", "evaluation.json"]  # the latter names the version of the rule from now on
    before, old_results = hash_files("evaluation", exclude=rewritten), read_results("evaluation")
    call = ("evaluate", "base", "lora", "full", "dataset", "--split", "train", "--out", "evaluation")
    golden("evaluation.txt", run_command(capsys, *call))
    assert hash_files("evaluation", exclude=rewritten) == before
    results = read_results("evaluation")
    assert results["matching_version"] == json.loads(Path("evaluation/evaluation.json").read_text())["matching_version"]
    assert (results["task"], results["task_version"]) == ("compact", "1")
    assert drop_additions(results) == drop_additions(old_results)


def read_results(directory: str) -> dict[str, Any]:
    """Return an evaluation's results.json."""
    results: dict[str, Any] = json.loads((Path(directory) / "results.json").read_text(encoding="utf-8"))
    return results


def drop_additions(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without what version 0.1.0 did not write: today's schema, task, headline and rule version."""
    names = ("schema", "task", "task_version", "headline", "matching_version")
    kept = {name: value for name, value in results.items() if name not in names}
    return {**kept, **({"models": [drop_additions(model) for model in results["models"]]} if "models" in kept else {})}


def test_an_old_evaluation_gives_its_scores_and_predictions_without_being_asked_again() -> None:
    from compact_hf import read_predictions
    from compact_hf.training.card_results import read_card_results

    assert "task" not in read_results("evaluation")
    predictions = read_predictions("evaluation/full")
    assert {prediction.k for prediction in predictions} == {1, 3}
    card = read_card_results(Path("full"), Path("evaluation"))
    assert (card.task, card.metric, card.model) == ("compact", "accuracy", "full")
    assert [row[:2] for row in card.table().rows][:3] == [("all", "10"), ("k = 1", "5"), ("k = 3", "5")]
    assert card.eval_results()[0].metric_value == 0.1


def test_a_finished_ablation_prints_the_same_and_trains_nothing(
    golden: Golden, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The words of the tables in ablation.md are those of the current version; the numbers are in ablation.json.
    rewritten = ["results.json", "ablation.md", "ablation.json", "evaluation.json"]
    before, old_results = hash_files("ablation", exclude=rewritten), read_results("ablation/judged")
    old_ablation = json.loads(Path("ablation/ablation.json").read_text(encoding="utf-8"))
    _forbid_processes(monkeypatch)
    golden("ablation.txt", run_command(capsys, "ablate", "experiment.yaml", "--out", "ablation"))
    assert hash_files("ablation", exclude=rewritten) == before
    ablation = json.loads(Path("ablation/ablation.json").read_text(encoding="utf-8"))
    assert ablation.pop("matching_version")
    assert ablation == old_ablation
    assert drop_additions(read_results("ablation/judged")) == drop_additions(old_results)
