"""Checks alignment: its rows equal the processor's, its loss falls, and a resumed run gives the same result."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pretrain
import pytest
from captions import conversation
from pretrain import FIRST_SEED, AlignmentSchedule, Step, align

from compact_hf.errors import TuningError
from compact_hf.models.llava.tiny import ModelSize, build_tiny
from compact_hf.scenes.render import render
from compact_hf.scenes.scene import EVALUATION_SEEDS, build_scene

SMALLEST = ModelSize(
    image_size=24,
    patch_size=12,
    hidden_size=32,
    vision_heads=2,
    text_heads=2,
    vision_layers=1,
    text_layers=1,
    vocab_size=600,
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        text for seed in range(50) for pair in conversation(build_scene(seed), random.Random(seed)) for text in pair
    ]
    return build_tiny(tmp_path_factory.mktemp("student") / "untrained", texts, seed=0, size=SMALLEST)


def test_rows_are_those_of_the_processor(untrained: Path) -> None:
    import torch
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(untrained)
    scenes = [build_scene(seed) for seed in range(6)]
    conversations = [conversation(scene, random.Random(scene.seed)) for scene in scenes]
    tokens, loss_mask = pretrain._tokenize(processor, conversations, image_tokens=SMALLEST.image_tokens)
    messages = [pretrain._messages(exchanges) for exchanges in conversations]
    for scene, turns in zip(scenes, messages, strict=True):
        turns[0]["content"][0] = {"type": "image", "image": render(scene)}
    expected = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
    )
    assert torch.equal(tokens, expected["input_ids"])
    assert torch.equal(loss_mask, torch.as_tensor(expected["assistant_masks"]).bool())
    assert loss_mask.any(dim=1).all()


@pytest.mark.slow
def test_the_loss_falls_and_the_folder_loads(untrained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    steps: list[Step] = []
    schedule = AlignmentSchedule(steps=30, glances=15, batch=4, learning_rate=0.01)
    out = align(untrained, tmp_path / "aligned", schedule, on_step=steps.append)
    assert [step.number for step in steps] == list(range(1, 31))
    assert sum(step.loss for step in steps[-5:]) < 0.7 * sum(step.loss for step in steps[:5])
    assert AutoModelForImageTextToText.from_pretrained(out).config.image_seq_length == SMALLEST.image_tokens
    assert AutoProcessor.from_pretrained(out).chat_template
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]


def test_a_run_that_diverges_is_told_and_saves_nothing(untrained: Path, tmp_path: Path) -> None:
    schedule = AlignmentSchedule(steps=10, glances=5, batch=2, learning_rate=1e30)
    with pytest.raises(
        TuningError, match=r"aligned diverged: the loss is \S+ at step 2, the norm .* lower the learning"
    ):
        align(untrained, tmp_path / "aligned", schedule)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_ends_as_one_that_was_not(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "_SAVE_EVERY", 4)
    schedule = AlignmentSchedule(steps=10, glances=5, batch=2, learning_rate=0.01)
    whole = align(untrained, tmp_path / "whole", schedule)

    def kill(step: Step) -> None:
        if step.number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(untrained, tmp_path / "again", schedule, on_step=kill)
    steps: list[Step] = []
    again = align(untrained, tmp_path / "again", schedule, on_step=steps.append)
    assert [step.number for step in steps] == [5, 6, 7, 8, 9, 10]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_learning_rate_rises_stays_and_falls_to_nought() -> None:
    shares = [pretrain._learning_rate_share(number, 1000) for number in range(1, 1001)]
    assert shares[:50] == sorted(shares[:50])
    assert set(shares[49:749]) == {1.0}
    assert shares[750:] == sorted(shares[750:], reverse=True)
    assert 0 < shares[-1] < 0.01


def test_no_reserved_scene_is_described() -> None:
    assert EVALUATION_SEEDS.start > FIRST_SEED + 10_000 * 64
