"""What a base is before it has weights: configs and tokenizer of its parts in, LLaVA's config and processor out.

Image features are taken from the vision tower's last but one layer, without the class token, as LLaVA-1.5 takes them.
The vocabulary grows by `<image>` and `<pad>` behind the language model's own tokens and is padded to a multiple of 64:
for Vicuna 32000, 32001 and 32064 rows, the numbers that llava-hf's conversions have too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.llava.parts import Part, read_json
from compact_hf.models.llava.processor import IMAGE_TOKEN, PAD_TOKEN, build_llava_processor, load_llama_tokenizer
from compact_hf.models.loading import first_line, without_progress_bars

if TYPE_CHECKING:
    from transformers import GenerationConfig, LlavaConfig, LlavaProcessor

FEATURE_LAYER: Final = -2
_VOCAB_MULTIPLE: Final = 64
_LANGUAGE_MODEL_TYPE: Final = "llama"
_VISION_MODEL_TYPES: Final = ("clip", "clip_vision_model")
# What LLaVA writes beside a projector: it was trained on these features, and gives nonsense on others.
_PROJECTOR_SETTINGS: Final = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": FEATURE_LAYER,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
}
# What transformers raises for a config or a tokenizer that lacks something, or holds what it does not know.
_LOAD_ERRORS: Final = (OSError, ValueError, KeyError, TypeError, RuntimeError)


def build_base_config(language: Part, vision: Part, projector: Part) -> LlavaConfig:
    """Return the base's config, without a dtype.

    Raises:
        TuningError: a part is of another kind than it has to be, or has no config that can be read.
    """
    from transformers import LlavaConfig

    text_config = _load_language_config(language)
    vision_config = _load_vision_config(vision)
    if "config.json" in projector.files:
        _check_projector_features(projector)
    vocab_size, image_size = text_config.vocab_size, vision_config.image_size
    if image_size % vision_config.patch_size:
        raise TuningError(
            f"{vision} takes {image_size} pixels, no whole number of its patches of {vision_config.patch_size}"
        )
    text_config.vocab_size = -(-(vocab_size + 2) // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
    text_config.pad_token_id = vocab_size + 1
    for config in (text_config, vision_config):
        # Where it lay here is nobody's business, and the dtype is the whole model's.
        config.name_or_path = ""
        config.dtype = None
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

    Its tokenizer is the language model's with two tokens more. Padding is on the left, as generating in batches needs;
    trainers choose the side themselves.

    Raises:
        TuningError: the tokenizer cannot be read, does not fit the language model, or has these tokens already.
    """
    tokenizer = _load_tokenizer(language)
    image_token_id = config.image_token_index
    if len(tokenizer) != image_token_id:
        raise TuningError(
            f"the tokenizer of {language} has {len(tokenizer)} tokens, its model {image_token_id}; they have "
            "to be the same "
            "for the tokens that are added to have numbers of their own"
        )
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, PAD_TOKEN]) != [image_token_id, image_token_id + 1]:
        raise TuningError(f"the tokenizer of {language} has {IMAGE_TOKEN} or {PAD_TOKEN} already; give a plain Llama")
    # transformers 5.23 writes down neither by itself, and would read the other settings back.
    tokenizer.init_kwargs |= {"legacy": getattr(tokenizer, "legacy", False), "padding_side": "left"}
    image_settings = read_json(vision, "preprocessor_config.json")
    return build_llava_processor(
        tokenizer,
        image_size=config.vision_config.image_size,
        patch_size=config.vision_config.patch_size,
        image_mean=image_settings.get("image_mean"),
        image_std=image_settings.get("image_std"),
    )


def build_generation_config(config: LlavaConfig) -> GenerationConfig:
    """Return greedy decoding with the base's tokens: Vicuna's sampling settings (0.9, top-p 0.6) are for chatting."""
    from transformers import GenerationConfig

    text_config = config.text_config
    return GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
    )


def _load_language_config(part: Part) -> Any:
    config = _load_config(part)
    if config.model_type == "llava":
        raise TuningError(f"{part} is a LLaVA already; there is nothing to assemble, give the Llama it is made from")
    if config.model_type != _LANGUAGE_MODEL_TYPE:
        raise TuningError(f"{part} is of the kind {config.model_type}; LLaVA-1.5 takes a Llama, such as Vicuna")
    if getattr(config, "quantization_config", None):
        raise TuningError(f"{part} is quantized; give the model in full precision, a recipe quantizes it while loading")
    return config


def _load_vision_config(part: Part) -> Any:
    config = _load_config(part)
    if config.model_type not in _VISION_MODEL_TYPES:
        raise TuningError(
            f"{part} is of the kind {config.model_type}; LLaVA-1.5 takes a CLIP with a vision transformer"
        )
    return config.vision_config if config.model_type == "clip" else config


def _load_config(part: Part) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(part.fetch(with_weights=False))
    except (*_LOAD_ERRORS, StrictDataclassError) as error:
        raise TuningError(f"the config of {part} cannot be read: {first_line(error)}") from error


def _load_tokenizer(part: Part) -> Any:
    """Return a language model's own tokenizer, from SentencePiece's file where there is one, as Vicuna has it."""
    from transformers import AutoTokenizer

    directory = part.fetch(with_weights=False)
    if "tokenizer.model" not in part.files:
        try:
            with without_progress_bars():
                return AutoTokenizer.from_pretrained(directory)
        except _LOAD_ERRORS as error:
            raise TuningError(f"the tokenizer of {part} cannot be read: {first_line(error)}") from error
    settings = read_json(part, "tokenizer_config.json")
    # Where it is not stated, the transformers of that time took true.
    tokenizer = load_llama_tokenizer(directory / "tokenizer.model", legacy=settings.get("legacy", True))
    tokenizer.model_max_length = settings.get("model_max_length", tokenizer.model_max_length)
    return tokenizer


def _check_projector_features(projector: Part) -> None:
    settings = read_json(projector, "config.json")
    for name, expected in _PROJECTOR_SETTINGS.items():
        if settings.get(name, expected) != expected:
            raise TuningError(
                f"{projector} was trained with {name} {settings[name]!r}; LLaVA-1.5's base needs {expected!r}"
            )
