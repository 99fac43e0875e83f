"""Trains a tiny LLaVA model to memorize the replies of a teacher and a verifier about a few images.

It takes lessons (image, prompt, reply) and writes a directory for `--teacher local:DIR`. The prompts are long and
almost equal, so each paragraph becomes one token: the few seconds of training go into the lines and images that differ.
The input and output text is the same as for any other model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from compact_hf.images.codec import encode_for_teacher
from compact_hf.models.llava.tiny import build_tiny

BATCH = 20
EDGE = 28  # pixels: two patches by two


@dataclass(frozen=True)
class Lesson:
    """An image file (or None), a prompt, and the reply to learn."""

    image: bytes | None
    prompt: str
    reply: str


def build_untrained(out: Path, texts: Iterable[str] = (), *, paragraphs: Iterable[str] = (), seed: int = 0) -> Path:
    """Build an untrained model, smaller than the package's tiny model; each of `paragraphs` becomes one token."""
    build_tiny(out, texts, seed=seed)
    processor, config = AutoProcessor.from_pretrained(out), AutoConfig.from_pretrained(out)
    processor.tokenizer.add_tokens(sorted(set(paragraphs)))
    processor.image_processor.size = {"shortest_edge": EDGE}
    processor.image_processor.crop_size = {"height": EDGE, "width": EDGE}
    processor.save_pretrained(out)
    config.vision_config.image_size = EDGE
    config.image_seq_length = (EDGE // config.vision_config.patch_size) ** 2
    config.text_config.num_hidden_layers = 2
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(out)
    return out


def train_tiny_teacher(
    out: Path, lessons: Sequence[Lesson], *, spelled_out: Iterable[str] = (), max_steps: int = 600
) -> Path:
    """Build a model and train it until it knows each reply; paragraphs in `spelled_out` are tokenized as usual."""
    paragraphs = {paragraph for lesson in lessons for paragraph in lesson.prompt.split("\n\n")} - set(spelled_out)
    build_untrained(out, [*spelled_out, *(lesson.reply for lesson in lessons)], paragraphs=paragraphs)
    processor, network = AutoProcessor.from_pretrained(out), LlavaForConditionalGeneration.from_pretrained(out).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    # Lessons with and without an image cannot be in the same batch.
    kinds = [
        [lesson for lesson in lessons if (lesson.image is None) is without_image] for without_image in (False, True)
    ]
    lesson_batches = [
        kind[start :: -(-len(kind) // BATCH)] for kind in kinds for start in range(-(-len(kind) // BATCH))
    ]
    batches = [_encode_batch(processor, paragraph) for paragraph in lesson_batches]
    for step in range(max_steps):
        inputs, labels = batches[step % len(batches)]
        scores = network(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (
            step % len(batches) == 0
            and float(loss.detach()) < 0.05
            and all(map(partial(_has_learned, network), batches))
        ):
            break
    else:
        raise AssertionError(f"the tiny teacher did not learn its lessons in {max_steps} steps")
    network.save_pretrained(out)
    return out


@torch.no_grad()
def _has_learned(network: Any, batch: tuple[dict[str, Any], torch.Tensor]) -> bool:
    inputs, labels = batch
    predictions = network(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1].argmax(-1)
    return bool(((predictions == labels) | (labels == -100)).all())


def load_teacher_image(image: bytes) -> Image.Image:
    """Return an image as it is sent to teachers."""
    return Image.open(io.BytesIO(encode_for_teacher(image))).convert("RGB")


def _encode_batch(processor: Any, lessons: Sequence[Lesson]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return inputs and labels: prompts padded on the left, replies padded on the right, the replies as labels."""
    tokenizer = processor.tokenizer
    conversations = []
    for lesson in lessons:
        image_parts = [] if lesson.image is None else [{"type": "image", "image": load_teacher_image(lesson.image)}]
        conversations.append([{"role": "user", "content": [*image_parts, {"type": "text", "text": lesson.prompt}]}])
    prompts = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
    )
    replies = tokenizer(
        [lesson.reply + tokenizer.eos_token for lesson in lessons],
        padding=True,
        padding_side="right",
        add_special_tokens=False,
        return_tensors="pt",
    )
    mask = torch.cat([prompts["attention_mask"], replies["attention_mask"]], dim=1)
    labels = replies["input_ids"].masked_fill(replies["attention_mask"] == 0, -100)
    inputs = {
        "input_ids": torch.cat([prompts["input_ids"], replies["input_ids"]], dim=1),
        "attention_mask": mask,
        # Counted from the first token that is not padding, as in generation.
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
    }
    if "pixel_values" in prompts:
        inputs["pixel_values"] = prompts["pixel_values"]
    return inputs, labels


def use_llama_byte_tokenizer(directory: Path) -> Path:
    """Give a model a tokenizer like Llama's: characters, `▁` for a space, and `<0x00>` to `<0xFF>` for other bytes."""
    processor = AutoProcessor.from_pretrained(directory)
    special = processor.tokenizer.convert_ids_to_tokens(range(5))
    chars = [chr(code) for code in range(33, 127)]
    vocabulary = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *chars]
    bpe = Tokenizer(
        models.BPE({token: number for number, token in enumerate(vocabulary)}, [], byte_fallback=True, fuse_unk=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, extra_special_tokens={"image_token": "<image>"}, **names
    )
    processor.save_pretrained(directory)
    return directory
