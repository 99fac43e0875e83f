"""Too little memory: an estimate and what a device has in, one line with what training takes and what to do out.

Where it is sure beforehand, training is refused. Where torch cannot get what it asks for, its error is told with the
estimate. A process that the system kills can say nothing any more: words.py then repeats what it said at its start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.training.memory import Memory

NEEDED: Final = "memory for each device: "
"""How the line begins that says the estimate before weights are read."""
SMALLER: Final = (
    "lower per_device_train_batch_size and raise gradient_accumulation_steps as much, set activation_checkpointing to "
    "true, or train over 4 bits (llava15-7b-qlora)"
)
_LIGHTER: Final = "train a LoRA, over 4 bits (llava15-7b-qlora), or sharded over more devices (llava15-7b-lora-fsdp2)"
_ABOVE: Final = 1.15
"""How far an estimate may lie above what is taken (memory.py)."""
_ASKED: Final = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def memory_there(device: Any) -> int:
    """Return what one process may take on a device, in bytes: a GPU's memory, or its share of the machine's."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def needed_and_there(needed: Memory, there: int) -> str:
    """Return both in words: `about 38 GB (weights 14, gradients 1.4, ...), and there are 25.4 GB`."""
    names = ("weights", "gradients", "optimizer", "activations")
    sizes = {name: size for name in names if (size := getattr(needed, name))}
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in sizes.items())
    return f"about {_gigabytes(needed.total)} GB ({parts}), and there are {_gigabytes(there)} GB"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f}" if size >= 100e9 else f"{size / 1e9:.3g}"


def refuse_too_little(needed: Memory, there: int) -> None:
    """Refuse what surely does not fit.

    Args:
        needed (`Memory`): without activations where the batches are not known yet.
        there (`int`): bytes that a device has.

    Raises:
        TuningError: with the estimate.
    """
    if needed.held <= there and needed.total <= _ABOVE * there:
        return
    advice = _LIGHTER if needed.held > there else SMALLER
    raise TuningError(f"not enough memory: training takes {needed_and_there(needed, there)}; {advice}")


@contextmanager
def shortage_told(needed: Memory, there: int) -> Iterator[None]:
    """Turn torch's failure to get memory, on whatever device, into one line with the estimate.

    Raises:
        TuningError: in the place of that failure.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not should_reduce_batch_size(error):
            raise
        asked = _ASKED.search(str(error))
        told = f"{asked[1]} more could not be had; " if asked else ""
        raise TuningError(
            f"out of memory: {told}training takes {needed_and_there(needed, there)}; {SMALLER}"
        ) from error
