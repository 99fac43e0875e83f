"""Builds tiny untrained models of other families than LLaVA, with other processors, vision towers and attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "image_size": 28,
    "patch_size": 14,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def save_gemma(out: Path, tiny: Path) -> Path:
    """Save a Gemma 3 model: it has token types, and bidirectional attention on image tokens. `tiny` provides the
    vocabulary.
    """
    names = {"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"}
    tokenizer = _tokenizer(tiny, extra_special_tokens={f"{part}_token": name for part, name in names.items()})
    config = Gemma3Config(
        text_config=TEXT | {"vocab_size": len(tokenizer) + 5, "head_dim": 16},
        vision_config=VISION,
        mm_tokens_per_image=4,
        **{f"{part}_token_index": tokenizer.convert_tokens_to_ids(name) for part, name in names.items()},
    )
    image_processor = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    template = _template("<start_of_image>")
    Gemma3Processor(image_processor, tokenizer, chat_template=template, image_seq_length=4).save_pretrained(out)
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(out)
    return out


def save_idefics(out: Path, tiny: Path) -> Path:
    """Save an Idefics 3 model, the architecture of SmolVLM: it splits images into tiles and encodes each tile."""
    tokenizer = _tokenizer(tiny)
    tokenizer.add_tokens(["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"], special_tokens=True)
    config = Idefics3Config(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer) + 5},
        vision_config=VISION,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    image_processor = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    Idefics3Processor(image_processor, tokenizer, image_seq_len=1, chat_template=_template("<image>")).save_pretrained(
        out
    )
    torch.manual_seed(0)
    Idefics3ForConditionalGeneration(config).save_pretrained(out)
    return out


def _tokenizer(tiny: Path, **kwargs: Any) -> PreTrainedTokenizerFast:
    backend = AutoProcessor.from_pretrained(tiny).tokenizer.backend_tokenizer
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **kwargs)


def _template(image_token: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
        "{{ '" + image_token + "' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %} model:{% endif %}"
    )
