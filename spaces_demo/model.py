"""Who answers on the Ask tab: the owner's settings in, two answers out, token by token.

Without settings it is the tiny student that ships with the package. On ZeroGPU the model goes to the GPU at import, as
it has to there; elsewhere it is loaded while the page is up already. `spaces` has to be imported before torch.
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

if TYPE_CHECKING:
    from compact_hf.evaluation.side_by_side import Answer, SideBySide

MAX_TOKENS: Final = 32
_GPU_START_S: Final = 30.0  # of a GPU that ZeroGPU has to find first

try:
    import spaces
    from spaces.config import Config

    IS_ZERO_GPU: Final = bool(Config.zero_gpu)
except ImportError:
    spaces, IS_ZERO_GPU = None, False


class SpaceModels:
    """The model or models of this Space, loaded once, in the background where that is possible.

    Args:
        model, adapter (`str`): folders or Hub repositories; both empty for the student that ships.
        seconds (`float`): after which an answer is stopped.
    """

    def __init__(self, model: str, adapter: str, *, seconds: float) -> None:
        self.seconds = seconds
        self.description = _describe_models(model, adapter)
        self._settings = model, adapter
        self._loading: Future[SideBySide] = Future()
        self.stream = _wrap_for_gpu(self._stream, seconds + _GPU_START_S)
        if IS_ZERO_GPU:
            self._load()
        else:
            pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
            pool.submit(self._load)
            pool.shutdown(wait=False)

    @property
    def is_ready(self) -> bool:
        """Whether loading is over, one way or the other."""
        return self._loading.done()

    def sides(self) -> tuple[str, ...]:
        """Wait for the models, and return which there are: `base` and `tuned`, or `tuned` alone.

        Raises:
            CompactError: they cannot be loaded; the log says why.
        """
        return self._loading.result().sides

    def _stream(self, image: bytes, question: str) -> Iterator[tuple[Answer, ...]]:
        yield from self._loading.result().stream(image, question, max_new_tokens=MAX_TOKENS, seconds=self.seconds)

    def _load(self) -> None:
        try:
            from compact_hf.evaluation.side_by_side import SideBySide

            model, adapter = self._settings
            if not (model or adapter):
                model, adapter = _copy_shipped_student()
            self._loading.set_result(SideBySide(model, adapter, device="cuda" if IS_ZERO_GPU else None))
        # The reason may name a folder of this machine: it is the owner's to read.
        except (CompactError, ImportError) as error:
            logging.getLogger(__name__).error("the model cannot be used: %s", error)
            self._set_failed()
        except Exception:  # such as a GPU without room: visitors would wait for ever
            logging.getLogger(__name__).exception("the model cannot be used")
            self._set_failed()

    def _set_failed(self) -> None:
        self._loading.set_exception(CompactError("The model of this Space cannot be loaded; its log says why."))


def _wrap_for_gpu(stream: Callable[..., Iterator[Any]], seconds: float) -> Callable[..., Iterator[Any]]:
    """Return the function as ZeroGPU calls it; anywhere else, and without the package `spaces`, as it is."""
    return stream if spaces is None else spaces.GPU(duration=round(seconds))(stream)


def _copy_shipped_student() -> tuple[str, str]:
    """Return copies of the student's base and adapter: the adapter has to name where its base lies."""
    from compact_hf.models.llava.shipped import copy_student

    aligned, tuned = copy_student(Path(tempfile.mkdtemp(prefix="compact-space-")))
    return str(aligned), str(tuned)


def _describe_models(model: str, adapter: str) -> str:
    """Return in words who answers; of a folder its last part alone."""
    if not (model or adapter):
        return "the tiny student that ships with compact_hf (1.7 million parameters, trained on drawn scenes)"
    directories = {name for name in (model, adapter) if os.path.isdir(name) or os.path.isabs(name)}
    names = [f"`{Path(name).name if name in directories else name}`" for name in (model, adapter) if name]
    return " with the adapter ".join(names)
