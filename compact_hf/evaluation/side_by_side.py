"""Streams the answers of a base and its adapter to the same question, token by token.

One network serves both, since the base is the network with its adapter disabled. The memory is that of one model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import EvaluationError, TuningError
from compact_hf.evaluation.inference import model_inputs
from compact_hf.models import loading
from compact_hf.models.adapter import load_peft_model
from compact_hf.models.chat_template import check_image_question
from compact_hf.models.finite import check_logits
from compact_hf.models.loading import LOAD_ERRORS, first_line, load_network, load_processor
from compact_hf.training.inputs import find_trained_base

BASE: Final = "base"
TUNED: Final = "tuned"

FinishReason = Literal["", "done", "length", "time"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that may still be in progress.

    Attributes:
        text (`str`): the text so far.
        finish_reason (`str`): empty while tokens are generated; then `done`, or the limit that was reached: `length` or
            `time`.
    """

    text: str = ""
    finish_reason: FinishReason = ""


class SideBySide:
    """A base with its adapter, or one full model, loaded once.

    Args:
        model (`str`, *optional*): directory or Hub repository of the base or of a full model; if empty, the base that
            the adapter names is used.
        adapter (`str`, *optional*): directory or Hub repository of the adapter; empty for a full model.
        device (`str`, *optional*): the device to use; by default the accelerator if there is one, otherwise the CPU.

    Attributes:
        sides (`tuple[str, ...]`): `("base", "tuned")`, or `("tuned",)` for a full model.

    Raises:
        UsageError: one of them is neither a directory of a model nor the name of a repository.
        EvaluationError: one of them cannot be downloaded or loaded, or the adapter was trained on another base or on
            other weights at its path.
    """

    def __init__(self, model: str = "", adapter: str = "", *, device: str | None = None) -> None:
        import torch

        model_name = adapter or model
        self._device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        try:
            base_directory, adapter_directory = _locate(model, adapter)
            network = (
                load_peft_model(adapter_directory, base_directory)
                if adapter_directory is not None
                else load_network(base_directory)
            )
            # An adapter's directory has the processor that it was trained with.
            self._processor: Any = load_processor(adapter_directory or base_directory, network.config)
        except TuningError as error:
            raise EvaluationError(str(error)) from error
        except LOAD_ERRORS as error:
            raise EvaluationError(f"model {model_name} cannot be loaded: {first_line(error)}") from error
        if not hasattr(self._processor, "image_processor"):
            raise EvaluationError(f"model {model_name} does not accept images; give a model such as LLaVA")
        if not self._processor.chat_template:
            raise EvaluationError(
                f"model {model_name} has no chat template; save its own next to it as chat_template.jinja"
            )
        try:
            check_image_question(self._processor)
        except ValueError as error:
            raise EvaluationError(f"model {model_name} cannot be used: {first_line(error)}") from error
        self.sides: tuple[str, ...] = (BASE, TUNED) if adapter_directory is not None else (TUNED,)
        self._network: Any = network.to(self._device).eval()
        # One id or a list of ids, depending on the model.
        eos_token_ids = network.generation_config.eos_token_id
        self._eos_token_ids = frozenset(eos_token_ids if isinstance(eos_token_ids, list) else [eos_token_ids])

    def stream(
        self, image: bytes, question: str, *, max_new_tokens: int, seconds: float
    ) -> Iterator[tuple[Answer, ...]]:
        """Yield the answers after every new token, one answer for each of `sides`.

        Decoding is greedy. The sides take turns, one token each.

        Args:
            image (`bytes`): the encoded image.
            question (`str`): the question; LLaVA's instruction to give a short answer is appended.
            max_new_tokens (`int`): maximum length of an answer, in tokens.
            seconds (`float`): time limit for all answers together, in seconds.

        Raises:
            ImageError: the image cannot be decoded.
            EvaluationError: memory runs out, or logits are not finite.
        """
        import torch

        deadline = time.monotonic() + seconds
        prompt = f"{question}\n{SHORT_ANSWER_INSTRUCTION}"
        inputs = model_inputs(self._processor, [(image, prompt)], device=self._device, dtype=self._network.dtype)
        writers = [_AnswerWriter(self._network, self._processor, self._eos_token_ids, inputs) for _ in self.sides]
        try:
            while any(not writer.answer.finish_reason for writer in writers):
                for side, writer in zip(self.sides, writers, strict=True):
                    if writer.answer.finish_reason:
                        continue
                    # Every side writes at least one token, even if processing the image has used up the time.
                    if writer.tokens and time.monotonic() > deadline:
                        writer.answer = Answer(writer.answer.text, "time")
                    else:
                        with self._use_side(side):
                            writer.write(max_new_tokens)
                    yield tuple(writer.answer for writer in writers)
        except torch.OutOfMemoryError as error:
            raise EvaluationError(f"not enough memory on {self._device}: {first_line(error)}") from error

    def _use_side(self, side: str) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self._network.disable_adapter() if side == BASE else nullcontext()
        return context


class _AnswerWriter:
    """Generates one side's answer token by token. The caller switches the network to that side before each token."""

    def __init__(self, network: Any, processor: Any, eos_token_ids: frozenset[int], inputs: Any) -> None:
        self.answer = Answer()
        self.tokens: list[int] = []
        self._network, self._processor, self._eos_token_ids = network, processor, eos_token_ids
        self._next_inputs = dict(inputs)
        # One key-value cache per side, since the adapter changes keys and values. The first call creates it.
        self._cache: Any = None

    def write(self, max_new_tokens: int) -> None:
        """Add one token to the answer."""
        import torch

        with torch.inference_mode():
            outputs = self._network(**self._next_inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        try:
            check_logits(outputs.logits[:, -1])
        except ValueError as error:
            raise EvaluationError(f"the model cannot answer: {error}") from error
        # The most likely token, (1, 1).
        token = outputs.logits[:, -1].argmax(-1, keepdim=True)
        self._cache = outputs.past_key_values
        # From now on the image is in the key-value cache, so only the new token is passed: (1, 1).
        mask = self._next_inputs["attention_mask"]
        self._next_inputs = {"input_ids": token, "attention_mask": torch.cat([mask, mask.new_ones(1, 1)], dim=1)}
        self.tokens.append(int(token))
        # All tokens are decoded again, because a character can consist of several tokens.
        text = self._processor.decode(self.tokens, skip_special_tokens=True).strip()
        finish_reason: FinishReason = ""
        if self.tokens[-1] in self._eos_token_ids:
            finish_reason = "done"
        elif len(self.tokens) >= max_new_tokens:
            finish_reason = "length"
        self.answer = Answer(text, finish_reason)


def _locate(model: str, adapter: str) -> tuple[Path, Path | None]:
    """Return the directories of the base and of the adapter (None without one). `model` alone may be either of them.

    Raises:
        UsageError: one of them is neither a directory of a model nor the name of a repository.
        TuningError: one of them cannot be downloaded, or the adapter was trained on another base or on other weights at
            its path.
    """
    if not adapter:
        directory = loading.resolve_model(model)
        if not loading.is_adapter(directory):
            return directory, None
        model, adapter_directory = "", directory
    else:
        adapter_directory = loading.resolve_model(adapter)
    return find_trained_base(adapter_directory, model or None), adapter_directory
