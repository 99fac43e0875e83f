"""Assemble the base before instruction tuning from its three parts, after a check of disk and memory.

    compact base assemble --out llava-base

The directory is what LLaVA-1.5 starts its instruction tuning from, in transformers' form: a language model (Vicuna), a
vision tower (CLIP) and the projector that was pre-trained between them. It appears whole or not at all; what was
downloaded stays in the Hub's cache, so the same call after an interruption only assembles anew.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from compact_hf.errors import ReleaseError, TuningError, UsageError
from compact_hf.hub.push import Pushed, push, standing
from compact_hf.models.llava.config import base_config, base_generation, base_processor
from compact_hf.models.llava.parts import ROLES, Part, find
from compact_hf.models.llava.provenance import RECORD, Record, record_at, write_card
from compact_hf.models.llava.weights import memory_needed, weights_found, weights_needed, write_weights
from compact_hf.models.loading import without_progress_bars
from compact_hf.storage import replace_directory

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor

    from compact_hf.models.llava.parts import Part
    from compact_hf.models.llava.weights import Weight


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


LANGUAGE_MODEL: Final = "lmsys/vicuna-7b-v1.5"
VISION_TOWER: Final = "openai/clip-vit-large-patch14-336"
PROJECTOR: Final = "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"

Precision = Literal["stored", "float16", "bfloat16", "float32"]

_MESSAGE: Final = "Assemble the base before instruction tuning"


@dataclass(frozen=True, slots=True)
class Assembled:
    """What was assembled, or would be.

    Attributes:
        out (`Path`): the folder.
        parts (`tuple[str, ...]`): the three, each with its commit.
        room (`Room`): bytes to download and to write.
        rows (`int`): of the vocabulary, with `<image>`, `<pad>` and the padding.
        is_new (`bool`): whether it was assembled now; False after a dry run, and where it stood there already.
        pushed (`Pushed`, *optional*): where it stands on the Hub.
    """

    out: Path
    parts: tuple[str, ...]
    room: Room
    rows: int
    is_new: bool
    pushed: Pushed | None


def assemble_base(
    out: str | Path,
    *,
    language_model: str = LANGUAGE_MODEL,
    vision_tower: str = VISION_TOWER,
    projector: str = PROJECTOR,
    dtype: Precision = "stored",
    push_to: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    on_note: Callable[[str], None] = lambda told: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Assembled:
    """Put a LLaVA-1.5 together as it is before its instruction tuning.

    The same call over a folder that it has made leaves it as it is (and goes on with the push); every name and shape of
    a weight is checked before one is written, and memory holds one shard of 2 GB at a time.

    Args:
        out (`str | Path`): a folder that is new or empty, or holds the same base.
        language_model (`str`, *optional*, defaults to `lmsys/vicuna-7b-v1.5`): a Llama: a folder, or
            `namespace/name[@revision]` on the Hub; weights as safetensors or PyTorch's `.bin`, whole or in shards.
        vision_tower (`str`, *optional*, defaults to `openai/clip-vit-large-patch14-336`): a CLIP, or its vision model.
        projector (`str`, *optional*, defaults to LLaVA-1.5's for these two): a folder or repository with LLaVA's
            `mm_projector.bin`, or the file.
        dtype (`str`, *optional*, defaults to `stored`): `stored` rounds nothing: each weight stays as its part has it
            (Vicuna float16, CLIP float32), and loading, which takes one precision for all, rounds where it is asked to.
            LLaVA trains in bfloat16, which keeps fewer digits of Vicuna: better chosen by the recipe than fixed here.
        push_to (`str`, *optional*): `namespace/name` of a model repository to publish to, in one piece.
        private (`bool`, *optional*, defaults to False): creates that repository private, and refuses a public one.
        dry_run (`bool`, *optional*, defaults to False): looks the parts up, reads their configs and says what it would
            take; neither weights nor `out` are touched.
        on_note (`Callable[[str], None]`, *optional*): is told each step in words.
        on_progress (`Callable[[int, int], None]`, *optional*): is told the bytes of weights written, and of how many.

    Raises:
        UsageError: `out` holds something else, a part's place or a name is none, or `dtype` is none of the four.
        HubError: the Hub does not give a part, or does not take the base.
        TuningError: a part is of another kind, lacks something or does not go with the others; or disk or memory are
            too small.
    """
    out = Path(os.path.abspath(out))
    if dtype not in get_args(Precision):
        raise UsageError(f"unknown dtype {dtype!r}; there are {', '.join(get_args(Precision))}")
    if private and push_to is None:
        raise UsageError("a base that is not pushed is private already; give --push ORG/NAME too")
    _refuse_other_folder(out)
    if push_to is not None:
        _refuse_other_repository(push_to)
    parts = tuple(find(role, at) for role, at in zip(ROLES, (language_model, vision_tower, projector), strict=True))
    config = base_config(*parts)
    room = room_needed(parts, config, dtype)
    told, rows = tuple(map(str, parts)), config.text_config.vocab_size
    if dry_run:
        base_processor(parts[0], parts[1], config)
        return Assembled(out, told, room, rows, False, None)
    is_new = not out.exists() or not any(out.iterdir())
    if is_new:
        _assemble(out, parts, config, dtype, room, on_note, on_progress)
    elif record_at(out).identity != _record(parts, dtype, config, on_note).identity:
        raise UsageError(f"{out} holds a base of other parts or another dtype; choose another --out, or remove it")
    else:
        on_note(f"{out} holds this base already")
    pushed = None
    if push_to is not None:
        pushed = push(out, push_to, repo_type="model", message=_MESSAGE, private=private, on_progress=on_note)
    return Assembled(out, told, room, rows, is_new, pushed)


def _assemble(
    out: Path,
    parts: tuple[Part, ...],
    config: LlavaConfig,
    dtype: Precision,
    room: Room,
    on_note: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> None:
    """Check everything, then write everything into a folder beside `out` that becomes it."""
    import torch

    processor = base_processor(parts[0], parts[1], config)  # before the download, as it may be refused
    refuse_small_disk(out, room)
    for part in parts:
        if part.commit is not None:
            on_note(f"fetching the {part}, {part.weight_bytes // 1_000_000} MB of weights")
            part.fetch()
    wanted = None if dtype == "stored" else getattr(torch, dtype)
    weights = weights_found(parts, config, dtype=wanted)
    refuse_small_disk(out, Room(0, sum(weight.nbytes for weight in weights)))
    refuse_small_memory(memory_needed(weights))
    record = _record(parts, dtype, config, on_note)
    try:
        with replace_directory(out, ours=lambda folder: False) as folder:
            write_weights(weights, folder, on_progress=on_progress)
            _write_rest(folder, parts, config, processor, record, weights)
    except ReleaseError as error:  # another process is writing it, or it was filled in the meantime
        raise UsageError(str(error)) from error
    except OSError as error:
        raise TuningError(f"{out} cannot be written ({error}); make room or choose another --out") from error


def _record(parts: tuple[Part, ...], dtype: Precision, config: LlavaConfig, on_note: Callable[[str], None]) -> Record:
    for part in parts:
        if part.commit is None:
            on_note(f"hashing the {part}, {part.weight_bytes // 1_000_000} MB of weights")
    return Record.of(parts, dtype, config)


def _write_rest(
    folder: Path,
    parts: tuple[Part, ...],
    config: LlavaConfig,
    processor: LlavaProcessor,
    record: Record,
    weights: list[Weight],
) -> None:
    """Write all but the weights."""
    # What `from_pretrained` loads it in unless it is told otherwise: what the largest part has.
    config.dtype = max(weights, key=lambda weight: weight.nbytes).dtype
    with without_progress_bars():
        config.save_pretrained(folder)
        base_generation(config).save_pretrained(folder)
        processor.save_pretrained(folder)
    record.write(folder)
    write_card(
        folder,
        parts=parts,
        record=record,
        image_tokens=config.image_seq_length,
        dtype=str(config.dtype).removeprefix("torch."),
        legacy=processor.tokenizer.init_kwargs["legacy"],
    )


def _refuse_other_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is no folder; a base is assembled in a folder, choose another --out")
    if any(out.iterdir()) and not (out / RECORD).is_file():
        raise UsageError(f"{out} holds something other than an assembled base; choose an --out that is new or empty")


def _refuse_other_repository(name: str) -> None:
    there = standing(name, repo_type="model").files
    foreign = [file for file in there if file not in (".gitattributes", "README.md", "LICENSE")]
    if foreign and RECORD not in there:
        raise UsageError(
            f"{name} holds something other than an assembled base, which would be lost ({', '.join(foreign[:3])}); "
            "choose another repository"
        )
