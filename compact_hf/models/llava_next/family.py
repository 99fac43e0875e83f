"""LLaVA-NeXT (LLaVA-1.6): LLaVA's parts, and each image as a whole and in tiles, whose number its shape decides."""

from __future__ import annotations

from typing import Any, ClassVar

from compact_hf.models.family import ModelFamily, Part
from compact_hf.models.llava.family import LLAVA_PARTS, llava_part_inputs


class LlavaNext(ModelFamily):
    """transformers' `llava_next`.

    Its checkpoints differ in their language models, and so in their conversations: no template goes with all of them.
    TRL has one to train with for that of `llava-v1.6-mistral-7b-hf`.
    """

    label = "LLaVA-NeXT"
    parts: ClassVar = {
        **LLAVA_PARTS,
        # The vector that ends each row of tiles is made by no module.
        "projector": Part(
            LLAVA_PARTS["projector"].modules, LLAVA_PARTS["projector"].lora_targets, parameters=("image_newline",)
        ),
    }
    processor_settings = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    lmms_eval_model = "llava_hf"
    card_text = (
        "An image is read as a whole and in tiles, in the grid of `image_grid_pinpoints` that suits its shape: a wide "
        "or a tall image becomes another number of tokens than a square one."
    )

    def count_image_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """Computed from the grid alone, as the processor does it: no image is cut into tiles for it."""
        width, height = size
        return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """As many tiles of each image as there can be, and the whole of it."""
        tile = config.vision_config.image_size
        tiles = 1 + max((height // tile) * (width // tile) for height, width in config.image_grid_pinpoints)
        return llava_part_inputs(config, num_images * tiles)
