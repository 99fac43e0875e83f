"""LLaVA-1.5's processor: a Llama tokenizer, CLIP's image processor, and the chat template that TRL trains with.

The tokenizer cuts text as SentencePiece does. Vicuna brings nothing but `tokenizer.model`; transformers 5.23 orders its
merges by their number rather than by their score, which only shows if spaces follow each other: "a  b" becomes other
tokens than those that Vicuna has learnt.

With chat_template.jinja, TRL reads and learns what LLaVA's own preprocessing (`preprocess_v1` in llava/train/train.py)
reads and learns: the same tokens, the same of them supervised, for a Llama tokenizer with `legacy` set
(`lmsys/vicuna-7b-v1.5` says false) or not. It differs where LLaVA masks a whole row: if a message holds
" ASSISTANT: ", or the last answer is empty, LLaVA learns nothing from the row, and this learns the answers. For a
byte-level tokenizer, which LLaVA-1.5 has not, the two spaces that stand for SentencePiece's are real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError

if TYPE_CHECKING:
    from transformers import LlamaTokenizer, LlavaProcessor


def chat_template() -> str:
    """Return LLaVA-1.5's conversation as a Jinja template with generation marks around what is to be learnt.

    To train, it raises `jinja2.TemplateError` for a text that holds one of the tokenizer's own tokens, such as
    `</s>` or `<image>`, and for roles that do not take turns; the message is one line that says so.
    """
    return (files("compact_hf.models.llava") / "chat_template.jinja").read_text(encoding="utf-8")


def load_llama_tokenizer(model_file: Path, *, legacy: bool = False) -> LlamaTokenizer:
    """Return the tokenizer of a SentencePiece model; it adds no first token, which the chat template writes.

    Args:
        model_file (`Path`): the file `tokenizer.model`.
        legacy (`bool`): Llama's setting of that name: whether text after a special token begins with a space.
            `lmsys/vicuna-7b-v1.5` says false; so does whatever transformers 5.23 saves, as it does not write it.

    Raises:
        TuningError: the file cannot be read, or holds no SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    try:
        # An empty one would pass for a model without pieces.
        sentencepiece_model = SentencePieceProcessor(model_proto=model_file.read_bytes() or b"-")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it holds no SentencePiece model"
        raise TuningError(
            f"the tokenizer {model_file} cannot be read: {reason}; give a Llama's tokenizer.model"
        ) from error
    piece_ids = range(sentencepiece_model.get_piece_size())
    vocabulary = {sentencepiece_model.id_to_piece(piece_id): piece_id for piece_id in piece_ids}
    scores = {
        sentencepiece_model.id_to_piece(piece_id): sentencepiece_model.get_score(piece_id) for piece_id in piece_ids
    }
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores), legacy=legacy)


IMAGE_TOKEN: Final = "<image>"
PAD_TOKEN: Final = "<pad>"


def build_llava_processor(
    tokenizer: Any,
    *,
    image_size: int,
    patch_size: int,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> LlavaProcessor:
    """Return a processor that does to an image what LLaVA-1.5 does, with our chat template.

    An image is padded to a square in the mean color (LLaVA's `expand2square`), scaled to `image_size` and normalized;
    it becomes (image_size / patch_size)^2 tokens: 576 for CLIP ViT-L/14 at 336 pixels.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): that knows `<image>` as one token.
        image_size (`int`): pixels that the vision tower takes on either side.
        patch_size (`int`): pixels of one patch.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): three values, of red, green and blue, 0 to 1.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): likewise.

    Raises:
        ValueError: an image is no whole number of patches.
    """
    from transformers import LlavaProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    if image_size % patch_size:
        raise ValueError(f"{image_size} pixels are no whole number of patches of {patch_size}")
    image_processor = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(image_mean or OPENAI_CLIP_MEAN),
        image_std=list(image_std or OPENAI_CLIP_STD),
    )
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=patch_size,
        # The class token is counted and then left out, as the model does; without it one image token is missing.
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )
