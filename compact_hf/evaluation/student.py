"""The model that is judged: a folder or a Hub repository in, its answers to questions about pictures out.

Either holds a whole vision-language model, or a LoRA adapter whose `adapter_config.json` names its base and may name
the base's revision. It runs on a GPU where there is one and else on the CPU, in the precision it was saved in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import EvaluationError, TuningError
from compact_hf.images.decode import loaded, stripped
from compact_hf.tuning.adapter import folder as model_folder
from compact_hf.tuning.adapter.adapter import adapted, refuse_other_base
from compact_hf.tuning.adapter.facts import adapter_of
from compact_hf.tuning.adapter.folder import first_line
from compact_hf.tuning.progress import without_progress_bars


class Student:
    """A loaded model that answers questions about pictures, greedily.

    Args:
        model (`str`): a folder or a Hub repository.

    Raises:
        EvaluationError: it cannot be found or loaded, or is no vision-language model.
    """

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoProcessor

        folder = located(model)
        self._device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        try:
            with without_progress_bars():
                network = _network(folder)
                # An adapter's folder has the processor that it was trained with.
                self._processor: Any = AutoProcessor.from_pretrained(folder)
        except TuningError as error:
            raise EvaluationError(str(error)) from error
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise EvaluationError(f"model {model} cannot be loaded: {first_line(error)}") from error
        if not hasattr(self._processor, "image_processor"):
            raise EvaluationError(f"model {model} takes no pictures; give a vision-language model such as LLaVA")
        if not self._processor.chat_template:
            raise EvaluationError(f"model {model} has no chat template; save the one it was trained with beside it")
        self._network: Any = network.to(self._device).eval()

    def answer(self, asked: Sequence[tuple[bytes, str]], *, max_new_tokens: int) -> list[str]:
        """Return the model's answers to (encoded picture, question) pairs.

        Args:
            asked: answered in one batch, or where that is too much for the memory, in halves of it. Each question is
                followed by LLaVA's request for a short answer, as in the first turn of the training data.
            max_new_tokens (`int`): where an answer is cut.

        Raises:
            PictureError: a picture cannot be decoded.
            EvaluationError: the memory is too small for a single question.
        """
        import torch

        try:
            inputs = self._inputs(asked)
            with torch.inference_mode():
                tokens = self._network.generate(**inputs, max_new_tokens=max_new_tokens)
        except torch.OutOfMemoryError as error:
            if len(asked) == 1:
                raise EvaluationError(
                    f"the memory of {self._device} is too small for this model: {first_line(error)}"
                ) from error
        else:
            new = tokens[:, inputs["input_ids"].shape[1] :]
            return [text.strip() for text in self._processor.batch_decode(new, skip_special_tokens=True)]
        middle = len(asked) // 2
        halves = (asked[:middle], asked[middle:])
        return [answer for half in halves for answer in self.answer(half, max_new_tokens=max_new_tokens)]

    def _inputs(self, asked: Sequence[tuple[bytes, str]]) -> Any:
        # Questions about one picture come one after another; it is decoded once.
        pictures = {data: loaded(stripped(data)).convert("RGB") for data in {data for data, _ in asked}}
        conversations = []
        for data, question in asked:
            picture = {"type": "image", "image": pictures[data]}
            request = {"type": "text", "text": f"{question}\n{SHORT_ANSWER_INSTRUCTION}"}
            conversations.append([{"role": "user", "content": [picture, request]}])
        return self._processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # The template writes the special tokens itself; answers follow at the end, so padding stands in front;
            # training leaves its own maximum length in the tokenizer, which is none of ours.
            processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
        ).to(self._device, dtype=self._network.dtype)


def located(model: str) -> Path:
    """Return the folder with a model's files, fetched from the Hub (or its cache) where `model` is no folder.

    Raises:
        EvaluationError: there is neither, or the folder holds no model.
    """
    try:
        return model_folder.located(model)
    except TuningError as error:
        raise EvaluationError(str(error)) from error


def identity(model: str) -> str:
    """Return a hash of a model's files, so that a model trained anew in the same place counts as another.

    Raises:
        EvaluationError: as `located`.
    """
    return model_folder.identity_of(located(model))


def _network(folder: Path) -> Any:
    """Load a whole model, or an adapter merged into the base that it names.

    Raises:
        TuningError: the base cannot be found, or the adapter is another one's.
    """
    from transformers import AutoModelForImageTextToText

    if model_folder.is_adapter(folder):
        adapter = adapter_of(folder)
        base = model_folder.located(adapter.base, revision=adapter.base_revision)
        refuse_other_base(folder, base)
        network = adapted(folder, base)
    else:
        network = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    # Vicuna's settings for chatting would be reported as ignored at every batch.
    network.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return network
