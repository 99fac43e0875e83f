"""Pre-trains the vision tower of a tiny LLaVA, and aligns the model on descriptions of drawn scenes.

LLaVA's first stage trains only the projector between two pre-trained models. Here nothing is pre-trained: first the
tower learns to recognize objects (patch_pretraining.py), then the whole model learns to describe scenes, from which the
language model learns its language. Every batch has scenes with seeds of its own, so no image is seen twice. The batch
of a step depends only on the step's number, so an interrupted run continues exactly as if it had not been stopped.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from captions import Exchange, conversation, glance
from patch_pretraining import build_heads
from patch_pretraining import loss as seeing_loss

from compact_hf.errors import TuningError
from compact_hf.models.loading import without_progress_bars
from compact_hf.scenes.scene import Scene, build_scene

if TYPE_CHECKING:
    import torch

FIRST_SEED: Final = 2_000_000
"""First seed of the scenes for alignment. Datasets use smaller seeds; larger ones are reserved for evaluation."""
FIRST_TOWER_SEED: Final = 3_000_000
"""First seed of the scenes for pre-training the tower."""
# Steps; a killed run repeats fewer than this number of them.
_SAVE_EVERY: Final = 100
_WARMUP_STEPS: Final = 50
"""Number of steps in which the learning rate rises."""
_DECAY_SHARE: Final = 0.25
"""Share of the steps, at the end, in which the learning rate falls. Up to there nothing depends on the number of steps,
so that it can still be changed."""
_MAX_GRAD_NORM: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Training settings.

    Attributes:
        steps (`int`): number of optimizer steps.
        batch (`int`): images per step.
        learning_rate (`float`): maximum learning rate.
        seed (`int`, *optional*, defaults to 0): random seed of everything but the scenes.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class AlignmentSchedule(TrainingSchedule):
    """Training settings of alignment.

    Attributes:
        glances (`int`): number of steps at the beginning with short descriptions only (`captions.glance`). The words of
            a long description can often be predicted from those before; a model that starts with such descriptions
            learns only slowly to use the image.
    """

    glances: int


@dataclass(frozen=True, slots=True)
class Step:
    """A finished training step.

    Attributes:
        number (`int`): number of the step, from 1.
        loss (`float`): loss of the step; in alignment, in nats per token of a description.
    """

    number: int
    loss: float


def pretrain_tower(
    base: Path, out: Path, schedule: TrainingSchedule, *, on_step: Callable[[Step], None] = lambda step: None
) -> Path:
    """Pre-train the tower of a model on attributes of objects, and save the whole model.

    Args:
        base (`Path`): directory of a model that `build_tiny` wrote.
        out (`Path`): output directory; see `align`.
        schedule (`TrainingSchedule`): training settings.
        on_step (`Callable[[Step], None]`, *optional*): called after each step of this call.

    Returns:
        `Path`: `out`.
    """
    import torch

    model, processor = _load(base)
    tower, vision = model.model.vision_tower, model.config.vision_config
    side = vision.image_size // vision.patch_size
    # Only the heads are drawn from this seed; the random state of the caller does not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        classifier = build_heads(vision.hidden_size)

    def step_loss(number: int) -> torch.Tensor:
        # Each step has a range of seeds of its own.
        first_seed = FIRST_TOWER_SEED + (number - 1) * schedule.batch
        scenes = [build_scene(seed) for seed in range(first_seed, first_seed + schedule.batch)]
        with torch.autocast("cpu", torch.bfloat16):
            # (scenes, patches, width), without position 0, CLIP's class token.
            features = tower(_pixel_values(processor, scenes)).last_hidden_state[:, 1:]
            logits = classifier(features)
        return seeing_loss(logits, scenes, side)

    # The heads are part of checkpoints, but not of the model that is saved at the end.
    _train(torch.nn.ModuleList([tower, classifier]), out, schedule, step_loss, on_step)
    return _save(model, processor, out)


def align(
    base: Path, out: Path, schedule: AlignmentSchedule, *, on_step: Callable[[Step], None] = lambda step: None
) -> Path:
    """Train a model to describe scenes, and save it with its processor.

    Args:
        base (`Path`): directory of a model, such as the output of `pretrain_tower`.
        out (`Path`): output directory. During training, the file `out`.part holds a checkpoint, from which the same
            call resumes.
        schedule (`AlignmentSchedule`): training settings.
        on_step (`Callable[[Step], None]`, *optional*): called after each step of this call.

    Returns:
        `Path`: `out`.
    """
    model, processor = _load(base)
    _train(
        model, out, schedule, lambda number: _alignment_loss(model, processor, _draw_batch(number, schedule)), on_step
    )
    return _save(model, processor, out)


def _load(base: Path) -> tuple[Any, Any]:
    """Load model and processor."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    with without_progress_bars():
        # With this small hidden size, eager attention takes 75% of the time of torch's fused attention on a CPU.
        model = LlavaForConditionalGeneration.from_pretrained(base, attn_implementation="eager")
        return model, AutoProcessor.from_pretrained(base, trust_remote_code=False)


def _save(model: Any, processor: Any, out: Path) -> Path:
    """Save model and processor, atomically, and remove the checkpoint."""
    temp_directory = out.with_name(f"{out.name}.half")
    with without_progress_bars():
        model.save_pretrained(temp_directory)
        processor.save_pretrained(temp_directory)
    # From here on the stage is complete, so its checkpoint is not needed any more.
    temp_directory.rename(out)
    _checkpoint_path(out).unlink(missing_ok=True)
    return out


def _train(
    module: Any,
    out: Path,
    schedule: TrainingSchedule,
    step_loss: Callable[[int], torch.Tensor],
    on_step: Callable[[Step], None],
) -> None:
    """Run the remaining steps; `step_loss` returns the loss of a step by its number."""
    import torch

    optimizer = torch.optim.AdamW(
        module.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    # Steps are numbered from 1. Resumed: the first one is the step after the checkpoint.
    for number in range(_resume(_checkpoint_path(out), module, optimizer) + 1, schedule.steps + 1):
        for group in optimizer.param_groups:
            # Computed from the step's number, so that no scheduler has to be saved in checkpoints.
            group["lr"] = schedule.learning_rate * _learning_rate_share(number, schedule.steps)
        loss: Any = step_loss(number)
        loss.backward()
        # The norm is NaN or infinite if the loss is.
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), _MAX_GRAD_NORM)
        if not norm.isfinite():
            raise TuningError(
                f"training of {out} diverged: the loss is {loss.item()} at step {number}, the norm of the gradient "
                f"{norm.item()}; lower the learning rate ({schedule.learning_rate:g})"
            )
        optimizer.step()
        optimizer.zero_grad()
        if number % _SAVE_EVERY == 0:
            _save_checkpoint(
                _checkpoint_path(out),
                {"number": number, "model": module.state_dict(), "optimizer": optimizer.state_dict()},
            )
        on_step(Step(number, loss.item()))


def _learning_rate_share(number: int, steps: int) -> float:
    """Return a step's learning rate as a share of the maximum: it rises, stays constant, and falls to almost 0."""
    # Constant, warm-up and decay: the smallest of the three applies.
    return min(1.0, number / _WARMUP_STEPS, (steps - number + 1) / (_DECAY_SHARE * steps + 1))


def _draw_batch(number: int, schedule: AlignmentSchedule) -> list[tuple[Scene, list[Exchange]]]:
    """Return the scenes and conversations of a step, which depend only on its number and the seed."""
    first_seed = FIRST_SEED + (number - 1) * schedule.batch
    scenes = (build_scene(seed) for seed in range(first_seed, first_seed + schedule.batch))
    describe = glance if number <= schedule.glances else conversation
    # A generator per scene, so that its texts do not depend on the other scenes of the batch.
    return [(scene, describe(scene, random.Random(f"{schedule.seed} {scene.seed}"))) for scene in scenes]


def _alignment_loss(model: Any, processor: Any, batch: Sequence[tuple[Scene, list[Exchange]]]) -> torch.Tensor:
    """Return the mean loss over the tokens of the descriptions, end tokens included."""
    import torch

    pixels = _pixel_values(processor, [scene for scene, _ in batch])
    tokens, loss_mask = _tokenize(
        processor, [exchanges for _, exchanges in batch], image_tokens=model.config.image_seq_length
    )
    # Logits are computed only for description tokens, a third of a row. Padding is on the right, where causal attention
    # cannot reach it, so no attention mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens, pixel_values=pixels, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][loss_mask[:, 1:]])
    # (description tokens, vocabulary) and their targets: position i predicts token i + 1.
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][loss_mask[:, 1:]])


def _pixel_values(processor: Any, scenes: Sequence[Scene]) -> torch.Tensor:
    """Return the images as the processor does, `(scenes, 3, edge, edge)`, in a third of its time."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    from compact_hf.scenes.render import render

    image_processor = processor.image_processor
    edge = image_processor.crop_size["height"]
    resized = [np.asarray(render(scene).resize((edge, edge), Resampling.BICUBIC)) for scene in scenes]
    # (scenes, edge, edge, 3), 0 to 255 -> (scenes, 3, edge, edge), 0 to 1.
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    return (pixels - mean) / std


def _tokenize(
    processor: Any, conversations: Sequence[Sequence[Exchange]], *, image_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss mask, `(rows, tokens)` each, padded on the right.

    The processor does the same with `return_assistant_tokens_mask`, but takes five times as long.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    encoded = processor.tokenizer.apply_chat_template(
        [_messages(exchanges) for exchanges in conversations],
        chat_template=processor.chat_template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    tokens, loss_masks = [], []
    for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        # Replace the one image token of the template by as many as the image has.
        position, extra = ids.index(processor.image_token_id), image_tokens - 1
        tokens.append(torch.tensor([*ids[:position], *[ids[position]] * extra, *ids[position:]]))
        loss_masks.append(torch.tensor([*mask[:position], *[0] * extra, *mask[position:]], dtype=torch.bool))
    # The mask is padded with False, so padding does not count in the loss.
    pad_id = processor.tokenizer.pad_token_id
    return pad_sequence(tokens, batch_first=True, padding_value=pad_id), pad_sequence(loss_masks, batch_first=True)


def _messages(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Return exchanges as chat messages, with the image in the first one."""
    messages: list[dict[str, Any]] = []
    for request, description in exchanges:
        image_content = [] if messages else [{"type": "image"}]
        messages.append({"role": "user", "content": [*image_content, {"type": "text", "text": request}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": description}]})
    return messages


def _checkpoint_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    import torch

    # Renamed only when it is complete, so that a killed process cannot leave a partial checkpoint.
    temp_file = path.with_suffix(".half")
    torch.save(state, temp_file)
    os.replace(temp_file, path)


def _resume(path: Path, model: Any, optimizer: Any) -> int:
    """Load the checkpoint into model and optimizer, and return its number of steps; 0 if there is no checkpoint."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["number"])
