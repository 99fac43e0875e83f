"""What assembling takes of disk and memory: the parts in, bytes out, or a line that says what is lacking."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.errors import TuningError
from compact_hf.models.llava.weights import weights_needed

if TYPE_CHECKING:
    from transformers import LlavaConfig

    from compact_hf.models.llava.parts import Part


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that it takes.

    Attributes:
        download (`int`): into the Hub's cache, without what is there.
        out (`int`): at most, in the folder.
    """

    download: int
    out: int


def room_needed(parts: tuple[Part, ...], config: LlavaConfig, dtype: str) -> Room:
    """Return what assembling takes, before any weight is looked at: as stored, the parts' files bound it."""
    import torch

    shapes = weights_needed(config)
    if dtype == "stored":
        # The rows that are added are not in the files; CLIP's text side is, and is left out.
        rows = 2 * (config.text_config.vocab_size - config.image_token_index) * config.text_config.hidden_size
        out = sum(part.weight_bytes for part in parts) + rows * torch.float32.itemsize
    else:
        out = sum(map(math.prod, shapes.values())) * getattr(torch, dtype).itemsize
    return Room(sum(part.bytes_to_fetch() for part in parts), out)


def refuse_small_disk(out: Path, room: Room) -> None:
    """Raise where the disks have no room.

    Raises:
        TuningError: they have not.
    """
    from huggingface_hub import constants

    needs = [(_existing(out), room.out, "the base"), (_existing(Path(constants.HF_HUB_CACHE)), room.download, "parts")]
    for place, _, _ in needs:
        on_it = [(size, what) for other, size, what in needs if other.stat().st_dev == place.stat().st_dev and size]
        needed, free = sum(size for size, _ in on_it), shutil.disk_usage(place).free
        if needed > free:
            told = " and ".join(f"{size / 1e9:.1f} GB for {what}" for size, what in on_it)
            raise TuningError(
                f"the disk of {place} has {free / 1e9:.1f} GB free, and it takes {told}; make room, choose another "
                "--out, or set HF_HOME to a larger disk"
            )


def refuse_small_memory(needed: int) -> None:
    """Raise where less memory is free than `needed` bytes.

    Raises:
        TuningError: it is not.
    """
    import psutil

    free = psutil.virtual_memory().available
    if needed > free:
        raise TuningError(
            f"{free / 1e9:.1f} GB of memory are free, and assembling takes {needed / 1e9:.1f} GB; end something else, "
            "or use a larger machine"
        )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
