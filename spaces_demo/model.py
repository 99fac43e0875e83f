"""Loads the models of the tab Ask and streams their answers.

Without settings it uses the tiny student that ships with the package. On ZeroGPU, models have to be moved to the GPU
when the app is imported, so the model is loaded at once. Elsewhere it is loaded in the background, while the page is
already served. The package `spaces` has to be imported before torch.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import CompactError
from compact_hf.escaping import escape_line
from compact_hf.reports.markdown import format_code

if TYPE_CHECKING:
    from compact_hf.evaluation.side_by_side import Answer, SideBySide

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


class SpaceModels:
    """The models of this Space, loaded once, in the background if possible.

    Args:
        model (`str`): directory or Hub repository of a base or full model.
        adapter (`str`): directory or Hub repository of its adapter. If both are empty, the shipped student is used.
        seconds (`float`): time limit of an answer, in seconds.
    """

    def __init__(self, model: str, adapter: str, *, seconds: float) -> None:
        self.seconds = seconds
        self.description = _describe_models(model, adapter)
        self._settings = model, adapter
        # Completed by `_load`, with the models or an error; `sides` and `stream` wait for it.
        self._loading: Future[SideBySide] = Future()
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

    def sides(self) -> tuple[str, ...]:
        """Wait until the models are loaded, and return their names: `base` and `tuned`, or only `tuned`.

        Raises:
            CompactError: they cannot be loaded; the reason is in the log.
        """
        return self._loading.result().sides

    def _stream(self, image: bytes, question: str) -> Iterator[tuple[Answer, ...]]:
        yield from self._loading.result().stream(image, question, max_new_tokens=MAX_TOKENS, seconds=self.seconds)

    def _load(self) -> None:
        """Load the models and resolve the future that visitors wait for. Reasons of failures go to the log only."""
        try:
            from compact_hf.evaluation.side_by_side import SideBySide

            model, adapter = self._settings
            if not (model or adapter):
                model, adapter = _copy_shipped_student()
            self._loading.set_result(SideBySide(model, adapter, device="cuda" if IS_ZERO_GPU else None))
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
    """Return a description of the models for visitors; of a directory it shows only the last part of the path."""
    if not (model or adapter):
        return "the tiny student that ships with compact_hf (1.7 million parameters, trained on drawn scenes)"
    directories = {name for name in (model, adapter) if os.path.isdir(name) or os.path.isabs(name)}
    names = [format_code(Path(name).name if name in directories else name) for name in (model, adapter) if name]
    return " with the adapter ".join(names)
