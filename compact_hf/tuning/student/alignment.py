"""Alignment, LLaVA's first stage: a tiny LLaVA with random weights in, one that describes drawn scenes out.

Where LLaVA trains the projector alone, here all is trained, because nothing is pre-trained: the tower has to learn to
see and the language model its language. Every batch is drawn anew from the scenes of its own seeds, so no picture is
seen twice; what a step learns from is a function of its number alone, so a killed run goes on as if it had not been.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.scenes.layout import scene_of
from compact_hf.scenes.scene import Scene
from compact_hf.tuning.progress import without_progress_bars
from compact_hf.tuning.student.descriptions import Exchange, conversation

if TYPE_CHECKING:
    import torch

FIRST_SEED: Final = 2_000_000
"""Of the scenes that are described; releases are made of smaller seeds, evaluation has larger ones reserved."""
_SAVE_EVERY: Final = 100
_WARMUP: Final = 100
"""Steps in which the learning rate rises."""
_FALL: Final = 0.25
"""The last share of the steps, in which it falls. Before, nothing depends on their number, which can still change."""
_CLIP: Final = 1.0


@dataclass(frozen=True, slots=True)
class Alignment:
    """How to align.

    Attributes:
        steps (`int`): optimizer steps.
        batch (`int`): pictures in a step.
        learning_rate (`float`): the highest.
        seed (`int`): of what is said about each picture.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: its number, from 1, and the loss, in nats per token of a description."""

    number: int
    loss: float


def align(
    base: Path,
    out: Path,
    how: Alignment,
    *,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Path:
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
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    with without_progress_bars():
        # At this width plain attention takes three quarters of the time of torch's fused one on a CPU.
        model: Any = LlavaForConditionalGeneration.from_pretrained(base, attn_implementation="eager")
        processor: Any = AutoProcessor.from_pretrained(base)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=how.learning_rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    held = out.with_name(f"{out.name}.part")
    taken = _resumed(held, model, optimizer)
    for number in range(taken + 1, how.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * _share(number, how.steps)
        loss: Any = _loss(model, processor, _drawn(number, how))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if number % _SAVE_EVERY == 0:
            _hold(held, {"number": number, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
        on_step(Step(number, loss.item()))
    with without_progress_bars():
        model.save_pretrained(out)
        processor.save_pretrained(out)
    held.unlink(missing_ok=True)
    return out


def _share(number: int, steps: int) -> float:
    """Return the share of the highest learning rate that step `number` takes: it rises, stays, and falls to nought."""
    return min(1.0, number / _WARMUP, (steps - number + 1) / (_FALL * steps + 1))


def _drawn(number: int, how: Alignment) -> list[tuple[Scene, list[Exchange]]]:
    first = FIRST_SEED + (number - 1) * how.batch
    scenes = (scene_of(seed) for seed in range(first, first + how.batch))
    return [(scene, conversation(scene, random.Random(f"{how.seed} {scene.seed}"))) for scene in scenes]


def _loss(model: Any, processor: Any, drawn: Sequence[tuple[Scene, list[Exchange]]]) -> torch.Tensor:
    """Return the mean loss over the tokens of the descriptions (and the end tokens after them)."""
    import torch

    from compact_hf.scenes.render import render

    pictures = [render(scene) for scene, _ in drawn]
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    tokens, learnt = _rows(processor, [said for _, said in drawn], image_tokens=model.config.image_seq_length)
    # The logits of everything else, two thirds of a row, would be worked out for nothing. Padding stands behind, where
    # nothing that comes before can see it, so that no mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens, pixel_values=pixels, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][learnt[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][learnt[:, 1:]])


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
