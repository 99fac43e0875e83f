"""What a vision-language model is given: pictures and questions in, its tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.images.decode import loaded, stripped


def model_inputs(processor: Any, asked: Sequence[tuple[bytes, str]], *, device: Any, dtype: Any) -> Any:
    """Return one batch of inputs for (encoded picture, question) pairs.

    Args:
        processor (`transformers.ProcessorMixin`): the model's, with its chat template.
        asked: each question is followed by LLaVA's request for a short answer, as in the first turn of the training
            data.
        device (`torch.device | str`), dtype (`torch.dtype`): of the model.

    Returns:
        `transformers.BatchFeature`: input_ids and attention_mask (batch, tokens), padded in front; pixel_values.

    Raises:
        PictureError: a picture cannot be decoded.
    """
    # Questions about one picture come one after another; it is decoded once.
    pictures = {data: loaded(stripped(data)).convert("RGB") for data in {data for data, _ in asked}}
    conversations = []
    for data, question in asked:
        picture = {"type": "image", "image": pictures[data]}
        request = {"type": "text", "text": f"{question}\n{SHORT_ANSWER_INSTRUCTION}"}
        conversations.append([{"role": "user", "content": [picture, request]}])
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # The template writes the special tokens itself; answers follow at the end, so padding stands in front;
        # training leaves its own maximum length in the tokenizer, which is none of ours.
        processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
    ).to(device, dtype=dtype)
