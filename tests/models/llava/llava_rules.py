"""Reimplements LLaVA-1.5's preprocessing of conversations with SentencePiece alone, as the expected result of tests.

It does not use transformers, TRL or this package. The rules were taken from llava/train/train.py (`preprocess_v1`,
`preprocess_multimodal`), llava/conversation.py (`vicuna_v1`), llava/mm_utils.py (`tokenizer_image_token`) and the slow
Llama tokenizer of transformers 4.37, with which LLaVA was trained. This module was once compared with those programs,
on Vicuna's SentencePiece model and on the one used here.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_TOKEN_INDEX = -200
BOS, EOS = 1, 2
Turns = list[tuple[str, str]]


def render_conversation(turns: Turns, *, has_image: bool) -> str:
    """Return the text: each message follows its role and a space, and ends with a space or </s> unless it is empty."""
    text = f"{SYSTEM} "
    for number, (question, answer) in enumerate(turns):
        if has_image and number == 0:
            question = f"<image>\n{question.strip()}".strip()
        text += f"USER: {question} " if question else "USER:"
        text += f"ASSISTANT: {answer}</s>" if answer else "ASSISTANT:"
    return text


class SlowLlamaTokenizer:
    """The slow Llama tokenizer with </s> as the only special token, since conversations contain no other."""

    def __init__(self, model: Path, *, legacy: bool) -> None:
        self.legacy = legacy
        proto = ModelProto.FromString(model.read_bytes())
        # With `legacy`, text after each special token begins with a space; otherwise only the whole text does.
        proto.normalizer_spec.add_dummy_prefix = legacy
        self._pieces = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text, with the first token (BOS)."""
        ids = [BOS]
        for number, part in enumerate((text if self.legacy else f" {text}").split("</s>")):
            ids += [EOS] if number else []
            ids += self._pieces.encode(part) if part else []
        return ids

    def tokenize_with_images(self, text: str) -> list[int]:
        """Return the tokens of a text with images; the parts between images are tokenized separately."""
        first, *rest = [self(part) for part in text.split("<image>")]
        return first + [token for part in rest for token in [IMAGE_TOKEN_INDEX, *part[1:]]]


def supervised_mask(tokenizer: SlowLlamaTokenizer, text: str) -> list[bool]:
    """Return which tokens the loss covers, by counting the tokens of each round and those before its answer."""
    total = len(tokenizer.tokenize_with_images(text))
    mask = [False] * total
    position = 1
    for number, round_ in enumerate(text.split("</s>")):
        parts = round_.split(" ASSISTANT: ")
        if not round_ or len(parts) != 2:
            break
        length = len(tokenizer.tokenize_with_images(round_))
        # The count includes BOS, and the space after the colon, which belongs to the answer.
        instruction_length = len(tokenizer.tokenize_with_images(f"{parts[0]} ASSISTANT: ")) - 2
        if number and not tokenizer.legacy:
            # Tokenized separately, a round begins with an additional space: one token more than after </s>.
            length, instruction_length = length - 1, instruction_length - 1
        for index in range(position + instruction_length, min(position + length, total)):
            mask[index] = True
        position += length
    # If the counts differ, LLaVA reports a "tokenization mismatch" and masks the whole row.
    return mask if position == total else [False] * total


def mask_spans(mask: list[bool]) -> list[tuple[int, int]]:
    """Return begin and end of the supervised spans, which make a failed comparison readable."""
    boundaries = [
        index for index, (current, following) in enumerate(pairwise([False, *mask, False])) if current != following
    ]
    return list(zip(boundaries[::2], boundaries[1::2], strict=True))
