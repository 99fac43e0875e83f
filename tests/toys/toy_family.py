"""A model family as somebody else's package of one file has it: an architecture that transformers has no class for.

Copied into a site directory of its own by test_toy_family.py; nothing else in this repository knows it.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
from transformers.models.llava.processing_llava import LlavaProcessor

from compact_hf.models.family import ModelFamily, Part


class ToyConfig(LlavaConfig):
    model_type = "toy_vlm"


class ToyModel(LlavaModel):
    """A tower and a language model with one linear layer between them, under a name of its own."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        del self.multi_modal_projector
        self.bridge = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.post_init()

    def get_image_features(self, pixel_values: Any, **_: Any) -> Any:
        outputs = self.vision_tower(pixel_values, return_dict=True)
        outputs.pooler_output = tuple(self.bridge(outputs.last_hidden_state[:, 1:]))
        return outputs


class ToyForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.model = ToyModel(config)
        self.post_init()


class ToyProcessor(LlavaProcessor):
    pass


class ToyFamily(ModelFamily):
    label = "Toy"
    parts = {  # noqa: RUF012  # as a family is most easily written
        "projector": Part(("bridge",), r".*\.bridge"),
        "language_model": Part(("language_model", "lm_head"), r".*language_model.*\.(q_proj|v_proj)"),
        "tower": Part(("vision_tower",), r".*vision_tower.*\.(q_proj|v_proj)"),
    }
    card_text = "Loading it takes `import toy_family` first."

    def register(self) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        AutoConfig.register("toy_vlm", ToyConfig, exist_ok=True)
        AutoModelForImageTextToText.register(ToyConfig, ToyForConditionalGeneration, exist_ok=True)
        AutoProcessor.register(ToyConfig, ToyProcessor, exist_ok=True)
