"""Seeing and alignment: a tiny LLaVA with random weights in, one that describes drawn scenes out.

Where LLaVA's first stage trains the projector alone, here nothing is pre-trained: first the tower learns to see
(patch_pretraining.py), then all of it learns to describe, which is where the language model gets its language. Every
batch is drawn anew from the scenes of its own seeds, so no picture is seen twice; what a step learns from is a function
of its number alone, so a killed run goes on as if it had not been.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from captions import Exchange, conversation, glance
from patch_pretraining import heads
from patch_pretraining import loss as seeing_loss

from compact_hf.models.loading import without_progress_bars
from compact_hf.scenes.scene import Scene, scene_of

if TYPE_CHECKING:
    import torch

FIRST_SEED: Final = 2_000_000
"""Of the scenes that are described; releases are made of smaller seeds, evaluation has larger ones reserved."""
FIRST_SEEN: Final = 3_000_000
"""Of the scenes that the tower learns to see by."""
_SAVE_EVERY: Final = 100
_WARMUP: Final = 50
"""Steps in which the learning rate rises."""
_FALL: Final = 0.25
"""The last share of the steps, in which it falls. Before, nothing depends on their number, which can still change."""
_CLIP: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """How long to learn.

    Attributes:
        steps (`int`): optimizer steps.
        batch (`int`): pictures in a step.
        learning_rate (`float`): the highest.
        seed (`int`): of what is drawn by lot besides the scenes.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Alignment(Lessons):
    """How to align.

    Attributes:
        glances (`int`): in how many of them, the first, each picture has a glance only. In a long description the words
            that went before tell much of what comes; who learns from that first is slow to look.
    """

    glances: int


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: its number, from 1, and the loss, in nats per token of a description."""

    number: int
    loss: float


def see(base: Path, out: Path, how: Lessons, *, on_step: Callable[[Step], None] = lambda step: None) -> Path:
    """Teach the tower of the model in `base` to tell things apart, and save the whole model in `out`.

    Arguments as for `align`.
    """
    import torch

    model, processor = _loaded(base)
    tower, vision = model.model.vision_tower, model.config.vision_config
    side = vision.image_size // vision.patch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        answering = heads(vision.hidden_size)

    def of(number: int) -> torch.Tensor:
        first = FIRST_SEEN + (number - 1) * how.batch
        scenes = [scene_of(seed) for seed in range(first, first + how.batch)]
        with torch.autocast("cpu", torch.bfloat16):
            features = tower(_pixels(processor, scenes)).last_hidden_state[:, 1:]
            logits = answering(features)
        return seeing_loss(logits, scenes, side)

    _train(torch.nn.ModuleList([tower, answering]), out, how, of, on_step)
    return _saved(model, processor, out)


def align(base: Path, out: Path, how: Alignment, *, on_step: Callable[[Step], None] = lambda step: None) -> Path:
    """Train the model in `base` to describe scenes, and save it with its processor in `out`.

    Args:
        base (`Path`): a folder that `build_tiny` made.
        out (`Path`): where the aligned model goes; while it is trained, `out`.part holds where it stands, and the same
            call goes on from there.
        how (`Alignment`)
        on_step (`Callable[[Step], None]`, *optional*): called after each step that is taken now.

    Returns:
        `Path`: `out`.
    """
    model, processor = _loaded(base)
    _train(model, out, how, lambda number: _loss(model, processor, _drawn(number, how)), on_step)
    return _saved(model, processor, out)


def _loaded(base: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    with without_progress_bars():
        # At this width plain attention takes three quarters of the time of torch's fused one on a CPU.
        model = LlavaForConditionalGeneration.from_pretrained(base, attn_implementation="eager")
        return model, AutoProcessor.from_pretrained(base)


def _saved(model: Any, processor: Any, out: Path) -> Path:
    half = out.with_name(f"{out.name}.half")
    with without_progress_bars():
        model.save_pretrained(half)
        processor.save_pretrained(half)
    half.rename(out)
    _held(out).unlink(missing_ok=True)
    return out


def _train(
    trained: Any, out: Path, how: Lessons, loss_of: Callable[[int], torch.Tensor], on_step: Callable[[Step], None]
) -> None:
    """Take the steps that are not taken yet, each on the loss of its number."""
    import torch

    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=how.learning_rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    for number in range(_resumed(_held(out), trained, optimizer) + 1, how.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * _share(number, how.steps)
        loss: Any = loss_of(number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if number % _SAVE_EVERY == 0:
            _hold(_held(out), {"number": number, "model": trained.state_dict(), "optimizer": optimizer.state_dict()})
        on_step(Step(number, loss.item()))


def _share(number: int, steps: int) -> float:
    """Return the share of the highest learning rate that step `number` takes: it rises, stays, and falls to nought."""
    return min(1.0, number / _WARMUP, (steps - number + 1) / (_FALL * steps + 1))


def _drawn(number: int, how: Alignment) -> list[tuple[Scene, list[Exchange]]]:
    first = FIRST_SEED + (number - 1) * how.batch
    scenes = (scene_of(seed) for seed in range(first, first + how.batch))
    said = glance if number <= how.glances else conversation
    return [(scene, said(scene, random.Random(f"{how.seed} {scene.seed}"))) for scene in scenes]


def _loss(model: Any, processor: Any, drawn: Sequence[tuple[Scene, list[Exchange]]]) -> torch.Tensor:
    """Return the mean loss over the tokens of the descriptions (and the end tokens after them)."""
    import torch

    pixels = _pixels(processor, [scene for scene, _ in drawn])
    tokens, learnt = _rows(processor, [said for _, said in drawn], image_tokens=model.config.image_seq_length)
    # The logits of everything else, two thirds of a row, would be worked out for nothing. Padding stands behind, where
    # nothing that comes before can see it, so that no mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens, pixel_values=pixels, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][learnt[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][learnt[:, 1:]])


def _pixels(processor: Any, scenes: Sequence[Scene]) -> torch.Tensor:
    """Return the pictures (scenes, 3, edge, edge) as the processor does, at a third of its time."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    from compact_hf.scenes.render import render

    images = processor.image_processor
    edge = images.crop_size["height"]
    small = [np.asarray(render(scene).resize((edge, edge), Resampling.BICUBIC)) for scene in scenes]
    pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.image_mean, images.image_std))
    return (pixels - mean) / std


def _rows(
    processor: Any, conversations: Sequence[Sequence[Exchange]], *, image_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, and which of them are learnt, (rows, tokens) each, padded behind.

    The processor does the same with `return_assistant_tokens_mask`, at five times the time.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    told = processor.tokenizer.apply_chat_template(
        [_messages(exchanges) for exchanges in conversations],
        chat_template=processor.chat_template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    tokens, learnt = [], []
    for ids, mask in zip(told["input_ids"], told["assistant_masks"], strict=True):
        at, more = ids.index(processor.image_token_id), image_tokens - 1
        tokens.append(torch.tensor([*ids[:at], *[ids[at]] * more, *ids[at:]]))
        learnt.append(torch.tensor([*mask[:at], *[0] * more, *mask[at:]], dtype=torch.bool))
    padding = processor.tokenizer.pad_token_id
    return pad_sequence(tokens, batch_first=True, padding_value=padding), pad_sequence(learnt, batch_first=True)


def _messages(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for request, description in exchanges:
        shown = [] if messages else [{"type": "image"}]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": request}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": description}]})
    return messages


def _held(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _hold(path: Path, state: dict[str, Any]) -> None:
    import torch

    # Renamed when it is whole, so that a kill cannot leave half a state behind.
    half = path.with_suffix(".half")
    torch.save(state, half)
    os.replace(half, path)


def _resumed(path: Path, model: Any, optimizer: Any) -> int:
    """Give model and optimizer the state that `path` holds, and return how many steps it has behind it."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["number"])
