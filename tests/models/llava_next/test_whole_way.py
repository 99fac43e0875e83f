"""Runs a tiny LLaVA-NeXT through all steps: dry run, screening, tune, kill, resume, merge, evaluate, publish."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import TuningError, UsageError
from compact_hf.evaluation.benchmarks.lmms_eval import benchmark_command
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.inference import Student
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.loading import load_processor
from compact_hf.models.registry import get_family
from compact_hf.training import train
from compact_hf.training.checkpoints import find_last_checkpoint
from compact_hf.training.dry_run import dry_run
from compact_hf.training.merge_adapter import merge_adapter
from compact_hf.training.train import tune
from tests import preforked
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source
from tests.models.llava_next.tiny_llava_next import save_llava_next
from tests.training.samples import draw_image, make_settings, texts, write_release

pytestmark = [
    pytest.mark.usefixtures("preforked_training"),
    # PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SIZES = ((60, 40), (64, 64), (48, 120), (150, 40))
TRAIN = "projector@0.0002,language_model:lora,tower:lora@0.0005"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write `tiny`, a LLaVA-NeXT whose template does not mark answers, and `release` with images of several shapes."""
    from trl.chat_template_utils import llava_next_chat_template

    directory = tmp_path_factory.mktemp("whole way")
    llava = build_tiny(directory / "llava", texts(24), seed=0)
    base = save_llava_next(directory / "tiny", llava, template=llava_next_chat_template)
    (base / "README.md").write_text("---\nlicense: mit\n---\nA base that knows nothing.\n", encoding="utf-8")
    write_release(directory / "release", rows=24, text_rows=4, sizes=SIZES)
    return directory


def make_run(directory: Path, name: str, **overrides: str) -> dict[str, str]:
    return make_settings(directory, output_dir=str(directory / name), max_steps="8", save_steps="2", **overrides)


def test_a_dry_run_counts_each_images_own_tokens_and_what_is_trained(folder: Path) -> None:
    from datasets import load_dataset

    forecast = dry_run("tiny-cpu", overrides=make_run(folder, "planned"), train=TRAIN)
    rows = load_dataset(str(folder / "release"), "all")["train"]
    family, processor = get_family("llava_next"), load_processor(folder / "tiny")
    counts = [family.count_image_tokens(processor, image.size) for row in rows for image in row["images"]]
    assert forecast.image_tokens == sum(counts)
    assert len(set(counts)) == len(SIZES)
    assert forecast.train == "projector:full@0.0002,language_model:lora,tower:lora@0.0005"
    assert forecast.learning_rates == {"projector": 0.0002, "tower": 0.0005}
    assert 0 < forecast.memory.trained < forecast.memory.parameters / 5


def test_lengths_are_those_of_the_batches_of_training(folder: Path) -> None:
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from compact_hf.training.row_screening import screen_rows

    family, processor = get_family("llava_next"), load_processor(folder / "tiny")
    processor.chat_template = family.training_template(processor)
    rows = load_dataset(str(folder / "release"), "all")["train"].select(range(6))
    result = screen_rows(rows, processor, family, max_length=1024, answers_only=True)
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)
    batches = [collate([row]) for row in rows]
    assert result.lengths == tuple(int(batch["attention_mask"].sum()) for batch in batches)
    assert result.answer_tokens == sum(int((batch["labels"] != -100).sum()) for batch in batches)


@pytest.fixture(scope="module")
def student(folder: Path) -> Path:
    """Tune a LoRA with the projector in full; training is killed after its first checkpoint and resumed."""
    overrides, out = make_run(folder, "student", save_only_model="false", logging_steps="1"), folder / "student"
    children: list[int] = []

    def start(*arguments: Any, **options: Any) -> preforked.Popen:
        child = preforked.Popen(*arguments, **options)
        children.append(child.pid)
        return child

    def kill(line: str) -> None:
        # Only once: lines written before the kill arrive after it, too.
        if children and find_last_checkpoint(out):
            os.kill(children.pop(), signal.SIGKILL)

    run: Callable[..., Any] = partial(tune, "tiny-cpu", overrides=overrides, train=TRAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Popen", start)
        with pytest.raises(TuningError, match="killed from outside"):
            run(on_line=kill)
        lines: list[str] = []
        run(on_line=lines.append)
    assert any(line.startswith("resuming from") for line in lines)
    assert any("the projector's 0.0002, the tower's 0.0005" in line for line in lines)
    return out


def test_what_is_named_is_trained_at_its_rate_and_nothing_else(folder: Path, student: Path) -> None:
    import torch
    from safetensors.torch import load_file

    record = json.loads((student / "training.json").read_text())
    assert (record["model_type"], record["steps"], record["projector_learning_rate"]) == ("llava_next", 8, 0.0002)
    assert [step for step, _ in record["loss"]] == list(range(1, 9))
    assert record["dropped"] == {}
    names = load_file(student / "adapter_model.safetensors")
    assert {part for name in names if (part := get_family("llava_next").find_part(name))} == {
        "projector",
        "language_model",
        "tower",
    }
    optimizer = torch.load(student / "checkpoint-8" / "optimizer.pt", weights_only=True)
    assert {group["initial_lr"] for group in optimizer["param_groups"] if group["params"]} == {0.001, 0.0002, 0.0005}


def test_the_student_is_merged_evaluated_and_shown_by_its_card(folder: Path, student: Path, tmp_path: Path) -> None:
    merged = merge_adapter(student, tmp_path / "merged")
    evaluation = evaluate([str(student), str(merged)], str(folder / "release"), tmp_path / "results", split="train")
    assert evaluation.results[0].overall.n > 24
    pairs = [(draw_image("red", size=size), "What color is the thing?") for size in SIZES]
    answers = [Student(str(model)).answer(pairs, max_new_tokens=4) for model in (student, merged)]
    assert answers[0] == answers[1]
    for directory in (student, merged):
        card = (directory / "README.md").read_text(encoding="utf-8")
        assert "as a whole and in tiles" in card
        assert "| trained parts | `projector:full@0.0002,language_model:lora,tower:lora@0.0005` |" in card
    assert benchmark_command(student).merge
    assert "llava_hf" in benchmark_command(merged).evaluate


def test_base_and_student_are_published_and_asked_from_the_hub(folder: Path, student: Path, tmp_path: Path) -> None:
    source = """
import sys
from compact_hf import publish_model
from compact_hf.evaluation.inference import Student
from tests.training.samples import draw_image

publish_model(sys.argv[1], "org/base")
publish_model(sys.argv[2], "org/student", base="org/base", version="1.0.0")
told = Student("org/student@v1.0.0").answer([(draw_image("red"), "What color is the thing?")], max_new_tokens=4)
"""
    with HubServer() as hub:
        told = run_source(hub, source, folder / "tiny", student, home=tmp_path)
    assert told == Student(str(student)).answer([(draw_image("red"), "What color is the thing?")], max_new_tokens=4)


def test_a_part_that_the_family_lacks_is_named_before_anything_is_trained(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"LLaVA-NeXT has no part 'towr' to train: .*; did you mean tower\?"):
        dry_run("tiny-cpu", overrides=make_run(folder, "none"), train="towr")
