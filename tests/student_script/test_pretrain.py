"""Checks alignment: its rows equal the processor's, its loss falls, and a resumed run gives the same result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rows
import training_loop
from captions import conversation, describe_scene, text_conversation
from pretrain import ConversationSchedule, align, pretrain_language, pretrain_tower
from training_loop import Step, TrainingSchedule

from compact_hf.errors import TuningError
from compact_hf.models.llava.tiny import ModelSize, build_tiny
from compact_hf.scenes.render import render
from compact_hf.scenes.scene import Scene, build_scene

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
# Tokens of a row: a few exchanges.
SMALLEST_ROW = 180


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        text for seed in range(50) for pair in conversation(build_scene(seed), random.Random(seed)) for text in pair
    ]
    return build_tiny(tmp_path_factory.mktemp("student") / "untrained", texts, seed=0, size=SMALLEST)


def test_rows_are_those_of_the_processor_up_to_the_last_exchange_that_fits(untrained: Path) -> None:
    import torch
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(untrained)
    scenes = [build_scene(seed) for seed in range(6)]
    conversations = [conversation(scene, random.Random(scene.seed)) for scene in scenes]
    tokens, loss_mask = rows.tokenize(processor, conversations, image_tokens=SMALLEST.image_tokens, length=SMALLEST_ROW)
    assert tokens.shape == loss_mask.shape == (6, SMALLEST_ROW)
    for scene, exchanges, row, row_mask in zip(scenes, conversations, tokens, loss_mask, strict=True):
        # Each exchange adds one end token, so their number tells how many exchanges the row has.
        count = int((row == processor.tokenizer.eos_token_id).sum())
        assert 0 < count < len(exchanges)
        whole, longer = (encode(processor, scene, exchanges[:number]) for number in (count, count + 1))
        length = whole["input_ids"].shape[1]
        assert length <= SMALLEST_ROW < longer["input_ids"].shape[1]
        assert torch.equal(row[:length], whole["input_ids"][0])
        assert (row[length:] == processor.tokenizer.pad_token_id).all()
        assert torch.equal(row_mask[:length], torch.as_tensor(whole["assistant_masks"])[0].bool())
        assert not row_mask[length:].any()
        torch.testing.assert_close(rows.make_pixels(processor, [scene]), whole["pixel_values"])


def test_what_does_not_fit_is_left_out(untrained: Path) -> None:
    import torch
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(untrained)
    long, short = ("Describe the picture.", "a red kite; " * 200), ("Count the kites.", "3")
    options = {"image_tokens": SMALLEST.image_tokens, "length": SMALLEST_ROW}
    first, second = (rows.tokenize(processor, [row], **options) for row in ([long, short], [short]))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    padding, loss_mask = rows.tokenize(processor, [[long]], **options)
    assert (padding == processor.tokenizer.pad_token_id).all()
    assert not loss_mask.any()
    # The first exchange has the only description of the scene: without it the others could not be answered.
    assert not rows.tokenize(processor, [[long, short]], image_tokens=0, length=SMALLEST_ROW)[1].any()


def test_a_run_in_whose_rows_nothing_fits_is_refused_in_one_line(untrained: Path, tmp_path: Path) -> None:
    schedule = ConversationSchedule(steps=1, batch=2, learning_rate=0.01, tokens=8)
    with pytest.raises(TuningError, match=r"^no exchange fits into a row of 8 tokens: raise `tokens`$"):
        align(untrained, tmp_path / "aligned", schedule)


def test_rows_without_an_image_have_no_image_token(untrained: Path) -> None:
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(untrained)
    exchanges = text_conversation(build_scene(5), random.Random(5))
    tokens, loss_mask = rows.tokenize(processor, [exchanges], image_tokens=0, length=400)
    text = processor.tokenizer.decode(tokens[0])
    assert "<image>" not in text
    assert f"USER: {describe_scene(build_scene(5))}\n" in text
    described = processor.tokenizer.decode(tokens[0][loss_mask[0]])
    assert described.startswith(f" {exchanges[0][1]}</s> {exchanges[1][1]}</s>")


def encode(processor: Any, scene: Scene, exchanges: Sequence[tuple[str, str]]) -> Any:
    """Return what the processor makes of a conversation about a scene."""
    messages = rows.to_messages(exchanges, with_image=True)
    messages[0]["content"][0] = {"type": "image", "image": render(scene)}
    return processor.apply_chat_template(
        [messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs={"add_special_tokens": False},
    )


@pytest.mark.slow
def test_the_loss_falls_and_the_folder_loads(untrained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    steps: list[Step] = []
    schedule = ConversationSchedule(steps=100, batch=4, learning_rate=0.01, tokens=SMALLEST_ROW)
    out = align(untrained, tmp_path / "aligned", schedule, on_step=steps.append)
    assert [step.number for step in steps] == list(range(1, 101))
    assert sum(step.loss for step in steps[-5:]) < 0.7 * sum(step.loss for step in steps[:5])
    assert AutoModelForImageTextToText.from_pretrained(out).config.image_seq_length == SMALLEST.image_tokens
    assert AutoProcessor.from_pretrained(out).chat_template
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]


@pytest.mark.slow
def test_the_language_model_learns_from_text_alone(untrained: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    schedule = ConversationSchedule(steps=100, batch=4, learning_rate=0.01, tokens=400)
    out = pretrain_language(untrained, tmp_path / "language", schedule, on_step=steps.append)
    assert sum(step.loss for step in steps[-5:]) < 0.7 * sum(step.loss for step in steps[:5])
    assert changed_weights(untrained, out) == {"language_model"}


@pytest.mark.slow
def test_the_tower_learns_from_patches_and_a_killed_run_ends_as_one_that_was_not(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "_SAVE_EVERY", 40)
    steps: list[Step] = []
    schedule = TrainingSchedule(steps=60, batch=4, learning_rate=0.01)
    whole = pretrain_tower(untrained, tmp_path / "whole", schedule, on_step=steps.append)
    assert sum(step.loss for step in steps[-5:]) < 0.9 * sum(step.loss for step in steps[:5])
    assert changed_weights(untrained, whole) == {"vision_tower"}

    def kill(step: Step) -> None:
        if step.number == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_tower(untrained, tmp_path / "again", schedule, on_step=kill)
    again = pretrain_tower(untrained, tmp_path / "again", schedule)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def changed_weights(before: Path, after: Path) -> set[str]:
    """Return the parts of the model with weights that differ."""
    import torch
    from safetensors.torch import load_file

    weights, new_weights = (load_file(path / "model.safetensors") for path in (before, after))
    changed = [name for name, weight in weights.items() if not torch.equal(weight, new_weights[name])]
    return {part for part in ("language_model", "vision_tower", "projector") if any(part in name for name in changed)}


def test_a_run_that_diverges_is_told_and_saves_nothing(untrained: Path, tmp_path: Path) -> None:
    schedule = ConversationSchedule(steps=10, batch=2, learning_rate=1e30, tokens=SMALLEST_ROW)
    with pytest.raises(
        TuningError, match=r"aligned diverged: the loss is \S+ at step 2, the norm .* lower the learning"
    ):
        align(untrained, tmp_path / "aligned", schedule)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_ends_as_one_that_was_not(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "_SAVE_EVERY", 4)
    schedule = ConversationSchedule(steps=10, batch=2, learning_rate=0.01, tokens=SMALLEST_ROW)
    whole = align(untrained, tmp_path / "whole", schedule)

    steps: list[Step] = []

    def kill(step: Step) -> None:
        steps.append(step)
        if (len(steps), step.number) in ((6, 6), (10, 8)):
            raise KeyboardInterrupt

    # Between two checkpoints, then between a step and its checkpoint.
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            align(untrained, tmp_path / "again", schedule, on_step=kill)
    again = align(untrained, tmp_path / "again", schedule, on_step=steps.append)
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 5, 6, 7, 8, 9, 10]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_learning_rate_rises_stays_and_falls_to_nought() -> None:
    shares = [training_loop._learning_rate_share(number, 1000) for number in range(1, 1001)]
    assert shares[:50] == sorted(shares[:50])
    assert set(shares[49:599]) == {1.0}
    assert shares[600:] == sorted(shares[600:], reverse=True)
    assert 0 < shares[-1] < 0.01
