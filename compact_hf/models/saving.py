"""Translates the errors that safetensors and torch raise when weights cannot be written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Rust's message of an error of the system: "I/O error: No space left on device (os error 28)".
_SYSTEM_ERROR: Final = re.compile(r"\(os error (\d+)\)")
# The writer of `torch.save` does not keep the cause: "[enforce fail at inline_container.cc:672] . unexpected pos 9".
_TORCH_WRITER: Final = "inline_container.cc"


@contextmanager
def translate_save_errors() -> Iterator[None]:
    """Replace errors of writing weights, which have classes of their own, by `OSError`.

    Raises:
        OSError: if safetensors or `torch.save` cannot write a file, with the error number if it is known.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if match := _SYSTEM_ERROR.search(str(error)):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
        raise
    except RuntimeError as error:
        if _TORCH_WRITER in str(error):
            raise OSError("the file could not be written to its end") from error
        raise
