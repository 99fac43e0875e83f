"""Converts the weights of the parts to the safetensors shards of a base, one shard in memory at a time.

    language model   model.* and lm_head.weight   -> language_model.*, with rows for the added tokens
    vision tower     vision_model.*               -> vision_tower.vision_model.*; CLIP's text model is left out
    projector        model.mm_projector.{0,2}.*   -> multi_modal_projector.linear_{1,2}.*

All names and shapes are compared with those of the model before the first byte is written: no weight is missing,
unexpected or initialized at random. The names are those of llava-hf's repositories, which all versions of transformers
and vLLM can read.

Parts are safetensors files or PyTorch pickles. Pickles are loaded with `weights_only`, so that no code in them is
executed. Files are memory-mapped, so that only the requested tensors are read; pickles from before PyTorch 1.6 cannot
be mapped and are read completely.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.llava.parts import Part
from compact_hf.models.loading import first_line

if TYPE_CHECKING:
    import torch
    from transformers import LlavaConfig


def read_tensors(path: Path, keys: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return some tensors of a file by key; the file stays open as long as one of them is in use.

    Args:
        path (`Path`): a safetensors file or a pickle.
        keys (`Iterable[str]`): keys of the tensors.

    Raises:
        TuningError: if the file cannot be read.
    """
    if not _is_safetensors(path):
        state_dict = _load_pickle(path, on_meta=False)
        return {key: state_dict[key] for key in keys}
    with _translate_read_errors(path):
        file = _open_safetensors(path)
        return {key: file.get_tensor(key) for key in keys}


def read_headers(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return key -> (shape, dtype) of a file's tensors without reading the tensors.

    Args:
        path (`Path`): a safetensors file or a pickle.

    Raises:
        TuningError: if the file cannot be read, or is not a dictionary of tensors.
    """
    if _is_safetensors(path):
        with _translate_read_errors(path):
            state_dict = read_tensors(
                path, list(_open_safetensors(path).keys())
            )  # memory-mapped tensors, because slices do not have a torch dtype
    else:
        state_dict = _load_pickle(path, on_meta=True)
    return {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}


def is_mappable(path: Path) -> bool:
    """Return whether a file can be memory-mapped, so that its tensors can be read one by one.

    Args:
        path (`Path`): a safetensors file or a pickle.
    """
    return _is_safetensors(path) or zipfile.is_zipfile(path)


def _open_safetensors(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, "pt")


def _load_pickle(path: Path, *, on_meta: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickle, mapped into memory or, for shapes and dtypes only, on the meta device."""
    import torch

    with _translate_read_errors(path), warnings.catch_warnings():
        # torch warns about protocols that it may not be able to read; then it raises an error.
        warnings.simplefilter("ignore", UserWarning)
        state_dict = torch.load(
            path, map_location="meta" if on_meta else "cpu", mmap=is_mappable(path) and not on_meta, weights_only=True
        )
    if not isinstance(state_dict, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state_dict.values()):
        raise TuningError(
            f"{path.name} is not a dictionary of tensors: give weights that torch.save wrote from a state_dict"
        )
    return state_dict


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into a `TuningError` that names it."""
    try:
        yield
    except TuningError:
        raise
    except pickle.UnpicklingError as error:
        raise TuningError(
            f"{path.name} contains other objects than tensors, and such pickles are not loaded because they can run "
            "code: convert it to safetensors"
        ) from error
    # torch's reader of pickles checks no types: a damaged pickle can raise any error.
    except Exception as error:
        raise TuningError(f"{path.name} cannot be read ({first_line(error)}): download or save it again") from error


SHARD_BYTES: Final = 2_000_000_000
"""Maximum size of a shard, unless a single weight is larger; it bounds the memory that assembling takes."""
INDEX_FILE: Final = "model.safetensors.index.json"

_RESIZED_WEIGHTS: Final = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_SUM_CHUNK_ROWS: Final = 4096  # rows that are converted to float64 at a time, which bounds memory
# Keys without a counterpart in the base: they are computed from the config, or belong to CLIP's text model.
_SKIPPED_KEYS: Final = {
    "language model": ("rotary_emb.inv_freq",),
    "vision tower": ("position_ids", "text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    "projector": (),
}
_PROJECTOR_LAYERS: Final = {"0": "linear_1", "2": "linear_2"}  # 1 is the activation between them


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the base, before it is read.

    Attributes:
        file (`Path`): the part's file that contains it.
        key (`str`): its key in that file.
        name (`str`): its name in the base.
        shape (`tuple[int, ...]`): its shape in the base.
        dtype (`torch.dtype`): its dtype in the base.
    """

    file: Path
    key: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def expected_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Return the weights of a base with this config: name on disk -> shape.

    Args:
        config (`LlavaConfig`): the base's config.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    # A tied head is the tensor of the embeddings, which is saved once.
    tied_names = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {
        _saved_name(name): tuple(value.shape) for name, value in model.state_dict().items() if name not in tied_names
    }


def find_weights(parts: tuple[Part, ...], config: LlavaConfig, *, dtype: torch.dtype | None) -> list[Weight]:
    """Return the base's weights in the order of the parts' files, of which only the headers are read.

    Args:
        parts (`tuple[Part, ...]`): the three parts.
        config (`LlavaConfig`): the base's config.
        dtype (`torch.dtype`, *optional*): dtype to convert to; None keeps the stored dtype of each weight.

    Raises:
        TuningError: if a file cannot be read, or a weight is missing, unexpected, of another shape, or not floating
            point.
    """
    expected, weights = expected_shapes(config), dict[str, Weight]()
    for part in parts:
        directory = part.fetch()
        for file in (directory / name for name in part.weight_files):
            for key, (shape, stored_dtype) in read_headers(file).items():
                name = _map_part_key(part.role, key)
                if name is None or (config.tie_word_embeddings and name == "language_model.lm_head.weight"):
                    continue
                if name not in expected:
                    raise TuningError(
                        f"{part} has the weight {key}, which LLaVA-1.5 does not have: give a model of the right kind"
                    )
                if name in weights:
                    raise TuningError(f"{part} has {key} twice: save it again, without duplicate shards")
                if not stored_dtype.is_floating_point:
                    raise TuningError(f"{part} has {key} as {stored_dtype}: give it in floating point, not quantized")
                _check_shape(part, key, name, shape, expected[name], config)
                weights[name] = Weight(file, key, name, expected[name], dtype or stored_dtype)
        _check_complete(part, expected, weights)
    return list(weights.values())


def write_weights(
    weights: list[Weight], directory: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the shards and their index.

    The rows of added tokens are the mean of all other rows, computed separately for embeddings and head. This is
    LLaVA's rule (`smart_tokenizer_and_embedding_resize`): added tokens are never likely, and the same parts give the
    same bytes. llava-hf's conversion differs: it draws these rows at random around the mean of the embeddings, even for
    the head. None of these rows is ever used or trained: `<image>` is replaced by image features, `<pad>` is masked.

    Args:
        weights (`list[Weight]`): the result of `find_weights`.
        directory (`Path`): an existing empty directory.
        on_progress (`Callable[[int, int], None]`, *optional*): called after each shard with the bytes written so far,
            and their total.

    Raises:
        TuningError: if a weight is not finite, before or after rounding, or a file can no longer be read.
        OSError: if a shard cannot be written.
    """
    shards = _split_shards(weights)
    total, done = sum(weight.nbytes for weight in weights), 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        # The names that transformers expects beside an index.
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(shard, directory / name)
        weight_map |= dict.fromkeys((weight.name for weight in shard), name)
        done += sum(weight.nbytes for weight in shard)
        on_progress(done, total)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name in set(weight_map.values()):
        # safetensors creates files that only their owner can read, regardless of the umask.
        shutil.copymode(directory / INDEX_FILE, directory / name)


def estimate_peak_memory(weights: list[Weight]) -> int:
    """Return the peak memory of `write_weights` in bytes: the largest shard, and the largest file that is not mapped.

    Args:
        weights (`list[Weight]`): the result of `find_weights`.
    """
    # A file that cannot be mapped is in memory completely while a shard of it is written.
    unmapped_sizes = [file.stat().st_size for file in {weight.file for weight in weights} if not is_mappable(file)]
    return max(sum(weight.nbytes for weight in shard) for shard in _split_shards(weights)) + max(
        unmapped_sizes, default=0
    )


def _write_shard(shard: list[Weight], path: Path) -> None:
    """Write one shard; its tensors are freed when this returns, before those of the next shard are read."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Files are opened again for each shard: mapped pages count as used memory until the file is closed.
    sources = read_tensors(shard[0].file, [weight.key for weight in shard])
    converted = {weight.name: _convert_tensor(sources[weight.key], weight) for weight in shard}
    try:
        save_file(converted, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {first_line(error)}") from error


def _convert_tensor(source: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Return a tensor in the dtype of the base, with rows for the added tokens."""
    import torch

    tensor = source.to(weight.dtype)
    # Only embeddings and head lack rows (see `_check_shape`).
    if (missing_rows := weight.shape[0] - len(source)) > 0:
        # (hidden,): summed in float64, because float16 has too few digits for a sum of 32,000 rows.
        row_sum = torch.stack([rows.sum(0, dtype=torch.float64) for rows in torch.split(source, _SUM_CHUNK_ROWS)]).sum(
            0
        )
        tensor = torch.cat([tensor, (row_sum / len(source)).to(weight.dtype).expand(missing_rows, -1)])
    # A NaN anywhere makes both minimum and maximum NaN.
    if not all(bound.isfinite() for bound in tensor.aminmax()):
        raise TuningError(
            f"{weight.key} in {weight.file.name} has values that are not finite in {weight.dtype}: download it again, "
            "or choose bfloat16 or float32"
        )
    # Weights of the same file may share a storage, which safetensors refuses to write.
    has_own_storage = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == weight.nbytes
    return tensor if has_own_storage else tensor.clone(memory_format=torch.contiguous_format)


def _split_shards(weights: list[Weight]) -> list[list[Weight]]:
    """Split the weights into shards of at most `SHARD_BYTES`, each with weights of a single source file."""
    shards: list[list[Weight]] = [[]]
    size = 0
    for weight in weights:
        # A shard has one source file, so that only one is open while it is written.
        if shards[-1] and (weight.file != shards[-1][-1].file or size + weight.nbytes > SHARD_BYTES):
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += weight.nbytes
    return shards


def _saved_name(name: str) -> str:
    """Return the name on disk of a weight of `LlavaForConditionalGeneration`, given its name in memory."""
    # In memory: lm_head.*, model.{language_model,vision_tower,multi_modal_projector}.*. The names on disk are older.
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    name = name.replace("language_model.", "language_model.model.", 1)
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _map_part_key(role: str, key: str) -> str | None:
    """Return the name on disk of a part's weight, None if the base does not need it."""
    if any(key.startswith(affix) or key.endswith(affix) for affix in _SKIPPED_KEYS[role]):
        return None
    if role == "language model":
        return f"language_model.{key}"
    if role == "vision tower":
        return f"vision_tower.vision_model.{key.removeprefix('vision_model.')}"
    # `model.mm_projector.0.weight` -> ("0", "weight"); the prefix may be missing.
    number, _, kind = key.rpartition("mm_projector.")[2].partition(".")
    return f"multi_modal_projector.{_PROJECTOR_LAYERS.get(number, number)}.{kind}"


def _check_shape(
    part: Part, key: str, name: str, shape: tuple[int, ...], base_shape: tuple[int, ...], config: LlavaConfig
) -> None:
    """Raise if a weight does not have the shape of the base; embeddings and head lack the rows of added tokens."""
    # The id of `<image>`, the first added token, is the number of rows before.
    expected = (config.image_token_index, *base_shape[1:]) if name in _RESIZED_WEIGHTS else base_shape
    if shape == expected:
        return
    message = f"{part} has {key} of shape {list(shape)}, but it has to be {list(expected)}"
    if part.role == "projector":
        raise TuningError(
            f"{message}, from the vision tower's {config.vision_config.hidden_size} to the language model's "
            f"{config.text_config.hidden_size}: give the projector that was trained for these two"
        )
    raise TuningError(f"{message} according to its config.json: download or save it again")


def _check_complete(part: Part, expected: dict[str, tuple[int, ...]], present: Container[str]) -> None:
    """Raise if a part lacks weights of the base."""
    prefixes = {
        "language model": "language_model.",
        "vision tower": "vision_tower.",
        "projector": "multi_modal_projector.",
    }
    if missing := [name for name in expected if name.startswith(prefixes[part.role]) and name not in present]:
        suffix = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise TuningError(f"{part} lacks the weights for {missing[0]}{suffix}: give a complete model")
