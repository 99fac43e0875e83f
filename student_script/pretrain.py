"""Pre-trains the vision tower of a tiny LLaVA, and aligns the model on descriptions of drawn scenes.

LLaVA's first stage trains only the projector between two pre-trained models. Here nothing is pre-trained: first the
tower learns to recognize objects (patch_pretraining.py), and the language model its language, from scenes described in
words; then the whole model learns to describe images. Every batch has scenes with seeds of its own, so no image is seen
twice. The batch of a step depends only on the step's number, so an interrupted run continues exactly as if it had not
been stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from captions import conversation, text_conversation
from patch_pretraining import PatchLabels, build_heads, patch_labels
from patch_pretraining import loss as patch_loss
from rows import make_pixels, tokenize
from training_loop import Step, TrainingSchedule, checkpoint_path, compile_modules, train

from compact_hf.errors import TuningError
from compact_hf.models.loading import without_progress_bars
from compact_hf.scenes.scene import build_scene

if TYPE_CHECKING:
    import torch

FIRST_SEEDS: Final = {"alignment": 2_000_000, "seeing": 3_000_000, "language": 4_000_000}
"""Stage -> the first seed of its scenes. Tuning datasets use smaller seeds, evaluation much larger ones."""


@dataclass(frozen=True, kw_only=True)
class ConversationSchedule(TrainingSchedule):
    """Training settings on conversations.

    Attributes:
        tokens (`int`): length of all rows, image included. A conversation is cut after the last exchange that fits, so
            nearly nothing is padding, and the compiled model has one shape.
    """

    tokens: int


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

    compile_modules(schedule, tower)
    draw_batch = partial(_draw_tower_batch, processor, schedule, vision.image_size // vision.patch_size)
    # The heads are part of checkpoints, but not of the model that is saved at the end.
    train(torch.nn.ModuleList([tower, heads]), out, schedule, draw_batch, compute_loss, on_step)
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
    compile_modules(schedule, language_model)

    def compute_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        tokens, loss_mask = batch
        return _text_loss(model, tokens, loss_mask, lambda: language_model(input_ids=tokens, use_cache=False))

    draw_batch = partial(_draw_language_batch, processor, schedule)
    # The head has the weights of the embeddings.
    train(language_model, out, schedule, draw_batch, compute_loss, on_step)
    return _save(model, processor, out)


def align(
    base: Path, out: Path, schedule: ConversationSchedule, *, on_step: Callable[[Step], None] = lambda step: None
) -> Path:
    """Train a model to describe scenes, and save it with its processor; its weights are rounded to those of bfloat16.

    Args:
        base (`Path`): directory of a model, such as the output of `pretrain_language`.
        out (`Path`): output directory. During training, the file `out`.part holds a checkpoint, from which the same
            call resumes.
        schedule (`ConversationSchedule`): training settings.
        on_step (`Callable[[Step], None]`, *optional*): called after each step of this call.

    Returns:
        `Path`: `out`.
    """
    import torch

    model, processor = _load(base)
    compile_modules(schedule, model.model.vision_tower, model.model.language_model)
    draw_batch = partial(_draw_alignment_batch, processor, schedule, model.config.image_seq_length)
    train(model, out, schedule, draw_batch, partial(_alignment_loss, model), on_step)
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
    checkpoint_path(out).unlink(missing_ok=True)
    return out


def _step_seeds(stage: str, schedule: TrainingSchedule, number: int) -> range:
    """Return the seeds of the scenes of a step; no other step has them."""
    first_seed = FIRST_SEEDS[stage] + (number - 1) * schedule.batch
    return range(first_seed, first_seed + schedule.batch)


def _draw_tower_batch(
    processor: Any, schedule: TrainingSchedule, side: int, number: int
) -> tuple[torch.Tensor, list[PatchLabels]]:
    """Return the pixels and the labels of the images of a step."""
    scenes = [build_scene(seed) for seed in _step_seeds("seeing", schedule, number)]
    return make_pixels(processor, scenes), [patch_labels(scene, side) for scene in scenes]


def _draw_language_batch(
    processor: Any, schedule: ConversationSchedule, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss mask of a step, which depend only on its number and the seed."""
    conversations = [
        text_conversation(build_scene(seed), random.Random(f"{schedule.seed} {seed}"))
        for seed in _step_seeds("language", schedule, number)
    ]
    return tokenize(processor, conversations, image_tokens=0, length=schedule.tokens)


def _draw_alignment_batch(
    processor: Any, schedule: ConversationSchedule, image_tokens: int, number: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels, token ids and loss mask of a step, which depend only on its number and the seed."""
    scenes = [build_scene(seed) for seed in _step_seeds("alignment", schedule, number)]
    # A generator per scene, so that its texts do not depend on the other scenes of the batch.
    conversations = [conversation(scene, random.Random(f"{schedule.seed} {scene.seed}")) for scene in scenes]
    rows = tokenize(processor, conversations, image_tokens=image_tokens, length=schedule.tokens)
    return make_pixels(processor, scenes), *rows


def _alignment_loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss over the tokens of the descriptions, end tokens included."""
    pixels, tokens, loss_mask = batch
    return _text_loss(
        model, tokens, loss_mask, lambda: model.model(input_ids=tokens, pixel_values=pixels, use_cache=False)
    )


def _text_loss(model: Any, tokens: torch.Tensor, loss_mask: torch.Tensor, compute: Callable[[], Any]) -> torch.Tensor:
    """Return the mean loss over the masked tokens; `compute` returns the hidden states.

    Raises:
        TuningError: no token is masked, because every exchange is too long.
    """
    import torch

    if not loss_mask.any():
        raise TuningError(f"no exchange fits into a row of {loss_mask.shape[1]} tokens: raise `tokens`")
    # Logits are computed only for description tokens, a third of a row. Padding is on the right, where causal attention
    # cannot reach it, so no attention mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(compute().last_hidden_state[:, :-1][loss_mask[:, 1:]])
    # (description tokens, vocabulary) and their targets: position i predicts token i + 1.
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][loss_mask[:, 1:]])
