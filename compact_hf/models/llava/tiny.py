"""Builds a randomly initialized LLaVA that is small enough to train on a CPU, without any download.

It takes the texts that the model will read and write, and trains a tokenizer on them. The result is a directory with
model, tokenizer, processor and training chat template, which `from_pretrained` and `trl sft --model_name_or_path` load.
The model has all parts of LLaVA-1.5 (CLIP tower, two-layer projector, Llama, padding of images to squares), only
smaller, so that tuning and evaluation can run on a laptop with the same code.
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
    """Dimensions of a tiny LLaVA.

    Attributes:
        image_size (`int`): width and height of the tower's input, in pixels.
        patch_size (`int`): width and height of a patch, in pixels; divides `image_size`.
        hidden_size (`int`): hidden size of the tower and of the language model.
        vision_heads (`int`): attention heads of the tower.
        text_heads (`int`): attention heads of the language model.
        vision_layers (`int`): layers of the tower.
        text_layers (`int`): layers of the language model.
        vocab_size (`int`): maximum size of the vocabulary.
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
        """Number of tokens per image."""
        return (self.image_size // self.patch_size) ** 2


TINY_SIZE: Final = ModelSize()
"""1.5 million parameters: a training step takes a few milliseconds. For tests and benchmarks."""
STUDENT_SIZE: Final = ModelSize(
    image_size=168,
    patch_size=14,
    hidden_size=192,
    vision_heads=4,
    text_heads=3,
    vision_layers=4,
    text_layers=5,
    vocab_size=1024,
)
"""4.3 million parameters, which learn to see drawn scenes in two hours of training.

At half of the size at which scenes are drawn, words can still be read; each object covers about nine patches.
"""


def build_tiny(out: Path, texts: Iterable[str], *, seed: int, size: ModelSize = TINY_SIZE) -> Path:
    """Build a tiny LLaVA with random weights and save it.

    Args:
        out (`Path`): a new or empty directory.
        texts (`Iterable[str]`): questions and answers. Words in them become one token each, as long as the vocabulary
            suffices; all other text is encoded in bytes, so that there are no unknown tokens.
        seed (`int`): random seed of the weights. The same texts and seed give the same files.
        size (`ModelSize`, *optional*, defaults to `TINY_SIZE`): dimensions of the model.

    Returns:
        `Path`: `out`.

    Raises:
        TuningError: if `out` is not empty.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TuningError(f"{out} is not empty: give a new or empty directory for the tiny model")
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
    """Train a byte-level BPE tokenizer on the texts and on the words of the chat template.

    The system prompt and the answer instruction, which are part of every question, become one token each. This makes
    rows 20% shorter.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template_text = _render_empty_turn()
    sentences = (template_text.partition("USER:")[0], SHORT_ANSWER_INSTRUCTION)
    bpe = Tokenizer(models.BPE())
    # As in Llama, each digit is a token, so that numbers which never occurred in the texts can be read and written.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(sentences),
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # In byte-level BPE a word within a sentence includes the space before it. Texts get one too, so that a one-word
    # answer becomes the same token.
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
    """Return the chat template's text around an empty question and answer."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    rendered, _ = render_jinja_template([messages], chat_template=chat_template(), bos_token="", eos_token="")
    return str(rendered[0])


def _initialize_vision(model: Any, size: ModelSize) -> None:
    """Initialize position embeddings with sines and cosines, and the projector for a small hidden size.

    transformers initializes position embeddings with values twenty times smaller than patch embeddings, and the
    projector for hidden sizes of thousands. A model this narrow then ignores the image for hundreds of steps and learns
    from the text alone.
    """
    import torch

    grid_size, quarter = size.image_size // size.patch_size, size.hidden_size // 4
    # A quarter of the hidden size each for sine and cosine, of the row and of the column: (grid, hidden / 2).
    angles = torch.arange(grid_size)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    encoding = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = encoding[:, None].expand(-1, grid_size, -1), encoding[None].expand(grid_size, -1, -1)
    position_embedding = model.model.vision_tower.embeddings.position_embedding.weight
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        # Row 0 belongs to the class token. (grid, grid, hidden) becomes (patches, hidden).
        position_embedding[1:] = 0.5 * torch.cat([rows, columns], dim=2).flatten(0, 1)
        for layer in (projector.linear_1, projector.linear_2):
            layer.weight.normal_(std=size.hidden_size**-0.5)


def _build_config(tokenizer: PreTrainedTokenizerFast, size: ModelSize) -> LlavaConfig:
    """Return the config of a tiny LLaVA for this tokenizer."""
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
        # The usual 0.02 suits hidden sizes of thousands. With it, a model this narrow gives only the most frequent
        # answers for long (after 450 steps on 650 questions about scenes, 12.7% correct on new scenes, not 21.6%).
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
        # Use all layers of this small tower; LLaVA-1.5 leaves out the last layer of CLIP (-2).
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=size.image_tokens,
        tie_word_embeddings=True,
    )
