"""How LLaVA-1.5 sees and reads: a tokenizer and a picture's edge in, a processor that pads, scales and counts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compact_hf.models.llava.chat_template import chat_template

if TYPE_CHECKING:
    from transformers import LlavaProcessor

IMAGE_TOKEN: Final = "<image>"
PAD_TOKEN: Final = "<pad>"


def llava_processor(
    tokenizer: Any,
    *,
    image_edge: int,
    patch_edge: int,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> LlavaProcessor:
    """Return a processor that does to a picture what LLaVA-1.5 does, with our chat template.

    A picture is padded to a square in the mean color (LLaVA's `expand2square`), scaled to `image_edge` and normalized;
    it becomes (image_edge / patch_edge)^2 tokens: 576 for CLIP ViT-L/14 at 336 pixels.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): that knows `<image>` as one token.
        image_edge (`int`): pixels that the vision tower takes on either side.
        patch_edge (`int`): pixels of one patch.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): three values, of red, green and blue, 0 to 1.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): likewise.

    Raises:
        ValueError: a picture is no whole number of patches.
    """
    from transformers import LlavaProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    if image_edge % patch_edge:
        raise ValueError(f"{image_edge} pixels are no whole number of patches of {patch_edge}")
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": image_edge},
        crop_size={"height": image_edge, "width": image_edge},
        image_mean=list(image_mean or OPENAI_CLIP_MEAN),
        image_std=list(image_std or OPENAI_CLIP_STD),
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=patch_edge,
        # The class token is counted and then left out, as the model does; without it one image token is missing.
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )
