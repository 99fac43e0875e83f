"""LLaVA-1.5's preprocessing of a conversation, from its rules, on SentencePiece itself: an expectation to hold ours to.

Nothing of transformers, TRL or this package takes part. The rules were read in llava/train/train.py (`preprocess_v1`,
`preprocess_multimodal`), llava/conversation.py (`vicuna_v1`), llava/mm_utils.py (`tokenizer_image_token`) and in the
slow Llama tokenizer of transformers 4.37, with which LLaVA was trained. All that follows was compared once with those
programs themselves, on Vicuna's own SentencePiece model and on the one used here.
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
PICTURE = -200
BOS, EOS = 1, 2
Turns = list[tuple[str, str]]


def conversation(turns: Turns, *, picture: bool) -> str:
    """The text: what is said follows its role and a space, and ends with a space or </s>; nothing said ends nothing."""
    text = f"{SYSTEM} "
    for number, (question, answer) in enumerate(turns):
        if picture and number == 0:
            question = f"<image>\n{question.strip()}".strip()
        text += f"USER: {question} " if question else "USER:"
        text += f"ASSISTANT: {answer}</s>" if answer else "ASSISTANT:"
    return text


class Llama:
    """The slow Llama tokenizer without special tokens but </s>, the only one that stands in a conversation's text."""

    def __init__(self, model: Path, *, legacy: bool) -> None:
        self.legacy = legacy
        proto = ModelProto.FromString(model.read_bytes())
        # With `legacy` whatever follows a special token begins with a space, else the text as a whole alone.
        proto.normalizer_spec.add_dummy_prefix = legacy
        self._pieces = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text, the first token (BOS) among them."""
        ids = [BOS]
        for number, part in enumerate((text if self.legacy else f" {text}").split("</s>")):
            ids += [EOS] if number else []
            ids += self._pieces.encode(part) if part else []
        return ids

    def chunkwise(self, text: str) -> list[int]:
        """Tokens of a text in which pictures stand, each part between them tokenized by itself."""
        first, *others = [self(part) for part in text.split("<image>")]
        return first + [token for part in others for token in [PICTURE, *part[1:]]]


def supervised(tokenizer: Llama, text: str) -> list[bool]:
    """Which tokens the loss covers: by counting the tokens of each round and of what in it comes before the answer."""
    total = len(tokenizer.chunkwise(text))
    learnt = [False] * total
    position = 1
    for number, round_ in enumerate(text.split("</s>")):
        parts = round_.split(" ASSISTANT: ")
        if not round_ or len(parts) != 2:
            break
        length = len(tokenizer.chunkwise(round_))
        # BOS is counted, and the space after the colon, which belongs to the answer.
        asked = len(tokenizer.chunkwise(f"{parts[0]} ASSISTANT: ")) - 2
        if number and not tokenizer.legacy:
            # By itself a round begins with a space of its own: one token more than after </s>.
            length, asked = length - 1, asked - 1
        for index in range(position + asked, min(position + length, total)):
            learnt[index] = True
        position += length
    # Where the count does not come out even, LLaVA says "tokenization mismatch" and learns nothing from the row.
    return learnt if position == total else [False] * total


def edges(marks: list[bool]) -> list[tuple[int, int]]:
    """Where supervised stretches begin and end: what a failed comparison should show."""
    ends = [index for index, (one, next_) in enumerate(pairwise([False, *marks, False])) if one != next_]
    return list(zip(ends[::2], ends[1::2], strict=True))
