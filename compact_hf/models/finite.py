"""Checks that weights and logits are finite numbers.

If training diverges, weights become NaN or infinite. Such a model can be loaded, and gives an answer to every question:
the first token of its vocabulary. So weights are checked when they are loaded and published, and logits whenever an
answer is generated. Two cores check the 7 billion weights of LLaVA-1.5 in 6 seconds, and a GPU in a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.regular_files import check_regular

if TYPE_CHECKING:
    from torch import Tensor

_MAX_NAMES: Final = 3


class NonFiniteLogitsError(ValueError):
    """Raised for logits that are not finite: by the model itself, whatever the request is."""


def check_weights(network: Any) -> None:
    """Raise if a weight of a loaded model is not finite.

    Args:
        network (`torch.nn.Module`): the model, on any device; of a sharded model, this process's shards are checked.

    Raises:
        ValueError: if a weight is NaN or infinite; the message names the first such tensors.
    """
    if names := find_non_finite(network.named_parameters()):
        raise ValueError(
            f"its weights are not finite numbers ({format_names(names)}), as after training that diverged: train it "
            "again with a lower learning_rate, or download it again"
        )


def check_weight_files(directory: Path) -> None:
    """Raise if a safetensors file in a directory has a tensor that is not finite. Files are mapped, not loaded.

    Args:
        directory (`Path`): directory of a model or an adapter.

    Raises:
        TuningError: if a value is NaN or infinite, or a file cannot be read.
    """
    for path in sorted(directory.glob("*.safetensors")):
        if names := find_non_finite(_iter_file(path)):
            raise TuningError(
                f"{path} has weights that are not finite numbers ({format_names(names)}), as after training that "
                "diverged: train again with a lower learning_rate, or download the file again"
            )


def check_logits(logits: Tensor) -> None:
    """Raise if the logits of a token are not finite.

    Args:
        logits (`Tensor`): `(batch, vocabulary)`, before tokens are excluded by setting their logits to -inf.

    Raises:
        NonFiniteLogitsError: if a row has a value that is NaN or infinite, or only values of -inf.
    """
    # The maximum of a row is NaN if one of its values is.
    if not logits.amax(dim=-1).isfinite().all():
        raise NonFiniteLogitsError(
            "its logits are not finite numbers, as after training that diverged, or if float16 is too small for its "
            "activations: train it again with a lower learning_rate, or save it in bfloat16 or float32"
        )


def require_finite_logits(input_ids: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG001  # `generate` passes both
    """Return the logits unchanged if they are finite: a logits processor for `generate`.

    Args:
        input_ids (`Tensor`): ids of the tokens so far, `(batch, tokens)`.
        logits (`Tensor`): logits of the next token, `(batch, vocabulary)`.

    Raises:
        NonFiniteLogitsError: as for `check_logits`.
    """
    check_logits(logits)
    return logits


def find_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the tensors that have a NaN or infinite value.

    Args:
        tensors (`Iterable[tuple[str, Tensor]]`): (name, tensor) pairs; integers and tensors without data are skipped.
    """
    return [name for name, tensor in tensors if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    tensor = _get_local_values(tensor)
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    # torch cannot compare values of 8 bits. For all others, `aminmax` is 10 to 40 times faster than `isfinite`.
    lowest, highest = (tensor.float() if tensor.element_size() == 1 else tensor.detach()).aminmax()
    # A NaN anywhere makes both of them NaN.
    return bool(lowest.isfinite() and highest.isfinite())


def _get_local_values(tensor: Any) -> Any:
    """Return the tensor, or this process's shard of it: the whole would have to be gathered."""
    if hasattr(tensor, "to_local"):  # FSDP
        return tensor.to_local()
    if not hasattr(tensor, "ds_tensor"):
        return tensor
    # ZeRO-3 leaves an empty tensor in the model. The shards have equal sizes; the rest of the last one is not set.
    from torch.distributed import get_rank

    shard = tensor.ds_tensor
    return shard[: max(tensor.ds_numel - get_rank(tensor.ds_process_group) * shard.numel(), 0)]


def _iter_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file with their names, one in memory at a time."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise TuningError(f"{path} cannot be read ({reason}): save or download it again") from error


def format_names(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others.

    Args:
        names (`Sequence[str]`): names of tensors.
    """
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"
