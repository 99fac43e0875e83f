"""Files with weights, safetensors or PyTorch's pickles: a path in; names, shapes and tensors out.

A pickle is read with `weights_only`, so that nothing in it is run. Either kind is mapped into memory, not read: what a
caller does not ask for costs nothing. Pickles of before PyTorch 1.6 cannot be mapped and are read whole.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compact_hf.errors import TuningError
from compact_hf.models.files import first_line

if TYPE_CHECKING:
    import torch


def tensors(path: Path, keys: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return some of a file's tensors by key; the file is closed with the last of them.

    Raises:
        TuningError: the file cannot be read.
    """
    if not _is_safetensors(path):
        found = _unpickled(path, on_meta=False)
        return {key: found[key] for key in keys}
    with _in_words(path):
        file = _opened(path)
        return {key: file.get_tensor(key) for key in keys}


def heads(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return key -> (shape, dtype) without reading the tensors.

    Raises:
        TuningError: the file cannot be read, or holds something else than tensors by name.
    """
    if _is_safetensors(path):
        with _in_words(path):
            found = tensors(path, list(_opened(path).keys()))  # mapped; slices would not tell torch's dtype
    else:
        found = _unpickled(path, on_meta=True)
    return {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in found.items()}


def is_mapped(path: Path) -> bool:
    """Return whether a file's tensors can be read one by one."""
    return _is_safetensors(path) or zipfile.is_zipfile(path)


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, "pt")


def _unpickled(path: Path, *, on_meta: bool) -> dict[str, torch.Tensor]:
    import torch

    with _in_words(path):
        found = torch.load(
            path, map_location="meta" if on_meta else "cpu", mmap=is_mapped(path) and not on_meta, weights_only=True
        )
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise TuningError(f"{path.name} does not hold tensors by name; give weights as torch.save writes them")
    return found


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        raise TuningError(
            f"{path.name} is no pickle of tensors alone, and others are not opened, as they may run anything; "
            "give it as safetensors"
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise TuningError(f"{path.name} cannot be read ({first_line(error)}); fetch or save it again") from error
