"""Convert the weights of a base: the parts' files to safetensors shards and their index, one shard in memory at a time.

    language model   model.* and lm_head.weight   -> language_model.*, with rows for the tokens that were added
    vision tower     vision_model.*               -> vision_tower.vision_model.*; CLIP's text side is left out
    projector        model.mm_projector.{0,2}.*   -> multi_modal_projector.linear_{1,2}.*

Every name and shape is compared with what the model needs before the first byte is written: nothing is missing, nothing
is left over, and nothing is drawn at random. The names are those of llava-hf's repositories, which transformers of all
versions and vLLM read.

Parts are safetensors or PyTorch's pickles. A pickle is read with `weights_only`, so that nothing in it is run. Either
kind is mapped into memory, not read: what a caller does not ask for costs nothing. Pickles of before PyTorch 1.6 cannot
be mapped and are read whole.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
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


SHARD_BYTES: Final = 2_000_000_000
"""At most so much of one file, unless a single weight is larger; it bounds the memory that assembling takes."""
INDEX: Final = "model.safetensors.index.json"

_WITH_NEW_ROWS: Final = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_MEAN_ROWS: Final = 4096  # are summed at a time
# Computed from the config, or no part of the model here.
_NOT_NEEDED: Final = {
    "language model": ("rotary_emb.inv_freq",),
    "vision tower": ("position_ids", "text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    "projector": (),
}
_LAYERS: Final = {"0": "linear_1", "2": "linear_2"}


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the base, before it is read.

    Attributes:
        file (`Path`): where it lies.
        key (`str`): its name there.
        name (`str`): its name in the base.
        shape (`tuple[int, ...]`): in the base.
        dtype (`torch.dtype`): in the base.
    """

    file: Path
    key: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def weights_needed(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Return what a base of this config consists of: name on disk -> shape."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {_on_disk(name): tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def weights_found(parts: tuple[Part, ...], config: LlavaConfig, *, dtype: torch.dtype | None) -> list[Weight]:
    """Return the base's weights in the order in which they are read; only the heads of the files are.

    Args:
        parts (`tuple[Part, ...]`): all three.
        config (`LlavaConfig`): of the base.
        dtype (`torch.dtype`, *optional*): to round to; None leaves every weight as it is stored.

    Raises:
        TuningError: a file cannot be read; or a weight is missing, left over, of another shape, or not floating point.
    """
    needed, found = weights_needed(config), dict[str, Weight]()
    for part in parts:
        folder = part.fetch()
        for file in (folder / name for name in part.weights):
            for key, (shape, stored) in heads(file).items():
                name = _name_in_base(part.role, key)
                if name is None or (config.tie_word_embeddings and name == "language_model.lm_head.weight"):
                    continue
                if name not in needed:
                    raise TuningError(f"{part} has {key}, for which LLaVA-1.5 has no place; give one of its kind")
                if name in found:
                    raise TuningError(f"{part} has {key} twice; give one that was saved whole")
                if not stored.is_floating_point:
                    raise TuningError(f"{part} has {key} as {stored}; give it in floating point, not quantized")
                _refuse_other_shape(part, key, name, shape, needed[name], config)
                found[name] = Weight(file, key, name, needed[name], dtype or stored)
        _refuse_missing(part, needed, found)
    return list(found.values())


def write_weights(
    weights: list[Weight], folder: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the shards and the index into a folder.

    The rows of tokens that were added are the mean of all the others, in the embeddings and in the head each, which is
    LLaVA's own rule (`smart_tokenizer_and_embedding_resize`): an added token is then never likely, and the same parts
    give the same bytes. llava-hf's conversion draws them around the mean of the embeddings instead, for the head too.
    No row of them is ever read or learnt: `<image>` is replaced by features, `<pad>` is masked.

    Args:
        weights (`list[Weight]`): as `weights_found` returns them.
        folder (`Path`): is there and empty.
        on_progress (`Callable[[int, int], None]`, *optional*): is told the bytes written, and of how many.

    Raises:
        TuningError: a weight is not finite, or gets so by rounding; or a file cannot be read any more.
        OSError: there is no room for a shard.
    """
    shards = _shards(weights)
    total, done = sum(weight.nbytes for weight in weights), 0
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(shard, folder / name)
        places |= dict.fromkeys((weight.name for weight in shard), name)
        done += sum(weight.nbytes for weight in shard)
        on_progress(done, total)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name in set(places.values()):
        # safetensors makes files that nobody else may read, whatever the umask.
        shutil.copymode(folder / INDEX, folder / name)


def memory_needed(weights: list[Weight]) -> int:
    """Return the bytes that `write_weights` holds at once: a shard, and a file that can only be read whole."""
    whole = [file.stat().st_size for file in {weight.file for weight in weights} if not is_mapped(file)]
    return max(sum(weight.nbytes for weight in shard) for shard in _shards(weights)) + max(whole, default=0)


def _write_shard(shard: list[Weight], path: Path) -> None:
    """Write one shard; its tensors are let go when it returns, before those of the next are read."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Opened anew for each shard: what was mapped for the one before counts as memory in use until it is closed.
    stored = tensors(shard[0].file, [weight.key for weight in shard])
    finished = {weight.name: _finished(stored[weight.key], weight) for weight in shard}
    try:
        save_file(finished, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {first_line(error)}") from error


def _finished(stored: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Return a tensor with the rows that it lacks, in the dtype that it shall have."""
    import torch

    tensor = stored.to(weight.dtype)
    if (lacking := weight.shape[0] - len(stored)) > 0:
        total = torch.stack([rows.sum(0, dtype=torch.float64) for rows in torch.split(stored, _MEAN_ROWS)]).sum(0)
        tensor = torch.cat([tensor, (total / len(stored)).to(weight.dtype).expand(lacking, -1)])
    if not all(bound.isfinite() for bound in tensor.aminmax()):
        raise TuningError(
            f"{weight.key} in {weight.file.name} holds values that are no finite {weight.dtype}; fetch it again, or "
            "choose bfloat16 or float32"
        )
    # Weights of one file may share their storage, which safetensors refuses to write.
    is_alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == weight.nbytes
    return tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)


def _shards(weights: list[Weight]) -> list[list[Weight]]:
    """Return the weights in files of at most `SHARD_BYTES`, each with weights of one file of a part."""
    shards: list[list[Weight]] = [[]]
    size = 0
    for weight in weights:
        if shards[-1] and (weight.file != shards[-1][-1].file or size + weight.nbytes > SHARD_BYTES):
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += weight.nbytes
    return shards


def _on_disk(name: str) -> str:
    """Return the name on disk of a weight of `LlavaForConditionalGeneration`."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    name = name.replace("language_model.", "language_model.model.", 1)
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _name_in_base(role: str, key: str) -> str | None:
    """Return the name on disk of a part's weight, None for what a base does not need."""
    if any(key.startswith(one) or key.endswith(one) for one in _NOT_NEEDED[role]):
        return None
    if role == "language model":
        return f"language_model.{key}"
    if role == "vision tower":
        return f"vision_tower.vision_model.{key.removeprefix('vision_model.')}"
    number, _, kind = key.rpartition("mm_projector.")[2].partition(".")
    return f"multi_modal_projector.{_LAYERS.get(number, number)}.{kind}"


def _refuse_other_shape(
    part: Part, key: str, name: str, shape: tuple[int, ...], needed: tuple[int, ...], config: LlavaConfig
) -> None:
    expected = (config.image_token_index, *needed[1:]) if name in _WITH_NEW_ROWS else needed
    if shape == expected:
        return
    told = f"{part} has {key} as {list(shape)}, and it has to be {list(expected)}"
    if part.role == "projector":
        raise TuningError(
            f"{told}, from the vision tower's {config.vision_config.hidden_size} to the language model's "
            f"{config.text_config.hidden_size}; give the projector that was trained between these two"
        )
    raise TuningError(f"{told} by its own config.json; fetch or save it again")


def _refuse_missing(part: Part, needed: dict[str, tuple[int, ...]], found: Container[str]) -> None:
    mine = {"language model": "language_model.", "vision tower": "vision_tower.", "projector": "multi_modal_projector."}
    if missing := [name for name in needed if name.startswith(mine[part.role]) and name not in found]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise TuningError(f"{part} has nothing for {missing[0]}{more}; give one that was saved whole")
