"""A LLaVA small enough to train on a CPU, built here from nothing: no download, no weights given.

Texts in (what the student is to read and write), a folder out that `from_pretrained` and
`trl sft --model_name_or_path` load: model, tokenizer, processor and the training chat template. It has every part
the real one has (CLIP tower, two-layer projector, Llama, 'pad to square' preprocessing), each of them small, so the
whole line of tuning and judging runs for real on a laptop. It knows nothing before it is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError
from compact_hf.models.llava.processor import build_llava_processor, chat_template
from compact_hf.models.loading import without_progress_bars

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedTokenizerFast

MAX_TOKENS: Final = 1024
_SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>", "<image>", "<pad>")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How small.

    Attributes:
        image_size (`int`): of the square that the tower sees, in pixels.
        patch_size (`int`): of a patch, in pixels; divides `image_size`.
        hidden_size (`int`): of the tower and of the language model.
        vision_heads, text_heads (`int`): of attention.
        vision_layers, text_layers (`int`)
        vocab_size (`int`): how many tokens there can be.
    """

    image_size: int = 112
    patch_size: int = 14
    hidden_size: int = 128
    vision_heads: int = 4
    text_heads: int = 4
    vision_layers: int = 2
    text_layers: int = 4
    vocab_size: int = 2048

    @property
    def image_tokens(self) -> int:
        """How many tokens an image becomes."""
        return (self.image_size // self.patch_size) ** 2


TINY_SIZE: Final = ModelSize()
"""1.5 million parameters: steps of a few milliseconds, for tests and benchmarks."""
STUDENT_SIZE: Final = ModelSize(
    image_size=120,
    patch_size=12,
    hidden_size=128,
    vision_heads=4,
    text_heads=2,
    vision_layers=4,
    text_layers=4,
    vocab_size=1024,
)
"""1.8 million parameters, which learn to look at drawn scenes in an hour.

Columns of things in a scene's background stand two patches of 12 pixels apart, so that the same patch shows the same
part of a thing in each of them.
"""


def build_tiny(out: Path, texts: Iterable[str], *, seed: int, size: ModelSize = TINY_SIZE) -> Path:
    """Build a tiny LLaVA with freshly drawn weights and save it in the folder `out`.

    Args:
        out (`Path`): a folder that does not exist yet, or is empty.
        texts (`Iterable[str]`): questions and answers; words that stand there become one token each as long as
            the vocabulary lasts, anything else is spelt in bytes, so nothing is unknown.
        seed (`int`): of the weights. The same texts and seed give the same files.
        size (`ModelSize`, *optional*, defaults to `TINY_SIZE`)

    Returns:
        `Path`: `out`.

    Raises:
        TuningError: `out` already holds something.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TuningError(f"{out} already holds something; the tiny model needs a new or empty folder")
    tokenizer = _train_tokenizer(texts, size.vocab_size)
    processor = build_llava_processor(tokenizer, image_size=size.image_size, patch_size=size.patch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_build_config(tokenizer, size))
        _initialize_vision(model, size)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with without_progress_bars():
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return out


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts and on the chat template's own words.

    The sentences that stand around every question become one token each, which makes a row a fifth shorter.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template_text = _render_empty_turn()
    sentences = (template_text.partition("USER:")[0], SHORT_ANSWER_INSTRUCTION)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(sentences),
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A word inside a sentence carries the space before it: so must an answer that is one word.
    spaced_texts = (f" {text}" for text in texts)
    bpe.train_from_iterator((template_text, *spaced_texts), trainer)
    bpe.add_tokens([AddedToken(sentence, normalized=False) for sentence in sentences])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )


def _render_empty_turn() -> str:
    """Return what stands around every question, so that its words are tokens too."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    rendered, _ = render_jinja_template([messages], chat_template=chat_template(), bos_token="", eos_token="")
    return str(rendered[0])


def _initialize_vision(model: Any, size: ModelSize) -> None:
    """Start with eyes that know where they look, and let through what they see.

    transformers draws the places of patches twenty times weaker than what the patches show, and the projector's
    weights for widths of thousands. A model this narrow then learns for hundreds of steps from the words alone.
    """
    import torch

    grid_size, quarter = size.image_size // size.patch_size, size.hidden_size // 4
    angles = torch.arange(grid_size)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    encoding = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = encoding[:, None].expand(-1, grid_size, -1), encoding[None].expand(grid_size, -1, -1)
    position_embedding = model.model.vision_tower.embeddings.position_embedding.weight
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        position_embedding[1:] = 0.5 * torch.cat([rows, columns], dim=2).flatten(0, 1)
        for layer in (projector.linear_1, projector.linear_2):
            layer.weight.normal_(std=size.hidden_size**-0.5)


def _build_config(tokenizer: PreTrainedTokenizerFast, size: ModelSize) -> LlavaConfig:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision_config = CLIPVisionConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_size=size.hidden_size,
        intermediate_size=3 * size.hidden_size,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
    )
    text_config = LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=3 * size.hidden_size,
        num_hidden_layers=size.text_layers,
        # The usual 0.02 suits widths of thousands: drawn that small, a model this narrow stays long with the most
        # frequent answers (450 steps on 650 questions about scenes: 12.7% right on new scenes instead of 21.6%).
        initializer_range=size.hidden_size**-0.5 / 2,
        num_attention_heads=size.text_heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        # Every layer of so small a tower is needed; LLaVA-1.5 leaves out CLIP's last one (-2).
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=size.image_tokens,
        tie_word_embeddings=True,
    )
