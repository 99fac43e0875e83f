"""A Llama tokenizer that cuts text as SentencePiece does: a `tokenizer.model` in, transformers' tokenizer out.

Vicuna brings nothing but this file. transformers 5.23 orders its merges by their number rather than by their score,
which only shows where spaces follow each other: "a  b" becomes other tokens than those that Vicuna has learnt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.errors import TuningError

if TYPE_CHECKING:
    from transformers import LlamaTokenizer


def llama_tokenizer(model: Path, *, legacy: bool = False) -> LlamaTokenizer:
    """Return the tokenizer of a SentencePiece model; it adds no first token, which the chat template writes.

    Args:
        model (`Path`): the file `tokenizer.model`.
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
        pieces = SentencePieceProcessor(model_proto=model.read_bytes() or b"-")
    except (OSError, RuntimeError) as error:
        told = getattr(error, "strerror", None) or "it holds no SentencePiece model"
        raise TuningError(f"the tokenizer {model} cannot be read: {told}; give a Llama's tokenizer.model") from error
    numbers = range(pieces.get_piece_size())
    vocabulary = {pieces.id_to_piece(number): number for number in numbers}
    scores = {pieces.id_to_piece(number): pieces.get_score(number) for number in numbers}
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores), legacy=legacy)
