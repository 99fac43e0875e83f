"""Makes writes fail like on a full disk, in this process and without privileges."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited_file_size(max_bytes: int) -> Iterator[None]:
    """Limit the size of each file that is written inside the block; Python ignores the signal that comes with it."""
    limits, writes_no_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    # An import inside the block would leave a truncated file in __pycache__, and later imports would fail.
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = writes_no_bytecode
