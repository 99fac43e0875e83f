"""Builds config, processor and generation config of a base from those of its parts.

As in LLaVA-1.5, image features are those of the vision tower's second-to-last layer, without the class token. The
tokens `<image>` and `<pad>` are appended to the language model's vocabulary, whose size is then rounded up to a
multiple of 64. For Vicuna the two tokens have the ids 32000 and 32001 and the vocabulary has 32064 rows, as in
llava-hf's conversions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.llava.parts import Part, read_part_json
from compact_hf.models.llava.processor import IMAGE_TOKEN, PAD_TOKEN, build_llava_processor, load_llama_tokenizer
from compact_hf.models.loading import LOAD_ERRORS, first_line, translate_load_errors, without_progress_bars

if TYPE_CHECKING:
    from transformers import GenerationConfig, LlavaConfig, LlavaProcessor

FEATURE_LAYER: Final = -2
_VOCAB_MULTIPLE: Final = 64
_LANGUAGE_MODEL_TYPE: Final = "llama"
_VISION_MODEL_TYPES: Final = ("clip", "clip_vision_model")
# Settings that LLaVA saves with a projector. A projector is useless on other image features than it was trained on.
_PROJECTOR_SETTINGS: Final = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": FEATURE_LAYER,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
}


def build_base_config(language: Part, vision: Part, projector: Part) -> LlavaConfig:
    """Return the base's config, without a dtype.

    Args:
        language (`Part`): the language model, a Llama.
        vision (`Part`): the vision tower, a CLIP.
        projector (`Part`): the projector.

    Raises:
        TuningError: if a part is of an unsupported kind, or its config cannot be read.
    """
    from transformers import LlavaConfig

    text_config = _load_language_config(language)
    vision_config = _load_vision_config(vision)
    if "config.json" in projector.files:
        _check_projector_features(projector)
    vocab_size, image_size = text_config.vocab_size, vision_config.image_size
    if image_size % vision_config.patch_size:
        raise TuningError(
            f"{vision} has an image size of {image_size} pixels, which is not a multiple of its patch size "
            f"{vision_config.patch_size}: fix its config.json"
        )
    # -(-a // b) rounds up; two rows are needed for `<image>` and `<pad>`.
    text_config.vocab_size = -(-(vocab_size + 2) // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
    text_config.pad_token_id = vocab_size + 1
    for config in (text_config, vision_config):
        # Do not publish local paths. The dtype is set for the whole model.
        config.name_or_path = ""
        config.dtype = None
        # The parts are no models of their own in the base.
        config.architectures = None
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=vocab_size,
        image_seq_length=(image_size // vision_config.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=FEATURE_LAYER,
        tie_word_embeddings=text_config.tie_word_embeddings,
        pad_token_id=vocab_size + 1,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    return config


def build_base_processor(language: Part, vision: Part, config: LlavaConfig) -> LlavaProcessor:
    """Return the base's processor.

    Its tokenizer is the language model's, with two additional tokens. It pads on the left, as batched generation
    requires; trainers set the side themselves.

    Args:
        language (`Part`): the language model.
        vision (`Part`): the vision tower.
        config (`LlavaConfig`): the base's config.

    Raises:
        TuningError: if the tokenizer cannot be read, does not fit the language model, or has one of the tokens already.
    """
    tokenizer = _load_tokenizer(language)
    image_token_id = config.image_token_index
    # Otherwise the ids of the added tokens would already have rows in the embeddings, or skip some.
    if len(tokenizer) != image_token_id:
        raise TuningError(
            f"the tokenizer of {language} has {len(tokenizer)} tokens, but its model has {image_token_id}: give a "
            "model with equal numbers, so that the added tokens get unused ids"
        )
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, PAD_TOKEN]) != [image_token_id, image_token_id + 1]:
        raise TuningError(f"the tokenizer of {language} has {IMAGE_TOKEN} or {PAD_TOKEN} already: give a plain Llama")
    # transformers 5.23 does not save these two settings by itself, and would load the opposite defaults.
    tokenizer.init_kwargs |= {"legacy": getattr(tokenizer, "legacy", False), "padding_side": "left"}
    image_settings = read_part_json(vision, "preprocessor_config.json")
    return build_llava_processor(
        tokenizer,
        image_size=config.vision_config.image_size,
        patch_size=config.vision_config.patch_size,
        image_mean=image_settings.get("image_mean"),
        image_std=image_settings.get("image_std"),
    )


def build_generation_config(config: LlavaConfig) -> GenerationConfig:
    """Return a generation config with greedy decoding; Vicuna's sampling (temperature 0.9, top-p 0.6) is for chat.

    Args:
        config (`LlavaConfig`): the base's config, which has the ids of special tokens.
    """
    from transformers import GenerationConfig

    text_config = config.text_config
    return GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
    )


def _load_language_config(part: Part) -> Any:
    """Return the config of the language model; refuse anything but an unquantized Llama."""
    config = _load_config(part)
    if config.model_type == "llava":
        raise TuningError(f"{part} is a LLaVA already: give the Llama it was made from, or use it without assembling")
    if config.model_type != _LANGUAGE_MODEL_TYPE:
        raise TuningError(f"{part} has the model type {config.model_type}: give a Llama, such as Vicuna")
    if getattr(config, "quantization_config", None):
        raise TuningError(f"{part} is quantized: give it in full precision, recipes can quantize it when it is loaded")
    return config


def _load_vision_config(part: Part) -> Any:
    """Return the config of the vision transformer, from a CLIP or its vision model; refuse other models."""
    config = _load_config(part)
    if config.model_type not in _VISION_MODEL_TYPES:
        raise TuningError(f"{part} has the model type {config.model_type}: give a CLIP with a vision transformer")
    return config.vision_config if config.model_type == "clip" else config


def _load_config(part: Part) -> Any:
    """Return the config of a part; its weights are not downloaded."""
    from transformers import AutoConfig

    try:
        with translate_load_errors():
            return AutoConfig.from_pretrained(part.fetch(with_weights=False), trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise TuningError(f"the config of {part} cannot be read: {first_line(error)}") from error


def _load_tokenizer(part: Part) -> Any:
    """Return a language model's own tokenizer, from its SentencePiece file if there is one, as in Vicuna."""
    from transformers import AutoTokenizer

    directory = part.fetch(with_weights=False)
    if "tokenizer.model" not in part.files:
        try:
            with without_progress_bars(), translate_load_errors():
                return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except LOAD_ERRORS as error:
            raise TuningError(f"the tokenizer of {part} cannot be read: {first_line(error)}") from error
    settings = read_part_json(part, "tokenizer_config.json")
    # The default is true, as it was in the transformers versions of that time.
    tokenizer = load_llama_tokenizer(directory / "tokenizer.model", legacy=settings.get("legacy", True))
    tokenizer.model_max_length = settings.get("model_max_length", tokenizer.model_max_length)
    return tokenizer


def _check_projector_features(projector: Part) -> None:
    """Raise if a projector was trained on image features other than those of LLaVA-1.5."""
    settings = read_part_json(projector, "config.json")
    for name, expected in _PROJECTOR_SETTINGS.items():
        if settings.get(name, expected) != expected:
            raise TuningError(
                f"{projector} was trained with {name} {settings[name]!r}, but LLaVA-1.5 needs {expected!r}: give "
                "another projector"
            )
