"""What the package has to know of a kind of model: its parts, its images' tokens, its template, its card.

A family is a class with this one's members, registered by an entry point whose name is the `model_type` in the model's
config.json. Most families are a few lines, as the defaults suit what transformers has a class and a processor for:

    class SmolVlm(ModelFamily):
        label = "SmolVLM"
        parts = {"projector": Part(("connector",), ...), "language_model": ..., "tower": ...}

    [project.entry-points."compact_hf.model_families"]
    smolvlm = "my_package.smolvlm:SmolVlm"

A family's directory may hold `recipes/*.yaml` and `chat_template.jinja`. `ModelFamily` itself stands for a model of no
registered family: such a model is loaded and asked as any, and not trained.

Names of weights in files are not a member: `from_pretrained` and `save_pretrained` translate between them and the names
in memory, which are those that `parts` has.
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
    """A part of a model, which is trained or frozen as a whole.

    Attributes:
        modules (`tuple[str, ...]`): its modules, by the end of their names in `named_modules`. A parameter in the
            modules of two parts, one inside the other, belongs to the inner one.
        lora_targets (`str`): a regular expression for the whole names of the linear layers that LoRA adapts, as PEFT's
            `target_modules` takes it.
        parameters (`tuple[str, ...]`, *optional*): parameters of it that stand outside these modules. They are trained
            in a full model only: an adapter cannot hold them.
    """

    modules: tuple[str, ...]
    lora_targets: str
    parameters: tuple[str, ...] = ()


class ModelFamily:
    """The rules of one architecture; a family of its own replaces what differs.

    Attributes:
        label (`str`): what people call it.
        parts (`Mapping[str, Part]`): what `compact tune --train` can name, by these names: `projector`,
            `language_model`, `tower`, and whatever else it has.
        max_images (`int`): images that a row to train on may have.
        has_fixed_image_tokens (`bool`): every image becomes as many tokens, whatever its size.
        processor_settings (`tuple[str, ...]`): the keys of processor_config.json on which the number of an image's
            tokens depends.
        base_advice (`str`): what to do about a base whose weights are not what its configuration says.
        lmms_eval_model (`str`, *optional*): lmms-eval's name of what runs it; None where it has none.
        card_text (`str`): Markdown for a tuned model's card, below how to use it.
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
        """Register classes that transformers lacks with its auto classes (`exist_ok=True`): this is called often."""

    def training_template(self, processor: Any) -> str | None:
        """Return the chat template to train with where a processor's own does not mark what is to be learnt.

        It is TRL's where TRL has one for the processor's, so that plain `trl sft` trains on the same tokens; None where
        there is none.
        """
        from trl.chat_template_utils import get_training_chat_template

        try:
            template: str | None = get_training_chat_template(processor)
        except ValueError:  # TRL knows none
            return None
        return template

    def chat_template(self) -> str | None:
        """Return the training template that `compact recipe copy` writes beside a recipe, None where there is none."""
        directory = self.directory()
        path = directory / TEMPLATE_FILE if directory else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else None

    def image_placeholder(self, processor: Any) -> str:
        """Return the token that stands for an image in a conversation that the chat template has rendered."""
        return str(processor.image_token)

    def count_image_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """Return how many tokens the processor puts in the placeholder's place.

        Args:
            processor (`ProcessorMixin`): the model's.
            size (`tuple[int, int]`): the image's width and height, in pixels.
        """
        from PIL import Image

        encoding = processor(
            images=Image.new("RGB", size), text=self.image_placeholder(processor), add_special_tokens=False
        )
        return len(encoding["input_ids"][0])

    def can_share_prefix(self, processor: Any) -> bool:
        """Return whether a prompt up to the end of its image is the same for all questions about the image.

        Then it is computed once (evaluation/inference.py): the cache has to be cut by rows, and `pixel_values` have to
        be all that the processor makes of an image.
        """
        del processor
        return False

    def part_inputs(self, config: Any, num_images: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shapes of what `projector` and `tower` take for so many images, by the names of their arguments.

        The memory estimate runs them on it; the activations of a part that is left out are not counted.
        """
        del config, num_images
        return {}

    def find_part(self, parameter: str) -> str | None:
        """Return the part that a parameter belongs to, by its name in `named_parameters`; None if it is in none."""
        matches = [
            (len(name), part_name)
            for part_name, part in self.parts.items()
            for name in (*part.modules, *part.parameters)
            if f".{name}." in f".{parameter}."
        ]
        return max(matches)[1] if matches else None

    @classmethod
    def directory(cls) -> Path | None:
        """Return the directory of the family's package, None for a family that is a module alone."""
        package = sys.modules[cls.__module__].__package__
        return Path(str(files(package))) if package else None
