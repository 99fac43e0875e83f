"""The model that is judged: a folder or a Hub repository in, its answers to questions about pictures out.

Either holds a whole vision-language model, or a LoRA adapter whose `adapter_config.json` names its base and may name
the base's revision. It runs on a GPU where there is one and else on the CPU, in the precision it was saved in.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, TuningError
from compact_hf.evaluation.inputs import conversation, model_inputs, prompt_of
from compact_hf.evaluation.shared import SharedInputs, can_share, shared_inputs
from compact_hf.images.codec import opened, stripped
from compact_hf.models import loading
from compact_hf.models.adapter import adapted, refuse_other_base
from compact_hf.models.loading import first_line, without_progress_bars
from compact_hf.training.training_record import adapter_of

Asked = Sequence[tuple[bytes, str]]
"""(Encoded picture, question) pairs that are answered together."""

_NAMED: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>\S+)")
# As transformers' models begin to say that the processor counted on another tower, or on other settings of it.
_MISMATCH: Final = "image features and image tokens do not match"


class Student:
    """A loaded model that answers questions about pictures, greedily.

    Args:
        model (`str`): a folder or a Hub repository, with its `@revision` or without.

    Raises:
        EvaluationError: it cannot be found or loaded, or is no vision-language model.
    """

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoProcessor

        folder = located(model)
        self._model = model
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

    def answer(self, asked: Asked, *, max_new_tokens: int) -> list[str]:
        """Return the model's answers to (encoded picture, question) pairs.

        Args:
            asked: answered in one batch, or where that is too much for the memory, in halves of it. Each question is
                followed by LLaVA's request for a short answer, as in the first turn of the training data.
            max_new_tokens (`int`): where an answer is cut.

        Raises:
            PictureError: a picture cannot be decoded.
            EvaluationError: the memory is too small for a single question, or the processor makes another number of
                tokens of a picture than the model has features.
        """
        return self._answered(asked, self._inputs(asked), max_new_tokens)

    def answer_each(self, batches: Iterable[Callable[[], Asked]], *, max_new_tokens: int) -> Iterator[list[str]]:
        """Yield the answers of one batch after the other; while one is answered, the next is read and made ready.

        Args:
            batches: each gives its pairs when its turn has come.
            max_new_tokens (`int`), raises: as for `answer`.
        """

        def ready(batch: Callable[[], Asked]) -> tuple[Asked, Any]:
            asked = batch()
            return asked, self._inputs(asked)

        coming: deque[Future[tuple[Asked, Any]]] = deque()
        with ThreadPoolExecutor(1, "next-batch") as beside:
            for batch in batches:
                coming.append(beside.submit(ready, batch))
                if len(coming) > 1:
                    yield self._answered(*coming.popleft().result(), max_new_tokens)
            while coming:
                yield self._answered(*coming.popleft().result(), max_new_tokens)

    def lengths(self, questions: Sequence[tuple[Callable[[], bytes], str]]) -> list[int]:
        """Return how many tokens each prompt has, but for what is the same in all of them.

        Args:
            questions: what reads the picture, and the question; pictures are read only where their size matters.
        """
        texts = self._processor.tokenizer([prompt_of(question) for _, question in questions], add_special_tokens=False)
        counts = [len(row) for row in texts["input_ids"]]
        count = lru_cache(maxsize=None)(self._picture_tokens)
        if count((64, 64)) == count((960, 640)):
            return counts
        sizes = (opened(stripped(read())).size for read, _ in questions)
        return [words + count(size) for words, size in zip(counts, sizes, strict=True)]

    def _picture_tokens(self, size: tuple[int, int]) -> int:
        from PIL import Image

        blank = [conversation("", Image.new("RGB", size))]
        return len(self._processor.apply_chat_template(blank, tokenize=True, return_dict=True)["input_ids"][0])

    def _inputs(self, asked: Asked) -> Any:
        shared = shared_inputs(self._processor, asked) if can_share(self._processor, self._network) else None
        return shared or model_inputs(self._processor, asked, device="cpu", dtype=self._network.dtype)

    def _answered(self, asked: Asked, inputs: Any, max_new_tokens: int) -> list[str]:
        import torch

        try:
            tokens = self._generated(inputs, max_new_tokens)
        except torch.OutOfMemoryError as error:
            if len(asked) == 1:
                raise EvaluationError(
                    f"the memory of {self._device} is too small for this model: {first_line(error)}"
                ) from error
        except ValueError as error:
            raise self._explained(error, asked) from error
        else:
            return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        middle = len(asked) // 2
        halves = (asked[:middle], asked[middle:])
        return [answer for half in halves for answer in self.answer(half, max_new_tokens=max_new_tokens)]

    def _generated(self, inputs: Any, max_new_tokens: int) -> Any:
        import torch

        with torch.inference_mode():
            if isinstance(inputs, SharedInputs):
                return inputs.generate(self._network, max_new_tokens=max_new_tokens)
            tokens = self._network.generate(**inputs.to(self._device), max_new_tokens=max_new_tokens)
        return tokens[:, inputs["input_ids"].shape[1] :]

    def _explained(self, error: ValueError, asked: Asked) -> EvaluationError:
        """Return in one line why the model cannot answer; of tokens that do not fit, how many there should be."""
        import torch

        if _MISMATCH not in str(error).lower():
            return EvaluationError(f"model {self._model} cannot answer: {first_line(error)}")
        one = model_inputs(self._processor, asked[:1], device=self._device, dtype=self._network.dtype)
        counted = int((one["input_ids"] == self._network.config.image_token_id).sum())
        with torch.inference_mode():
            pictures = {name: value for name, value in one.items() if name not in ("input_ids", "attention_mask")}
            features = len(torch.cat(list(self._network.get_image_features(**pictures).pooler_output)))
        return EvaluationError(
            f"the processor of {self._model} does not fit the model: it makes {counted} tokens of a picture, the model "
            f"{features}; mend processor_config.json (LLaVA's: patch_size, vision_feature_select_strategy, "
            "num_additional_image_tokens)"
        )


def located(model: str) -> Path:
    """Return the folder with a model's files, fetched from the Hub (or its cache) where `model` is no folder.

    Args:
        model (`str`): a folder or a Hub repository, with its `@revision` or without.

    Raises:
        EvaluationError: there is neither, or the folder holds no model.
    """
    named = None if Path(model).exists() else _NAMED.fullmatch(model)
    try:
        return loading.located(named["name"], revision=named["revision"]) if named else loading.located(model)
    except TuningError as error:
        raise EvaluationError(str(error)) from error


def identity(model: str) -> str:
    """Return a hash of a model's files, so that a model trained anew in the same place counts as another.

    Raises:
        EvaluationError: as `located`.
    """
    return loading.identity_of(located(model))


def _network(folder: Path) -> Any:
    """Load a whole model, or an adapter merged into the base that it names.

    Raises:
        TuningError: the base cannot be found, or the adapter is another one's.
    """
    from transformers import AutoModelForImageTextToText

    if loading.is_adapter(folder):
        adapter = adapter_of(folder)
        base = loading.located(adapter.base, revision=adapter.base_revision)
        refuse_other_base(folder, base)
        network = adapted(folder, base)
    else:
        network = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    # Vicuna's settings for chatting would be reported as ignored at every batch.
    network.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return network
