"""LLaVA-1.5: CLIP, a projector of two layers and a Llama; each image becomes one square of tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from compact_hf.models.family import ModelFamily, Part

LLAVA_PARTS: dict[str, Part] = {
    "projector": Part(("multi_modal_projector",), r".*multi_modal_projector\.(linear_1|linear_2)"),
    # Every linear layer of the language model but lm_head, as LLaVA's own LoRA.
    "language_model": Part(
        ("language_model", "lm_head"),
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    ),
    "tower": Part(("vision_tower",), r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"),
}


class Llava(ModelFamily):
    """transformers' `llava`."""

    label = "LLaVA"
    parts: ClassVar = LLAVA_PARTS
    has_fixed_image_tokens = True
    processor_settings = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    base_advice = "assemble it anew with compact base assemble"
    lmms_eval_model = "llava_hf"

    def can_share_prefix(self, processor: Any) -> bool:
        """With LLaVA's own processor: other processors go with this model type, and make something else of an image."""
        from transformers import LlavaProcessor

        return type(processor) is LlavaProcessor

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """One square an image."""
        return llava_part_inputs(config, num_images)


def llava_part_inputs(config: Any, num_squares: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of what tower and projector take for so many squares, each an image or a tile of one."""
    vision = config.vision_config
    return {
        "tower": {"pixel_values": (num_squares, 3, vision.image_size, vision.image_size)},
        # Without the class token, which LLaVA leaves out.
        "projector": {"image_features": (num_squares, config.image_seq_length, vision.hidden_size)},
    }
