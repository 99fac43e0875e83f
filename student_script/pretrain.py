"""Pre-trains the vision tower of a tiny LLaVA, and aligns the model on descriptions of drawn scenes.

LLaVA's first stage trains only the projector between two pre-trained models. Here nothing is pre-trained: first the
tower learns to recognize objects (patch_pretraining.py), then the whole model learns to describe scenes, from which the
language model learns its language. Every batch has scenes with seeds of its own, so no image is seen twice. The batch
of a step depends only on the step's number, so an interrupted run continues exactly as if it had not been stopped.

The weight matrices of transformer layers are trained by Muon, all other parameters by AdamW. With AdamW alone, the same
loss takes twice as many steps. A process of its own prepares the batches of the next steps.
"""

from __future__ import annotations

import bisect
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from captions import Exchange, conversation, text_conversation
from patch_pretraining import PatchLabels, build_heads, patch_labels
from patch_pretraining import loss as patch_loss

from compact_hf.errors import TuningError
from compact_hf.models.loading import without_progress_bars
from compact_hf.scenes.scene import Scene, build_scene

if TYPE_CHECKING:
    import torch

FIRST_SEED: Final = 2_000_000
"""First seed of the scenes for alignment. Datasets use smaller seeds; larger ones are reserved for evaluation."""
FIRST_TOWER_SEED: Final = 3_000_000
"""First seed of the scenes for pre-training the tower."""
FIRST_LANGUAGE_SEED: Final = 4_000_000
"""First seed of the scenes for pre-training the language model."""
# Steps; a killed run repeats fewer than this number of them.
_SAVE_EVERY: Final = 100
_WARMUP_STEPS: Final = 50
"""Number of steps in which the learning rate rises."""
_DECAY_SHARE: Final = 0.4
"""Share of the steps, at the end, in which the learning rate falls. Up to there nothing depends on the number of steps,
so that it can still be changed."""
_MAX_GRAD_NORM: Final = 1.0
_MIN_COMPILED_STEPS: Final = 500
"""Compiling a model takes a minute and saves a third of each step, so shorter runs are not compiled."""


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
class ConversationSchedule(TrainingSchedule):
    """Training settings on conversations.

    Attributes:
        tokens (`int`): length of all rows, image included. A conversation is cut after the last exchange that fits, so
            nearly nothing is padding, and the compiled model has one shape.
    """

    tokens: int


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
    # Only the heads are drawn from this seed; the random state of the caller does not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        heads = build_heads(vision.hidden_size)

    def compute_loss(batch: tuple[torch.Tensor, list[PatchLabels]]) -> torch.Tensor:
        pixels, labels = batch
        with torch.autocast("cpu", torch.bfloat16):
            # (scenes, patches, width), without position 0, CLIP's class token.
            outputs = heads(tower(pixels).last_hidden_state[:, 1:])
        return patch_loss(outputs, labels)

    _compile(schedule, tower)
    draw_batch = partial(_draw_tower_batch, processor, schedule, vision.image_size // vision.patch_size)
    # The heads are part of checkpoints, but not of the model that is saved at the end.
    _train(torch.nn.ModuleList([tower, heads]), out, schedule, draw_batch, compute_loss, on_step)
    return _save(model, processor, out)


def pretrain_language(
    base: Path, out: Path, schedule: ConversationSchedule, *, on_step: Callable[[Step], None] = lambda step: None
) -> Path:
    """Pre-train the language model on conversations about scenes that are described in words, and save the whole model.

    Args:
        base (`Path`): directory of a model, such as the output of `pretrain_tower`.
        out (`Path`): output directory; see `align`.
        schedule (`ConversationSchedule`): training settings.
        on_step (`Callable[[Step], None]`, *optional*): called after each step of this call.

    Returns:
        `Path`: `out`.
    """
    model, processor = _load(base)
    language_model = model.model.language_model
    _compile(schedule, language_model)

    def compute_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        tokens, loss_mask = batch
        return _text_loss(model, tokens, loss_mask, lambda: language_model(input_ids=tokens, use_cache=False))

    draw_batch = partial(_draw_language_batch, processor, schedule)
    # The head has the weights of the embeddings.
    _train(language_model, out, schedule, draw_batch, compute_loss, on_step)
    return _save(model, processor, out)


def align(
    base: Path, out: Path, schedule: ConversationSchedule, *, on_step: Callable[[Step], None] = lambda step: None
) -> Path:
    """Train a model to describe scenes, and save it with its processor; its weights are rounded to those of bfloat16.

    Args:
        base (`Path`): directory of a model, such as the output of `pretrain_tower`.
        out (`Path`): output directory. During training, the file `out`.part holds a checkpoint, from which the same
            call resumes.
        schedule (`ConversationSchedule`): training settings.
        on_step (`Callable[[Step], None]`, *optional*): called after each step of this call.

    Returns:
        `Path`: `out`.
    """
    import torch

    model, processor = _load(base)
    _compile(schedule, model.model.vision_tower, model.model.language_model)
    draw_batch = partial(_draw_alignment_batch, processor, schedule, model.config.image_seq_length)
    _train(model, out, schedule, draw_batch, partial(_alignment_loss, model), on_step)
    # Rounded here, so that the model can be shipped in bfloat16 and its answers stay the same: an adapter is trained on
    # the rounded weights.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
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


def _compile(schedule: TrainingSchedule, *modules: torch.nn.Module) -> None:
    """Compile modules in place, if the run is long enough."""
    if schedule.steps >= _MIN_COMPILED_STEPS:
        for module in modules:
            module.compile()


def _train(
    module: torch.nn.Module,
    out: Path,
    schedule: TrainingSchedule,
    draw_batch: Callable[[int], Any],
    compute_loss: Callable[[Any], torch.Tensor],
    on_step: Callable[[Step], None],
) -> None:
    """Run the remaining steps; `draw_batch` returns the batch of a step by its number, in another process."""
    import torch
    from torch.utils.data import DataLoader

    optimizers = _build_optimizers(module, schedule.learning_rate)
    # Steps are numbered from 1. Resumed: the first one is the step after the checkpoint.
    numbers = range(_resume(_checkpoint_path(out), module, optimizers) + 1, schedule.steps + 1)
    # A sequence of numbers as the dataset: each item is collated to a whole batch.
    batches = DataLoader(numbers, batch_size=1, num_workers=1, collate_fn=_BatchOfNumber(draw_batch))  # type: ignore[arg-type]
    for number, batch in zip(numbers, batches, strict=True):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            # Computed from the step's number, so that no scheduler has to be saved in checkpoints.
            group["lr"] = schedule.learning_rate * _learning_rate_share(number, schedule.steps)
        loss: Any = compute_loss(batch)
        loss.backward()
        # The norm is NaN or infinite if the loss is.
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), _MAX_GRAD_NORM)
        if not norm.isfinite():
            raise TuningError(
                f"training of {out} diverged: the loss is {loss.item()} at step {number}, the norm of the gradient "
                f"{norm.item()}; lower the learning rate ({schedule.learning_rate:g})"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if number % _SAVE_EVERY == 0:
            _save_checkpoint(
                _checkpoint_path(out),
                {
                    "number": number,
                    "model": module.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                },
            )
        on_step(Step(number, loss.item()))


@dataclass(frozen=True, slots=True)
class _BatchOfNumber:
    """Turns a list of one step's number into the batch of the step."""

    draw_batch: Callable[[int], Any]

    def __call__(self, numbers: Sequence[int]) -> Any:
        (number,) = numbers
        return self.draw_batch(number)


def _build_optimizers(module: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the weight matrices of transformer layers, and AdamW for all other parameters."""
    import torch

    parameters = dict(module.named_parameters())
    matrices = [name for name, parameter in parameters.items() if "layers." in name and parameter.ndim == 2]
    return [
        torch.optim.Muon(
            [parameters[name] for name in matrices], lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [parameter for name, parameter in parameters.items() if name not in matrices],
            lr=learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            fused=True,
        ),
    ]


def _learning_rate_share(number: int, steps: int) -> float:
    """Return a step's learning rate as a share of the maximum: it rises, stays constant, and falls to almost 0."""
    # Constant, warm-up and decay: the smallest of the three applies.
    return min(1.0, number / _WARMUP_STEPS, (steps - number + 1) / (_DECAY_SHARE * steps + 1))


def _draw_tower_batch(
    processor: Any, schedule: TrainingSchedule, side: int, number: int
) -> tuple[torch.Tensor, list[PatchLabels]]:
    """Return the pixels and the labels of the images of a step."""
    # Each step has a range of seeds of its own.
    first_seed = FIRST_TOWER_SEED + (number - 1) * schedule.batch
    scenes = [build_scene(seed) for seed in range(first_seed, first_seed + schedule.batch)]
    return _pixel_values(processor, scenes), [patch_labels(scene, side) for scene in scenes]


def _draw_language_batch(
    processor: Any, schedule: ConversationSchedule, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss mask of a step, which depend only on its number and the seed."""
    first_seed = FIRST_LANGUAGE_SEED + (number - 1) * schedule.batch
    conversations = [
        text_conversation(build_scene(seed), random.Random(f"{schedule.seed} {seed}"))
        for seed in range(first_seed, first_seed + schedule.batch)
    ]
    return _tokenize(processor, conversations, image_tokens=0, length=schedule.tokens)


def _draw_alignment_batch(
    processor: Any, schedule: ConversationSchedule, image_tokens: int, number: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels, token ids and loss mask of a step, which depend only on its number and the seed."""
    first_seed = FIRST_SEED + (number - 1) * schedule.batch
    scenes = [build_scene(seed) for seed in range(first_seed, first_seed + schedule.batch)]
    # A generator per scene, so that its texts do not depend on the other scenes of the batch.
    conversations = [conversation(scene, random.Random(f"{schedule.seed} {scene.seed}")) for scene in scenes]
    rows = _tokenize(processor, conversations, image_tokens=image_tokens, length=schedule.tokens)
    return _pixel_values(processor, scenes), *rows


def _alignment_loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss over the tokens of the descriptions, end tokens included."""
    pixels, tokens, loss_mask = batch
    return _text_loss(
        model, tokens, loss_mask, lambda: model.model(input_ids=tokens, pixel_values=pixels, use_cache=False)
    )


def _text_loss(model: Any, tokens: torch.Tensor, loss_mask: torch.Tensor, compute: Callable[[], Any]) -> torch.Tensor:
    """Return the mean loss over the masked tokens; `compute` returns the hidden states of all."""
    import torch

    # Logits are computed only for description tokens, a third of a row. Padding is on the right, where causal attention
    # cannot reach it, so no attention mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(compute().last_hidden_state[:, :-1][loss_mask[:, 1:]])
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
    processor: Any, conversations: Sequence[Sequence[Exchange]], *, image_tokens: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss mask, `(rows, length)` each, padded on the right.

    A row is what the processor makes of the exchanges that fit, with `return_assistant_tokens_mask`, but the processor
    takes ten times as long.
    """
    import torch

    # Rendered once: rows differ only in the texts between these literals of the template.
    marker = "\ue000"
    messages = _messages([(marker, marker)] * 2, with_image=image_tokens > 0)
    rendered = processor.apply_chat_template(messages, tokenize=False)
    before_first, before_description, between, _, end = rendered.split(marker)
    texts: list[str] = []
    # The characters of each row's descriptions, with the space before and the end token after them.
    spans: list[list[tuple[int, int]]] = []
    for exchanges in conversations:
        text, row_spans = "", []
        for request, description in exchanges:
            text += (between.removeprefix(end) if text else before_first) + request + before_description.rstrip()
            start = len(text)
            text += f" {description}{end}"
            row_spans.append((start, len(text)))
        texts.append(text)
        spans.append(row_spans)
    encoded = processor.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    tokens = torch.full((len(texts), length), processor.tokenizer.pad_token_id)
    loss_mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, (ids, offsets, row_spans) in enumerate(
        zip(encoded["input_ids"], encoded["offset_mapping"], spans, strict=True)
    ):
        starts = [start for start, _ in offsets]
        if image_tokens:
            # Replace the one image token of the template by as many as the image has.
            position, extra = ids.index(processor.image_token_id), image_tokens - 1
            ids[position:position] = [ids[position]] * extra
            starts[:0] = [0] * extra
        for start, end in row_spans:
            first_token, last_token = bisect.bisect_left(starts, start), bisect.bisect_left(starts, end)
            if last_token > length:
                break
            tokens[row, :last_token] = torch.tensor(ids[:last_token])
            loss_mask[row, first_token:last_token] = True
        if not loss_mask[row].any():
            # The description of a scene with very many things is too long: the row begins with the next exchange.
            rest = conversations[row][1:]
            if not rest:
                raise TuningError(f"no exchange about an image fits into a row of {length} tokens: raise `tokens`")
            tokens[row : row + 1], loss_mask[row : row + 1] = _tokenize(
                processor, [rest], image_tokens=image_tokens, length=length
            )
    return tokens, loss_mask


def _messages(exchanges: Sequence[Exchange], *, with_image: bool) -> list[dict[str, Any]]:
    """Return exchanges as chat messages, with the image, if there is one, in the first."""
    messages: list[dict[str, Any]] = []
    for request, description in exchanges:
        image_content = [{"type": "image"}] if with_image and not messages else []
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


def _resume(path: Path, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load the checkpoint into model and optimizers, and return its number of steps; 0 if there is no checkpoint."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path)
    module.load_state_dict(state["model"])
    for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    return int(state["number"])
