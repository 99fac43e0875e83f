"""Loads the models of the tab Ask, answers its first example with them, and streams their answers to visitors.

Without settings it uses the tiny student that ships with the package. On ZeroGPU, models have to be moved to the GPU
when the app is imported, so the model is loaded at once. Elsewhere it is loaded in the background, while the page is
already served. The package `spaces` has to be imported before torch.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import CompactError
from compact_hf.escaping import escape_line
from compact_hf.reports.markdown import format_code

if TYPE_CHECKING:
    from compact_hf.evaluation.side_by_side import Answer, SideBySide

BEFORE: Final = "before tuning"
AFTER: Final = "after tuning"
# A full model without an adapter.
ALONE: Final = "the model"

# Answers are a word or a short phrase.
MAX_TOKENS: Final = 32
_GPU_START_S: Final = 30.0  # seconds that ZeroGPU may take to allocate a GPU

try:
    import spaces
    from spaces.config import Config

    # `spaces` may also be installed on a machine without ZeroGPU.
    IS_ZERO_GPU: Final = bool(Config.zero_gpu)
# Not on a Space of the Hub: no GPU has to be requested.
except ImportError:
    spaces, IS_ZERO_GPU = None, False


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of all models to one question, finished or not.

    Attributes:
        by_model (`dict[str, Answer]`): `BEFORE` and `AFTER`, or `ALONE` -> the answer.
        seconds (`float`): time since the models were asked, in seconds.
    """

    by_model: dict[str, Answer]
    seconds: float


class SpaceModels:
    """The models of this Space, loaded once, in the background if possible.

    Args:
        model (`str`): directory or Hub repository of a base or full model.
        adapter (`str`): directory or Hub repository of its adapter. If both are empty, the shipped student is used.
        seconds (`float`): time limit of an answer, in seconds.
        first_question (`tuple[bytes, str]`): an encoded image and a question about it, which are answered once, as
            soon as the models are loaded.

    Attributes:
        description (`str`): which models these are, for visitors.
        names (`dict[str, str]`): name of a model in a results.json -> `BEFORE` or `AFTER`.
        is_shipped (`bool`): whether the models are the shipped student.
    """

    def __init__(self, model: str, adapter: str, *, seconds: float, first_question: tuple[bytes, str]) -> None:
        self.seconds = seconds
        self.description = _describe_models(model, adapter)
        self.names = _name_models(model, adapter)
        self.is_shipped = not (model or adapter)
        self._settings = model, adapter
        self._first_question = first_question
        # Completed by `_load`, with the models or an error; `first_answers` and `stream` wait for it.
        self._loading: Future[SideBySide] = Future()
        self._first_answers: Answers | None = None
        self.stream = _wrap_for_gpu(self._stream, seconds + _GPU_START_S)
        if IS_ZERO_GPU:
            self._load()
        else:
            # A pool for one task; its thread ends with the task.
            pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
            pool.submit(self._load)
            pool.shutdown(wait=False)

    @property
    def is_ready(self) -> bool:
        """Whether loading has ended, successfully or not."""
        return self._loading.done()

    def first_answers(self) -> Answers | None:
        """Wait until the models are loaded, and return their answers to the first question.

        Returns:
            `Answers | None`: None on ZeroGPU, which has no GPU before a visitor asks.

        Raises:
            CompactError: the models cannot be loaded; the reason is in the log.
        """
        self._loading.result()
        return self._first_answers

    def _stream(self, image: bytes, question: str) -> Iterator[Answers]:
        yield from self._stream_from(self._loading.result(), image, question)

    def _stream_from(self, models: SideBySide, image: bytes, question: str) -> Iterator[Answers]:
        start = time.monotonic()
        names = (BEFORE, AFTER) if len(models.sides) > 1 else (ALONE,)
        for answers in models.stream(image, question, max_new_tokens=MAX_TOKENS, seconds=self.seconds):
            yield Answers(dict(zip(names, answers, strict=True)), time.monotonic() - start)

    def _load(self) -> None:
        """Load the models, let them answer the first question, and resolve the future that visitors wait for.

        Reasons of failures go to the log only.
        """
        try:
            from compact_hf.evaluation.side_by_side import SideBySide

            model, adapter = self._settings
            if not (model or adapter):
                model, adapter = _copy_shipped_student()
            models = SideBySide(model, adapter, device="cuda" if IS_ZERO_GPU else None)
            if not IS_ZERO_GPU:
                # Before anyone else can ask: the models answer one question at a time.
                *_, self._first_answers = self._stream_from(models, *self._first_question)
            self._loading.set_result(models)
        # The reason may name a directory of this machine, so it is not shown to visitors.
        except (CompactError, ImportError) as error:
            logging.getLogger(__name__).error("the model cannot be used: %s", escape_line(str(error)))
            self._set_failed()
        except Exception:  # such as a GPU out of memory: without a result, visitors would wait forever
            logging.getLogger(__name__).exception("the model cannot be used")
            self._set_failed()

    def _set_failed(self) -> None:
        self._loading.set_exception(
            CompactError("The model of this Space cannot be loaded (see the log of the Space).")
        )


def _wrap_for_gpu(stream: Callable[..., Iterator[Any]], seconds: float) -> Callable[..., Iterator[Any]]:
    """Return the function decorated for ZeroGPU, or unchanged if the package `spaces` is not installed."""
    return stream if spaces is None else spaces.GPU(duration=round(seconds))(stream)


def _copy_shipped_student() -> tuple[str, str]:
    """Copy the shipped student, because its adapter has to name the path of its base. Return base and adapter."""
    from compact_hf.models.llava.shipped import copy_student

    aligned, tuned = copy_student(Path(tempfile.mkdtemp(prefix="compact-space-")))
    return str(aligned), str(tuned)


def _describe_models(model: str, adapter: str) -> str:
    """Return a description of the models for visitors."""
    if not (model or adapter):
        return "the tiny student that ships with compact_hf (4.3 million parameters, trained on drawn scenes)"
    return " with the adapter ".join(format_code(_shorten_path(name)) for name in (model, adapter) if name)


def _name_models(model: str, adapter: str) -> dict[str, str]:
    """Return what the models are called in a results.json -> what visitors read."""
    if not (model or adapter):
        from compact_hf.models.llava.shipped import ALIGNED, TUNED

        return {ALIGNED: BEFORE, TUNED: AFTER}
    if not adapter:
        return {}
    names = {_shorten_path(adapter): AFTER}
    if model:
        # The second name is that of an evaluation with `--base`.
        names |= {_shorten_path(model): BEFORE, f"{_shorten_path(adapter)} on {_shorten_path(model)}": AFTER}
    return names


def _shorten_path(name: str) -> str:
    """Return the last part of a directory's path, or the name of a repository unchanged."""
    return Path(name).name if os.path.isdir(name) or os.path.isabs(name) else name
