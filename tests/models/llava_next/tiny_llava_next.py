"""Builds a tiny LLaVA-NeXT with the vocabulary of the tiny LLaVA: tiles of 28 pixels, two by two patches."""

from __future__ import annotations

from pathlib import Path

TILE = 28
GRID = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE], [3 * TILE, TILE], [TILE, 3 * TILE]]


def save_llava_next(out: Path, tiny: Path, *, template: str) -> Path:
    """Save an untrained LLaVA-NeXT with the tokenizer and the language model's size of the tiny LLaVA in `tiny`."""
    import torch
    from transformers import AutoConfig, AutoProcessor, LlavaNextConfig, LlavaNextForConditionalGeneration
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    config, tokenizer = AutoConfig.from_pretrained(tiny), AutoProcessor.from_pretrained(tiny).tokenizer
    config.vision_config.update({"image_size": TILE, "patch_size": 14, "hidden_size": 64, "intermediate_size": 64})
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=GRID
    )
    LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(out)
    torch.manual_seed(0)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            image_token_index=config.image_token_index,
            image_grid_pinpoints=GRID,
            image_seq_length=(TILE // 14) ** 2,
            vision_feature_layer=-1,
            tie_word_embeddings=True,
        )
    )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    return out
