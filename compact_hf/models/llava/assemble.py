"""Assembles the base for instruction tuning from its three parts.

    compact base assemble --out llava-base

The result is the model that LLaVA-1.5 starts its instruction tuning from, in the format of transformers: a language
model (Vicuna), a vision tower (CLIP) and the projector that was pre-trained to connect them. Disk space and memory are
checked first. The directory appears only when it is complete. After an interruption, the same call assembles again,
with the downloaded files from the Hub's cache.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.card import check_remote_card, read_card
from compact_hf.hub.push import PushResult, RemoteState, get_remote_state, push
from compact_hf.models.llava.config import build_base_config, build_base_processor, build_generation_config
from compact_hf.models.llava.parts import ROLES, Part, find_part
from compact_hf.models.llava.provenance import ASSEMBLY_FILE, AssemblyRecord, read_assembly_record, write_base_card
from compact_hf.models.llava.weights import estimate_peak_memory, expected_shapes, find_weights, write_weights
from compact_hf.models.loading import without_progress_bars
from compact_hf.storage import existing_parent, replace_directory

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor

    from compact_hf.models.llava.parts import Part
    from compact_hf.models.llava.weights import Weight


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Disk space that assembling takes.

    Attributes:
        download_bytes (`int`): bytes to download into the Hub's cache.
        output_bytes (`int`): maximum number of bytes in the output directory.
    """

    download_bytes: int
    output_bytes: int


def estimate_disk_space(parts: tuple[Part, ...], config: LlavaConfig, dtype: str) -> DiskSpace:
    """Return the disk space that assembling takes, without reading weights.

    Args:
        parts (`tuple[Part, ...]`): the three parts.
        config (`LlavaConfig`): the base's config.
        dtype (`str`): `stored`, or the dtype of all weights.
    """
    import torch

    shapes = expected_shapes(config)
    if dtype == "stored":
        # Upper bound: the parts' files, which include CLIP's unused text model, plus the rows of the added tokens in
        # embeddings and head.
        new_elements = 2 * (config.text_config.vocab_size - config.image_token_index) * config.text_config.hidden_size
        output_bytes = sum(part.weight_bytes for part in parts) + new_elements * torch.float32.itemsize
    else:
        output_bytes = sum(map(math.prod, shapes.values())) * getattr(torch, dtype).itemsize
    return DiskSpace(sum(part.bytes_to_fetch() for part in parts), output_bytes)


def check_disk_space(out: Path, disk_space: DiskSpace) -> None:
    """Raise if a disk has too little free space.

    Args:
        out (`Path`): the output directory.
        disk_space (`DiskSpace`): the space that is needed there and in the Hub's cache.

    Raises:
        TuningError: if a disk has too little free space.
    """
    from huggingface_hub import constants

    requirements = [
        (existing_parent(out), disk_space.output_bytes, "the base"),
        (existing_parent(Path(constants.HF_HUB_CACHE)), disk_space.download_bytes, "parts"),
    ]
    for path, _, _ in requirements:
        # Output and cache may be on the same disk: their sizes are then added.
        same_disk = [
            (size, label)
            for other_path, size, label in requirements
            if other_path.stat().st_dev == path.stat().st_dev and size
        ]
        needed, free = sum(size for size, _ in same_disk), shutil.disk_usage(path).free
        if needed > free:
            details = " and ".join(f"{size / 1e9:.1f} GB for {label}" for size, label in same_disk)
            raise TuningError(
                f"not enough disk space: the disk of {path} has {free / 1e9:.1f} GB free, but assembling takes "
                f"{details}; free disk space, choose another --out, or set HF_HOME to a larger disk"
            )


def check_free_memory(needed: int) -> None:
    """Raise if there is too little free memory.

    Args:
        needed (`int`): bytes that assembling takes.

    Raises:
        TuningError: if less memory is free.
    """
    import psutil

    free = psutil.virtual_memory().available
    if needed > free:
        raise TuningError(
            f"not enough memory: {free / 1e9:.1f} GB are free, but assembling takes {needed / 1e9:.1f} GB; end other "
            "processes, or use a larger machine"
        )


LANGUAGE_MODEL: Final = "lmsys/vicuna-7b-v1.5"
VISION_TOWER: Final = "openai/clip-vit-large-patch14-336"
PROJECTOR: Final = "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"

Precision = Literal["stored", "float16", "bfloat16", "float32"]

_COMMIT_MESSAGE: Final = "Assemble the base before instruction tuning"


@dataclass(frozen=True, slots=True)
class AssemblyResult:
    """An assembled base, or one that a dry run has checked.

    Attributes:
        out (`Path`): the output directory.
        parts (`tuple[str, ...]`): the three parts, with their commits.
        disk_space (`DiskSpace`): bytes to download and to write.
        vocab_size (`int`): rows of the vocabulary, with `<image>`, `<pad>` and padding.
        is_new (`bool`): whether this call assembled it; False after a dry run, and if it existed already.
        pushed (`PushResult`, *optional*): the resulting commit on the Hub, if it was pushed.
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
    """Assemble LLaVA-1.5 as it is before instruction tuning.

    If `out` already holds this base, it is not changed, and only the push is done or resumed. All names and shapes of
    weights are checked before the first one is written. Memory holds one shard of 2 GB at a time.

    Args:
        out (`str | Path`): a new or empty directory, or one that holds the same base.
        language_model (`str`, *optional*, defaults to `lmsys/vicuna-7b-v1.5`): a Llama, as a directory or
            `namespace/name[@revision]` on the Hub; weights as safetensors or PyTorch's `.bin`, in one file or in
            shards.
        vision_tower (`str`, *optional*, defaults to `openai/clip-vit-large-patch14-336`): a CLIP, or its vision model.
        projector (`str`, *optional*, defaults to LLaVA-1.5's for these two): a directory or repository with LLaVA's
            `mm_projector.bin`, or that file.
        dtype (`str`, *optional*, defaults to `stored`): `stored`, `float16`, `bfloat16` or `float32`. `stored` keeps
            the dtype of each part (Vicuna float16, CLIP float32); weights are then rounded when they are loaded.
            LLaVA trains in bfloat16, which has fewer digits than Vicuna's float16: prefer to set it in the recipe.
        push_to (`str`, *optional*): `namespace/name` of a model repository to publish to, atomically.
        private (`bool`, *optional*, defaults to False): create a private repository, and refuse a public one.
        dry_run (`bool`, *optional*, defaults to False): only find the parts, read their configs and report the space
            needed; no weights are downloaded, and `out` is not changed.
        on_note (`Callable[[str], None]`, *optional*): called with a message at each step.
        on_progress (`Callable[[int, int], None]`, *optional*): called with the bytes of weights written so far, and
            their total.

    Returns:
        `AssemblyResult`: parts, sizes and, after a push, the commit.

    Raises:
        UsageError: if `out` holds something else, or a part, a repository's name or `dtype` is invalid.
        HubError: if a part cannot be downloaded, or the base cannot be uploaded.
        TuningError: if a part is of another kind, incomplete, or does not fit the others; or disk space or memory do
            not suffice.
    """
    out = Path(os.path.abspath(out))
    if dtype not in get_args(Precision):
        raise UsageError(f"unknown dtype {dtype!r}: choose from {', '.join(get_args(Precision))}")
    if private and push_to is None:
        raise UsageError("--private has no effect without a push: give --push ORG/NAME too")
    _check_output_directory(out)
    remote = None if push_to is None else _check_repository(push_to)
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
    # An existing base is compared by its record, that is by parts and dtype, without reading its weights.
    is_new = not out.exists() or not any(out.iterdir())
    # Three cases: assemble a new base, refuse another one, or keep this one, which is complete already.
    if is_new:
        _assemble(out, parts, config, dtype, disk_space, on_note, on_progress)
    elif read_assembly_record(out).identity != _build_record(parts, dtype, config, on_note).identity:
        raise UsageError(f"{out} holds a base of other parts or another dtype: choose another --out, or remove it")
    else:
        on_note(f"{out} holds this base already")
    pushed = None
    if push_to is not None and remote is not None:
        check_remote_card(push_to, repo_type="model", remote_files=remote.files, card=read_card(out), directory=out)
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
    """Check and write the base, into a temporary directory that is renamed to `out` when it is complete."""
    import torch

    processor = build_base_processor(parts[0], parts[1], config)  # may raise, so it comes before the download
    check_disk_space(out, disk_space)
    for part in parts:
        if part.commit is not None:
            on_note(f"downloading the {part}, {part.weight_bytes // 1_000_000} MB of weights")
            part.fetch()
    target_dtype = None if dtype == "stored" else getattr(torch, dtype)
    weights = find_weights(parts, config, dtype=target_dtype)
    # Again with exact sizes: the first check used an estimate, and downloads have taken space since.
    check_disk_space(out, DiskSpace(0, sum(weight.nbytes for weight in weights)))
    check_free_memory(estimate_peak_memory(weights))
    record = _build_record(parts, dtype, config, on_note)
    try:
        # Raises UsageError if another process is writing `out`, or has written it in the meantime.
        with replace_directory(out, is_replaceable=lambda directory: False, error_type=UsageError) as directory:
            write_weights(weights, directory, on_progress=on_progress)
            _write_other_files(directory, parts, config, processor, record, weights)
    except OSError as error:
        raise TuningError(f"{out} cannot be written ({error}): free disk space or choose another --out") from error


def _build_record(
    parts: tuple[Part, ...], dtype: Precision, config: LlavaConfig, on_note: Callable[[str], None]
) -> AssemblyRecord:
    """Return the record of the base; local parts are hashed, which takes time and is therefore reported."""
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
    """Write everything but the weights."""
    # The default dtype of `from_pretrained`: that of the largest weight, which belongs to the language model.
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
    """Raise if the output directory holds something other than an assembled base."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is not a directory: choose another --out")
    if any(out.iterdir()) and not (out / ASSEMBLY_FILE).is_file():
        raise UsageError(f"{out} holds something other than an assembled base: choose a new or empty --out")


def _check_repository(repo_id: str) -> RemoteState:
    """Return the state of the repository; raise if it holds something other than an assembled base."""
    remote = get_remote_state(repo_id, repo_type="model")
    other_files = [file for file in remote.files if file not in (".gitattributes", "README.md", "LICENSE")]
    if other_files and ASSEMBLY_FILE not in remote.files:
        raise UsageError(
            f"{repo_id} holds something other than an assembled base, which would be lost "
            f"({', '.join(other_files[:3])}): "
            "choose another repository"
        )
    return remote
