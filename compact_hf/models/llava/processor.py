"""Builds LLaVA-1.5's processor: a Llama tokenizer, CLIP's image processor, and the chat template for training with TRL.
Completes the processors of other LLaVA models.

The tokenizer splits text exactly as SentencePiece does. Vicuna ships only `tokenizer.model`. When transformers 5.23
converts it, it sorts merges by their id and not by their score, which matters for consecutive spaces: "a  b" would
become other tokens than those that Vicuna was trained on. `load_llama_tokenizer` therefore sorts them by score.

With chat_template.jinja, TRL gets the same tokens, and computes the loss on the same ones, as LLaVA's own preprocessing
(`preprocess_v1` in llava/train/train.py), for a Llama tokenizer with or without `legacy` (false in
`lmsys/vicuna-7b-v1.5`). There is one difference: LLaVA masks a whole row if a message contains " ASSISTANT: " or the
last answer is empty, while this template trains on the answers. With a byte-level tokenizer, which LLaVA-1.5 does not
have, the two spaces that represent SentencePiece's become real spaces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError

if TYPE_CHECKING:
    from transformers import LlamaTokenizer, LlavaProcessor


def chat_template() -> str:
    """Return LLaVA-1.5's conversation format as a Jinja template, with generation marks around the answers.

    In training, the template raises `jinja2.TemplateError` with a one-line message if a text contains a special token,
    such as `</s>` or `<image>`, or if user and assistant do not alternate.
    """
    return (files("compact_hf.models.llava") / "chat_template.jinja").read_text(encoding="utf-8")


def load_llama_tokenizer(model_file: Path, *, legacy: bool = False) -> LlamaTokenizer:
    """Return the tokenizer of a SentencePiece model; it adds no `<s>`, because the chat template does.

    Args:
        model_file (`Path`): the file `tokenizer.model`.
        legacy (`bool`, *optional*, defaults to False): Llama's setting of this name: whether text after a special
            token begins with a space. It is false in `lmsys/vicuna-7b-v1.5`, and in all tokenizers that transformers
            5.23 saves, because it does not save the setting.

    Raises:
        TuningError: if the file cannot be read, or is not a SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    try:
        # An empty file would be accepted as a model without pieces; b"-" makes SentencePiece refuse it.
        sentencepiece_model = SentencePieceProcessor(model_proto=model_file.read_bytes() or b"-")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "not a SentencePiece model"
        raise TuningError(
            f"the tokenizer {model_file} cannot be read ({reason}): give the tokenizer.model of a Llama"
        ) from error
    piece_ids = range(sentencepiece_model.get_piece_size())
    # piece -> id, and piece -> score: merges with a higher score are applied first.
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
    """Return a processor with the image preprocessing of LLaVA-1.5 and our chat template.

    An image is padded to a square with the mean color (LLaVA's `expand2square`), resized to `image_size` and
    normalized. It becomes (image_size / patch_size)^2 tokens: 576 for CLIP ViT-L/14 at 336 pixels.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer with `<image>` as one token.
        image_size (`int`): width and height of the vision tower's input, in pixels.
        patch_size (`int`): width and height of a patch, in pixels.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): mean of red, green and blue, 0 to 1.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of red, green and blue.

    Raises:
        ValueError: if `image_size` is not a multiple of `patch_size`.
    """
    from transformers import LlavaProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    if image_size % patch_size:
        raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
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
        # transformers counts the class token and then subtracts it ("default"), as the model does. With 0 additional
        # tokens, there would be one image token too few.
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )


PROCESSOR_SETTINGS: Final = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
"""Keys of processor_config.json that determine the number of image tokens."""
_ANY_SIZE: Final = (336, 336)
_CLASS_TOKENS: Final = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""`model_type` of a vision tower -> number of features that it adds to those of the patches."""


def complete_llava_processor(
    processor: Any,
    config: Any,
    saved: Mapping[str, Any],
    *,
    count_image_tokens: Callable[[Any, tuple[int, int]], int],
) -> None:
    """Set what the processor of a LLaVA or LLaVA-NeXT lacks, and check that it fits the model.

    Repositories that were saved before transformers 4.45 have no settings for the number of image tokens. If one of
    them is missing, all are taken from the configuration, because they only fit together.

    Args:
        processor (`ProcessorMixin`): the processor, changed in place; one of another class is left as it is.
        config (`LlavaConfig | LlavaNextConfig`): configuration of the model.
        saved (`Mapping[str, Any]`): content of processor_config.json.
        count_image_tokens (`Callable[[Any, tuple[int, int]], int]`): as `ModelFamily.count_image_tokens`.

    Raises:
        ValueError: if something is missing that `config` does not determine, or contradicts it.
    """
    from transformers import LlavaNextProcessor, LlavaProcessor

    if not isinstance(processor, LlavaProcessor | LlavaNextProcessor):
        return
    _complete_image_token(processor, config)
    vision = config.vision_config
    settings = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": _CLASS_TOKENS.get(vision.model_type),
    }
    completed = copy.copy(processor)
    for name, value in settings.items():
        if value is not None:
            setattr(completed, name, value)
    if any(saved.get(name) is None for name in settings):
        vars(processor).update({name: getattr(completed, name) for name in settings})
    if missing := [name for name in settings if getattr(processor, name) is None]:
        raise ValueError(
            f"its processor has no {missing[0]}, and vision_config in config.json has none either: add it to "
            "processor_config.json"
        )
    # Other settings can give the same number: "full" without an additional token is "default" with one.
    actual, expected = count_image_tokens(processor, _ANY_SIZE), count_image_tokens(completed, _ANY_SIZE)
    if actual != expected:
        values = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
        raise ValueError(
            f"its processor makes {actual} tokens per image, and the model expects {expected}: set {values} in "
            "processor_config.json"
        )


def _complete_image_token(processor: Any, config: Any) -> None:
    """Add the image token to a tokenizer that ends before it; raise if the tokenizer does not fit the model."""
    from tokenizers import AddedToken

    tokenizer, token, token_id = processor.tokenizer, processor.image_token, config.image_token_id
    if token not in tokenizer.get_vocab() and len(tokenizer) == token_id:
        # As transformers' conversion of LLaVA does: the token gets the next id, which is the one in config.json.
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
        processor.image_token_id = token_id
    vocabulary = tokenizer.get_vocab()
    if vocabulary.get(token) != token_id:
        position = f"is token {vocabulary[token]}" if token in vocabulary else "is no token"
        raise ValueError(
            f"its image token {token} {position} of the tokenizer, but image_token_index in config.json is {token_id}: "
            "use the tokenizer that the model was trained with, or correct image_token_index"
        )
    rows = config.get_text_config().vocab_size
    if (last := max(vocabulary.values())) >= rows:
        raise ValueError(
            f"its tokenizer has tokens up to {last}, but its embeddings have only {rows:,} rows (vocab_size in "
            "config.json): use the tokenizer that the model was trained with"
        )
