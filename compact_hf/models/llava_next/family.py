"""Defines the model family of LLaVA-NeXT (LLaVA-1.6).

Its parts are those of LLaVA. It encodes each image as a whole and in tiles; the image's shape determines their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from compact_hf.models.family import ModelFamily, Part
from compact_hf.models.llava.family import LLAVA_PARTS, llava_part_inputs
from compact_hf.models.llava.processor import PROCESSOR_SETTINGS, complete_llava_processor


class LlavaNext(ModelFamily):
    """The architecture `llava_next` of transformers.

    The checkpoints have different language models and conversation formats, so there is no training template for all
    of them. TRL has one for `llava-v1.6-mistral-7b-hf`.
    """

    label = "LLaVA-NeXT"
    parts: ClassVar = {
        **LLAVA_PARTS,
        # `image_newline`, the vector at the end of each row of patches, is a parameter outside of all modules.
        "projector": Part(
            LLAVA_PARTS["projector"].modules, LLAVA_PARTS["projector"].lora_targets, parameters=("image_newline",)
        ),
    }
    processor_settings = PROCESSOR_SETTINGS
    lmms_eval_model = "llava_hf"
    card_text = (
        "An image is encoded as a whole and in tiles, in the grid of `image_grid_pinpoints` that fits its shape best. "
        "The number of its tokens therefore depends on its shape."
    )

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

    def count_image_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """Return the number of image tokens, computed from the grid as in the processor, without building an image.

        Args:
            processor (`LlavaNextProcessor`): the model's processor.
            size (`tuple[int, int]`): width and height of the image, in pixels.
        """
        width, height = size
        return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the input shapes of tower and projector for the maximum number of tiles, and the whole image.

        Args:
            config (`LlavaNextConfig`): configuration of the model.
            num_images (`int`): number of images in the batch.
        """
        tile = config.vision_config.image_size
        tiles = 1 + max((height // tile) * (width // tile) for height, width in config.image_grid_pinpoints)
        return llava_part_inputs(config, num_images * tiles)
