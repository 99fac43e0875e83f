"""LLaVA reads a picture once for all questions about it: (picture, question) pairs in, a batch and its answers out.

In LLaVA's prompt the picture stands before the question, and what stands there is the same for all questions about it:
three quarters of the tokens and more. So it goes through the tower and the language model once (the prefix), each
question goes on from there, and the answers are the same as without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compact_hf.evaluation.inputs import conversation, pixels

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """A batch of questions about fewer pictures, on the CPU.

    Attributes:
        pixel_values (`Tensor`): (pictures, 3, height, width).
        prefix (`Tensor`): token ids up to the end of the picture, (pictures, prefix).
        picture (`Tensor`): which picture each question is about, (questions,).
        input_ids, attention_mask (`Tensor`): prefix, padding, question: (questions, tokens).
    """

    pixel_values: Tensor
    prefix: Tensor
    picture: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def generate(self, network: Any, *, max_new_tokens: int) -> Tensor:
        """Return the new tokens, (questions, new); greedy where the network's generation config is."""
        from transformers import DynamicCache

        device = network.device
        cache = DynamicCache(config=network.config.get_text_config())
        network(
            input_ids=self.prefix.to(device),
            pixel_values=self.pixel_values.to(device, dtype=network.dtype),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_select_indices(self.picture.to(device))
        tokens: Tensor = network.generate(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
        )
        return tokens[:, self.input_ids.shape[1] :]


def can_share(processor: Any, network: Any) -> bool:
    """Whether a model is a LLaVA whose pictures all become as many tokens; of others nothing is assumed."""
    from transformers import LlavaProcessor

    return type(processor) is LlavaProcessor and network.config.model_type == "llava"


def shared_inputs(processor: Any, asked: Sequence[tuple[bytes, str]]) -> SharedInputs | None:
    """Return the batch, or None where nothing can be shared: no two questions are about one picture, or the chat
    template puts something of the question before it.

    Raises:
        PictureError: a picture cannot be decoded.
    """
    import torch

    order = {data: number for number, data in enumerate(dict.fromkeys(data for data, _ in asked))}
    if len(order) == len(asked):
        return None
    conversations = [conversation(question) for _, question in asked]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    # A picture's token is one of the tokenizer's special ones: however often it stands there, the rest stays the same.
    rows = processor.tokenizer(texts, add_special_tokens=False, max_length=None)["input_ids"]
    token = processor.image_token_id
    at = rows[0].index(token) if token in rows[0] else 0
    if any(row[: at + 1] != rows[0][: at + 1] or row.count(token) != 1 for row in rows):
        return None
    values = processor.image_processor([pixels(data) for data in order], return_tensors="pt")["pixel_values"]
    count = len(processor.replace_image_token({"pixel_values": values}, 0)) // len(processor.image_token)
    prefix = rows[0][:at] + [token] * count
    rest = [row[at + 1 :] for row in rows]
    longest = max(map(len, rest))
    padding = [longest - len(row) for row in rest]
    pad = processor.tokenizer.pad_token_id
    return SharedInputs(
        values,
        torch.tensor([prefix] * len(order)),
        torch.tensor([order[data] for data, _ in asked]),
        torch.tensor([prefix + [pad] * more + row for more, row in zip(padding, rest, strict=True)]),
        torch.tensor(
            [[1] * len(prefix) + [0] * more + [1] * len(row) for more, row in zip(padding, rest, strict=True)]
        ),
    )
