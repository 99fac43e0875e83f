"""Defines `ModelFamily`, what the package needs to know about a model architecture.

A family is a subclass, registered by an entry point whose name is the `model_type` in the model's config.json. Most
families take a few lines, because the defaults suit architectures that transformers supports:

    class SmolVlm(ModelFamily):
        label = "SmolVLM"
        parts = {"projector": Part(("connector",), ...), "language_model": ..., "tower": ...}

    [project.entry-points."compact_hf.model_families"]
    smolvlm = "my_package.smolvlm:SmolVlm"

A family's directory may contain `recipes/*.yaml` and `chat_template.jinja`. Models of unregistered architectures use
`ModelFamily` itself: they can be loaded and evaluated, but not trained.

`parts` uses the names of weights in memory. `from_pretrained` and `save_pretrained` translate them from and to the
names in files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final

TEMPLATE_FILE: Final = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model that is trained or frozen as a whole.

    Attributes:
        modules (`tuple[str, ...]`): the part's modules, by the last components of their names in `named_modules`. If
            the modules of two parts are nested, a parameter belongs to the inner one.
        lora_targets (`str`): regular expression for the full names of the linear layers that LoRA adapts, in the syntax
            of PEFT's `target_modules`.
        parameters (`tuple[str, ...]`, *optional*): the part's parameters outside of these modules. They are trained
            only in full tuning, because an adapter cannot hold them.
    """

    modules: tuple[str, ...]
    lora_targets: str
    parameters: tuple[str, ...] = ()


class ModelFamily:
    """The rules of one architecture; subclasses override those that differ.

    Attributes:
        label (`str`): name of the family in messages and cards.
        parts (`Mapping[str, Part]`): the parts that `compact tune --train` can name: `projector`, `language_model`,
            `tower`, and any others.
        max_images (`int`): maximum number of images per training row.
        has_fixed_image_tokens (`bool`): whether every image becomes the same number of tokens, regardless of its size.
        processor_settings (`tuple[str, ...]`): keys of processor_config.json that determine the number of image tokens.
        base_advice (`str`): what to do if the weights of a base do not match its configuration; the end of an error.
        lmms_eval_model (`str`, *optional*): name of the model class in lmms-eval that runs the family, None if there is
            none.
        card_text (`str`): Markdown for a tuned model's card, placed after the usage section.
    """

    label: ClassVar[str] = "vision-language model"
    parts: ClassVar[Mapping[str, Part]] = {}
    max_images: ClassVar[int] = 1
    has_fixed_image_tokens: ClassVar[bool] = False
    processor_settings: ClassVar[tuple[str, ...]] = ()
    base_advice: ClassVar[str] = "fetch or save it again"
    lmms_eval_model: ClassVar[str | None] = None
    card_text: ClassVar[str] = ""

    def register(self) -> None:
        """Register classes that transformers lacks with its auto classes; called repeatedly, so use `exist_ok=True`."""

    def training_template(self, processor: Any) -> str | None:
        """Return the chat template for training, used if the processor's own does not mark the tokens to be learned.

        The default is TRL's counterpart of the processor's template, so that plain `trl sft` trains on the same tokens.

        Args:
            processor (`ProcessorMixin`): the model's processor.

        Returns:
            `str` or `None`: the template; None if there is none.
        """
        from trl.chat_template_utils import get_training_chat_template

        try:
            template: str | None = get_training_chat_template(processor)
        except ValueError:  # TRL has no training template for this one
            return None
        return template

    def chat_template(self) -> str | None:
        """Return the training template that `compact recipe copy` writes next to a recipe, None if there is none."""
        directory = self.directory()
        path = directory / TEMPLATE_FILE if directory else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else None

    def image_placeholder(self, processor: Any) -> str:
        """Return the token that the chat template writes for an image.

        Args:
            processor (`ProcessorMixin`): the model's processor.
        """
        return str(processor.image_token)

    def count_image_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """Return the number of tokens that the processor replaces the placeholder of an image with.

        Args:
            processor (`ProcessorMixin`): the model's processor.
            size (`tuple[int, int]`): width and height of the image, in pixels.
        """
        from PIL import Image

        encoding = processor(
            images=Image.new("RGB", size), text=self.image_placeholder(processor), add_special_tokens=False
        )
        return len(encoding["input_ids"][0])

    def complete_processor(self, processor: Any, config: Any, saved: Mapping[str, Any]) -> None:
        """Set what the files of a processor lack and the model's configuration determines; called after every loading.

        Many models on the Hub were saved before their processors had all settings. The default sets nothing.

        Args:
            processor (`ProcessorMixin`): the model's processor, changed in place.
            config (`PreTrainedConfig`): configuration of the model; of its base for an adapter.
            saved (`Mapping[str, Any]`): content of processor_config.json, empty if there is no such file.

        Raises:
            ValueError: if the configuration does not determine what is missing, or contradicts the processor. The
                message says what to do, and begins with "its", for example "its processor has no patch_size".
        """

    def can_share_prefix(self, processor: Any) -> bool:
        """Return whether all questions about an image can share the computed prompt up to the end of the image.

        Evaluation then computes this prefix once per image (evaluation/inference.py). This requires that the key-value
        cache can be split by rows, and that the processor returns only `pixel_values` for an image.

        Args:
            processor (`ProcessorMixin`): the model's processor.
        """
        del processor
        return False

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the input shapes of `projector` and `tower` for a number of images: part -> argument -> shape.

        The memory estimate runs both parts on inputs of these shapes. It does not count the activations of parts that
        are missing here.

        Args:
            config (`PreTrainedConfig`): configuration of the model.
            num_images (`int`): number of images in the batch.
        """
        del config, num_images
        return {}

    def find_part(self, parameter: str) -> str | None:
        """Return the name of the part that a parameter belongs to, None if it is in no part.

        Args:
            parameter (`str`): name in `named_parameters`.
        """
        # The longest match wins: it is the innermost module.
        matches = [
            (len(name), part_name)
            for part_name, part in self.parts.items()
            for name in (*part.modules, *part.parameters)
            if f".{name}." in f".{parameter}."
        ]
        return max(matches)[1] if matches else None

    @classmethod
    def directory(cls) -> Path | None:
        """Return the directory of the family's package, None if the family is a module without a package."""
        package = sys.modules[cls.__module__].__package__
        return Path(str(files(package))) if package else None
