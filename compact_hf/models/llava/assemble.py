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
from compact_hf.hub.push import PushResult, get_remote_state, push
from compact_hf.models.llava.config import build_base_config, build_base_processor, build_generation_config
from compact_hf.models.llava.parts import ROLES, Part, find_part
from compact_hf.models.llava.provenance import ASSEMBLY_FILE, AssemblyRecord, read_assembly_record, write_base_card
from compact_hf.models.llava.weights import estimate_peak_memory, expected_shapes, find_weights, write_weights
from compact_hf.models.loading import without_progress_bars
from compact_hf.storage import replace_directory

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor

    from compact_hf.models.llava.parts import Part
    from compact_hf.models.llava.weights import Weight


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Bytes that it takes.

    Attributes:
        download_bytes (`int`): into the Hub's cache, without what is there.
        output_bytes (`int`): at most, in the folder.
    """

    download_bytes: int
    output_bytes: int


def estimate_disk_space(parts: tuple[Part, ...], config: LlavaConfig, dtype: str) -> DiskSpace:
    """Return what assembling takes, before any weight is looked at: as stored, the parts' files bound it."""
    import torch

    shapes = expected_shapes(config)
    if dtype == "stored":
        # The rows that are added are not in the files; CLIP's text side is, and is left out.
        new_elements = 2 * (config.text_config.vocab_size - config.image_token_index) * config.text_config.hidden_size
        output_bytes = sum(part.weight_bytes for part in parts) + new_elements * torch.float32.itemsize
    else:
        output_bytes = sum(map(math.prod, shapes.values())) * getattr(torch, dtype).itemsize
    return DiskSpace(sum(part.bytes_to_fetch() for part in parts), output_bytes)


def check_disk_space(out: Path, disk_space: DiskSpace) -> None:
    """Raise where the disks have no room.

    Raises:
        TuningError: they have not.
    """
    from huggingface_hub import constants

    requirements = [
        (_existing_parent(out), disk_space.output_bytes, "the base"),
        (_existing_parent(Path(constants.HF_HUB_CACHE)), disk_space.download_bytes, "parts"),
    ]
    for path, _, _ in requirements:
        same_disk = [
            (size, label)
            for other_path, size, label in requirements
            if other_path.stat().st_dev == path.stat().st_dev and size
        ]
        needed, free = sum(size for size, _ in same_disk), shutil.disk_usage(path).free
        if needed > free:
            details = " and ".join(f"{size / 1e9:.1f} GB for {label}" for size, label in same_disk)
            raise TuningError(
                f"the disk of {path} has {free / 1e9:.1f} GB free, and it takes {details}; make room, choose another "
                "--out, or set HF_HOME to a larger disk"
            )


def check_free_memory(needed: int) -> None:
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


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


LANGUAGE_MODEL: Final = "lmsys/vicuna-7b-v1.5"
VISION_TOWER: Final = "openai/clip-vit-large-patch14-336"
PROJECTOR: Final = "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"

Precision = Literal["stored", "float16", "bfloat16", "float32"]

_COMMIT_MESSAGE: Final = "Assemble the base before instruction tuning"


@dataclass(frozen=True, slots=True)
class AssemblyResult:
    """What was assembled, or would be.

    Attributes:
        out (`Path`): the folder.
        parts (`tuple[str, ...]`): the three, each with its commit.
        disk_space (`DiskSpace`): bytes to download and to write.
        vocab_size (`int`): of the vocabulary, with `<image>`, `<pad>` and the padding.
        is_new (`bool`): whether it was assembled now; False after a dry run, and where it stood there already.
        pushed (`PushResult`, *optional*): where it stands on the Hub.
    """

    out: Path
    parts: tuple[str, ...]
    disk_space: DiskSpace
    vocab_size: int
    is_new: bool
    pushed: PushResult | None


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
    on_note: Callable[[str], None] = lambda message: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> AssemblyResult:
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
    _check_output_directory(out)
    if push_to is not None:
        _check_repository(push_to)
    parts = tuple(
        find_part(role, name_or_path)
        for role, name_or_path in zip(ROLES, (language_model, vision_tower, projector), strict=True)
    )
    config = build_base_config(*parts)
    disk_space = estimate_disk_space(parts, config, dtype)
    part_names, vocab_size = tuple(map(str, parts)), config.text_config.vocab_size
    if dry_run:
        build_base_processor(parts[0], parts[1], config)
        return AssemblyResult(out, part_names, disk_space, vocab_size, False, None)
    is_new = not out.exists() or not any(out.iterdir())
    if is_new:
        _assemble(out, parts, config, dtype, disk_space, on_note, on_progress)
    elif read_assembly_record(out).identity != _build_record(parts, dtype, config, on_note).identity:
        raise UsageError(f"{out} holds a base of other parts or another dtype; choose another --out, or remove it")
    else:
        on_note(f"{out} holds this base already")
    pushed = None
    if push_to is not None:
        pushed = push(out, push_to, repo_type="model", message=_COMMIT_MESSAGE, private=private, on_progress=on_note)
    return AssemblyResult(out, part_names, disk_space, vocab_size, is_new, pushed)


def _assemble(
    out: Path,
    parts: tuple[Part, ...],
    config: LlavaConfig,
    dtype: Precision,
    disk_space: DiskSpace,
    on_note: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> None:
    """Check everything, then write everything into a folder beside `out` that becomes it."""
    import torch

    processor = build_base_processor(parts[0], parts[1], config)  # before the download, as it may be refused
    check_disk_space(out, disk_space)
    for part in parts:
        if part.commit is not None:
            on_note(f"fetching the {part}, {part.weight_bytes // 1_000_000} MB of weights")
            part.fetch()
    target_dtype = None if dtype == "stored" else getattr(torch, dtype)
    weights = find_weights(parts, config, dtype=target_dtype)
    check_disk_space(out, DiskSpace(0, sum(weight.nbytes for weight in weights)))
    check_free_memory(estimate_peak_memory(weights))
    record = _build_record(parts, dtype, config, on_note)
    try:
        with replace_directory(out, is_replaceable=lambda directory: False) as directory:
            write_weights(weights, directory, on_progress=on_progress)
            _write_other_files(directory, parts, config, processor, record, weights)
    except ReleaseError as error:  # another process is writing it, or it was filled in the meantime
        raise UsageError(str(error)) from error
    except OSError as error:
        raise TuningError(f"{out} cannot be written ({error}); make room or choose another --out") from error


def _build_record(
    parts: tuple[Part, ...], dtype: Precision, config: LlavaConfig, on_note: Callable[[str], None]
) -> AssemblyRecord:
    for part in parts:
        if part.commit is None:
            on_note(f"hashing the {part}, {part.weight_bytes // 1_000_000} MB of weights")
    return AssemblyRecord.from_parts(parts, dtype, config)


def _write_other_files(
    directory: Path,
    parts: tuple[Part, ...],
    config: LlavaConfig,
    processor: LlavaProcessor,
    record: AssemblyRecord,
    weights: list[Weight],
) -> None:
    """Write all but the weights."""
    # What `from_pretrained` loads it in unless it is told otherwise: what the largest part has.
    config.dtype = max(weights, key=lambda weight: weight.nbytes).dtype
    with without_progress_bars():
        config.save_pretrained(directory)
        build_generation_config(config).save_pretrained(directory)
        processor.save_pretrained(directory)
    record.write(directory)
    write_base_card(
        directory,
        parts=parts,
        record=record,
        image_tokens=config.image_seq_length,
        dtype=str(config.dtype).removeprefix("torch."),
        legacy=processor.tokenizer.init_kwargs["legacy"],
    )


def _check_output_directory(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is no folder; a base is assembled in a folder, choose another --out")
    if any(out.iterdir()) and not (out / ASSEMBLY_FILE).is_file():
        raise UsageError(f"{out} holds something other than an assembled base; choose an --out that is new or empty")


def _check_repository(repo_id: str) -> None:
    remote_files = get_remote_state(repo_id, repo_type="model").files
    other_files = [file for file in remote_files if file not in (".gitattributes", "README.md", "LICENSE")]
    if other_files and ASSEMBLY_FILE not in remote_files:
        raise UsageError(
            f"{repo_id} holds something other than an assembled base, which would be lost "
            f"({', '.join(other_files[:3])}); "
            "choose another repository"
        )
