"""Defines the model family of LLaVA-1.5: CLIP, a two-layer projector and a Llama; an image is one square of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from compact_hf.models.family import ModelFamily, Part
from compact_hf.models.llava.processor import PROCESSOR_SETTINGS, complete_llava_processor

LLAVA_PARTS: dict[str, Part] = {
    "projector": Part(("multi_modal_projector",), r".*multi_modal_projector\.(linear_1|linear_2)"),
    # As in LLaVA's own LoRA: all linear layers of the language model except lm_head.
    "language_model": Part(
        ("language_model", "lm_head"),
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    ),
    "tower": Part(("vision_tower",), r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"),
}


class Llava(ModelFamily):
    """The architecture `llava` of transformers."""

    label = "LLaVA"
    parts: ClassVar = LLAVA_PARTS
    has_fixed_image_tokens = True
    processor_settings = PROCESSOR_SETTINGS
    base_advice = "assemble it again with compact base assemble"
    lmms_eval_model = "llava_hf"

    def complete_processor(self, processor: Any, config: Any, saved: Mapping[str, Any]) -> None:
        """Complete and check image token, vocabulary, and the settings that determine the number of image tokens.

        Args:
            processor (`ProcessorMixin`): the model's processor; one of another class than LLaVA's is left as it is.
            config (`PreTrainedConfig`): configuration of the model.
            saved (`Mapping[str, Any]`): content of processor_config.json.

        Raises:
            ValueError: if something is missing that `config` does not determine, or contradicts it.
        """
        complete_llava_processor(processor, config, saved, count_image_tokens=self.count_image_tokens)

    def can_share_prefix(self, processor: Any) -> bool:
        """Return whether the processor is LLaVA's; models of this type can have others, which return more per image.

        Args:
            processor (`ProcessorMixin`): the model's processor.
        """
        from transformers import LlavaProcessor

        return type(processor) is LlavaProcessor

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the input shapes of tower and projector: one square per image.

        Args:
            config (`LlavaConfig`): configuration of the model.
            num_images (`int`): number of images in the batch.
        """
        return llava_part_inputs(config, num_images)


def llava_part_inputs(config: Any, num_squares: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the input shapes of tower and projector: part -> argument -> shape.

    Args:
        config (`PreTrainedConfig`): configuration of the model.
        num_squares (`int`): number of squares, each a whole image or a tile of one.
    """
    vision = config.vision_config
    return {
        "tower": {"pixel_values": (num_squares, 3, vision.image_size, vision.image_size)},
        # Patch features only: LLaVA drops the class token.
        "projector": {"image_features": (num_squares, config.image_seq_length, vision.hidden_size)},
    }
