"""What a vision-language model is given: pictures and questions in, its tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.images.codec import loaded, stripped

if TYPE_CHECKING:
    from PIL.Image import Image


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
    pictures = {data: pixels(data) for data in {data for data, _ in asked}}
    return processor.apply_chat_template(
        [conversation(question, pictures[data]) for data, question in asked],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # The template writes the special tokens itself; answers follow at the end, so padding stands in front;
        # training leaves its own maximum length in the tokenizer, which is none of ours.
        processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
    ).to(device, dtype=dtype)


def conversation(question: str, picture: Image | None = None) -> list[dict[str, Any]]:
    """Return the messages that ask about a picture; without one they hold its place, for the text alone."""
    shown = {"type": "image"} if picture is None else {"type": "image", "image": picture}
    request = {"type": "text", "text": prompt_of(question)}
    return [{"role": "user", "content": [shown, request]}]


def prompt_of(question: str) -> str:
    """Return a question with LLaVA's request for a short answer."""
    return f"{question}\n{SHORT_ANSWER_INSTRUCTION}"


def pixels(data: bytes) -> Image:
    """Return an encoded picture's pixels, the right way up, as RGB.

    Raises:
        PictureError: it cannot be decoded.
    """
    return loaded(stripped(data)).convert("RGB")
