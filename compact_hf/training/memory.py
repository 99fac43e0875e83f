"""Estimates the memory that training takes per device, without weights, and reports a lack of memory in one line.

Parameters are counted on the meta device, in the model that PEFT makes of the base. Activations are counted too: the
model runs forward with one and with two decoder layers on fake tensors of the largest batch, and the tensors that
autograd saves are summed up.

    weights       all parameters, in the dtype they are loaded in; LoRA and trained copies in the dtype PEFT gives them
    gradients     all trained parameters; twice with DDP, which keeps buckets of its own
    optimizer     two states per trained parameter for AdamW, in its dtype, or of one byte each with an 8-bit optimizer;
                  of optimizers without a rule (model_size.py) none
    activations   projector + number of layers x saved tensors of a layer, for the language model and, if it is trained,
                  the vision tower; with gradient checkpointing, number of layers x input of a layer + one whole layer

With FSDP and ZeRO-3, the first three are divided by the number of processes, and two gathered layers are added. Not
included: the CUDA context (about 0.5 GB), the tiles of the LM head, and fragmentation; leave 10% headroom. For small
models on a CPU the estimate is 1 to 13% above what torch's profiler measures (tests/training/test_dry_run.py).

Training is refused if the device certainly has too little memory. If torch runs out of memory, its error is reported
with the estimate. A process that the system kills cannot report anything; child_output.py then reports the estimate
that the process printed at its start.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.family import ModelFamily
from compact_hf.models.registry import get_family
from compact_hf.training.model_size import Quantization, build_model, count_optimizer_bytes
from compact_hf.wording import format_gigabytes


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """An estimate for one device, in bytes; the module's docstring defines its parts.

    Attributes:
        weights (`int`): bytes of all parameters.
        gradients (`int`): bytes of the gradients.
        optimizer (`int`): bytes of the optimizer states.
        activations (`int`): bytes that autograd saves for the backward pass.
        parameters (`int`): number of parameters of the model, LoRA and trained copies included.
        trained (`int`): number of trained parameters.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    parameters: int
    trained: int

    @property
    def model_states(self) -> int:
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return self.model_states + self.activations


@dataclass(frozen=True, slots=True)
class Devices:
    """How a run is distributed over devices.

    Attributes:
        processes (`int`): number of processes, one per device.
        is_sharded (`bool`): whether FSDP or ZeRO-3 shards the model; otherwise each device holds all of it.
    """

    processes: int = 1
    is_sharded: bool = False


def estimate_memory(config: Any, args: Any, devices: Devices, *, rows: int = 0, length: int = 0) -> MemoryEstimate:
    """Estimate the memory that training takes on each device.

    Args:
        config (`PreTrainedConfig`): configuration of the base.
        args (`Arguments`): arguments of the training script.
        devices (`Devices`): number of processes, and whether the model is sharded.
        rows (`int`, *optional*, defaults to 0): rows of the largest batch; 0 leaves out activations.
        length (`int`, *optional*, defaults to 0): tokens per row of the largest batch, after padding.

    Returns:
        `MemoryEstimate`: bytes per device.
    """
    import torch

    with torch.device("meta"):
        model = build_model(config, args)
    parameters = list(model.named_parameters())
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    quantization = Quantization.from_args(args)
    weights = sum(quantization.count_bytes(name, parameter) for name, parameter in parameters)
    gradients = sum(quantization.count_bytes("", parameter) for parameter in trained)
    optimizer_bytes = count_optimizer_bytes(trained, args)
    family, num_layers = get_family(config.model_type), config.get_text_config().num_hidden_layers
    if devices.is_sharded:
        # A process holds its share of everything, and the whole weights of the layers that it is computing.
        gathered_bytes = 2 * sum(
            quantization.count_bytes(name, weight)
            for name, weight in parameters
            if family.find_part(name) == "language_model" and ".layers.0." in name
        )
        weights, gradients, optimizer_bytes = (
            size // devices.processes for size in (weights, gradients, optimizer_bytes)
        )
        weights += gathered_bytes
    elif devices.processes > 1:
        gradients *= 2  # DDP's buckets
    return MemoryEstimate(
        weights=int(weights),
        gradients=int(gradients),
        optimizer=int(optimizer_bytes),
        activations=_estimate_activations(config, args, rows, length, num_layers) if rows else 0,
        parameters=sum(parameter.numel() for _, parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
    )


def _estimate_activations(config: Any, args: Any, rows: int, length: int, num_layers: int) -> int:
    """Return the bytes that autograd saves in a forward pass over a batch of shape `(rows, length)`."""
    one, two = (_measure_saved_bytes(config, args, rows, length, num_layers=count) for count in (1, 2))
    hidden_bytes = config.get_text_config().hidden_size * (2 if args.training.bf16 or args.training.fp16 else 4)
    is_checkpointed = args.training.gradient_checkpointing
    num_tower_layers = getattr(getattr(config, "vision_config", None), "num_hidden_layers", 1)
    return (
        one.projector
        + _sum_layers(one.language_model, two.language_model, num_layers, rows * length * hidden_bytes, is_checkpointed)
        + _sum_layers(one.tower, two.tower, num_tower_layers, one.tower_output, is_checkpointed)
    )


def _sum_layers(one: int, two: int, num_layers: int, input_bytes: int, is_checkpointed: bool) -> int:
    """Extrapolate the saved bytes from one and two layers to `num_layers`."""
    # one = other + layer, and two = other + 2 * layer
    layer_bytes, other_bytes = two - one, 2 * one - two
    if is_checkpointed and layer_bytes:
        # Each layer keeps only its input; one layer at a time is recomputed in full.
        return other_bytes + num_layers * input_bytes + layer_bytes
    return other_bytes + num_layers * layer_bytes


@dataclass(frozen=True, slots=True)
class _SavedBytes:
    """Bytes that autograd saves for each part's backward pass; `tower_output` is the size of the tower's output."""

    projector: int
    language_model: int
    tower: int
    tower_output: int


def _measure_saved_bytes(config: Any, args: Any, rows: int, length: int, *, num_layers: int) -> _SavedBytes:
    """Run each part forward on fake tensors, with `num_layers` layers in the language model and in the tower."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    small_config = copy.deepcopy(config)
    small_config.get_text_config().num_hidden_layers = num_layers
    if hasattr(getattr(config, "vision_config", None), "num_hidden_layers"):
        small_config.vision_config.num_hidden_layers = num_layers
    family = get_family(config.model_type)
    with torch.device("meta"):
        model = build_model(small_config, args).train()
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    # Fake tensors have shapes and dtypes but no data, so that a model of any size can run on any machine.
    autocast_dtype = torch.bfloat16 if args.training.bf16 else torch.float16
    with FakeTensorMode(), torch.autocast("cpu", autocast_dtype, enabled=args.training.bf16 or args.training.fp16):
        language_model = _get_part(model, family, "language_model")
        dtype = language_model.get_input_embeddings().weight.dtype
        # Embeddings as input, because image features are inserted at this point: (rows, length, hidden).
        inputs_embeds = torch.zeros(
            rows, length, small_config.get_text_config().hidden_size, dtype=dtype, requires_grad=True
        )
        text_bytes, _ = _count_saved_bytes(language_model, inputs_embeds=inputs_embeds, use_cache=False)
        image_bytes = {"projector": (0, 0), "tower": (0, 0)}
        for part, shapes in family.part_inputs(small_config, rows).items():
            inputs = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
            image_bytes[part] = _count_saved_bytes(_get_part(model, family, part), **inputs)
    return _SavedBytes(image_bytes["projector"][0], text_bytes, *image_bytes["tower"])


def _get_part(model: Any, family: ModelFamily, part: str) -> Any:
    """Return the first module of a part: all of it except separate modules such as the LM head."""
    name = family.parts[part].modules[0]
    # Dots at both ends: only whole components of a module's path match.
    return next(module for path, module in model.named_modules() if f".{path}".endswith(f".{name}"))


def _count_saved_bytes(module: Any, **inputs: Any) -> tuple[int, int]:
    """Return (bytes that autograd saves in a module's forward pass without its own parameters, bytes of its output)."""
    import torch

    # The module is on the meta device, where the forward pass cannot run with fake inputs: use fake parameters too.
    module_state = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    own_addresses = {tensor.untyped_storage()._cdata for tensor in module_state.values()}
    storages: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        # Keep the storage alive: once it is freed, another one could get the same address.
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = torch.func.functional_call(module, module_state, kwargs=inputs)
    output = getattr(output, "last_hidden_state", output)
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own_addresses), output.nbytes


ESTIMATE_PREFIX: Final = "memory for each device: "
"""Beginning of the line with the estimate that a training process prints before it reads weights."""
SMALLER_BATCH_ADVICE: Final = (
    "lower per_device_train_batch_size and raise gradient_accumulation_steps by the same factor, set "
    "activation_checkpointing to true, or train on a 4-bit base (llava15-7b-qlora)"
)
_SMALLER_MODEL_ADVICE: Final = (
    "train a LoRA, use a 4-bit base (llava15-7b-qlora), or shard over more devices (llava15-7b-lora-fsdp2)"
)
_MAX_OVERESTIMATE: Final = 1.15
"""Largest ratio of estimated to actual memory that is expected: 1.13 was measured (see the module's docstring)."""
_ALLOCATION_SIZE: Final = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def get_device_memory(device: Any) -> int:
    """Return the memory that one process may use, in bytes: that of a GPU, or an equal share of the machine's.

    Args:
        device (`torch.device`): the device of training.
    """
    import torch

    if device.type == "cuda":
        # (free, total) in bytes
        return int(torch.cuda.mem_get_info(device)[1])
    # On the CPU, all processes of the machine share its memory.
    machine_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine_memory // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe_memory(needed: MemoryEstimate, available: int) -> str:
    """Return both as text: `about 38 GB (weights 14, gradients 1.4, ...), and 25.4 GB are available`.

    Args:
        needed (`MemoryEstimate`): the estimate for one device.
        available (`int`): memory of the device in bytes.
    """
    names = ("weights", "gradients", "optimizer", "activations")
    sizes = {name: size for name in names if (size := getattr(needed, name))}
    parts = ", ".join(f"{name} {format_gigabytes(size)}" for name, size in sizes.items())
    return f"about {format_gigabytes(needed.total)} GB ({parts}), and {format_gigabytes(available)} GB are available"


def check_memory(needed: MemoryEstimate, available: int) -> None:
    """Raise if training certainly does not fit into memory.

    Args:
        needed (`MemoryEstimate`): the estimate, without activations if batches are not known yet.
        available (`int`): memory of the device in bytes.

    Raises:
        TuningError: if it does not fit; the message has the estimate.
    """
    # Model states are counted exactly. Activations may be overestimated, so training is tried if it could just fit.
    if needed.model_states <= available and needed.total <= _MAX_OVERESTIMATE * available:
        return
    advice = _SMALLER_MODEL_ADVICE if needed.model_states > available else SMALLER_BATCH_ADVICE
    raise TuningError(f"not enough memory: training takes {describe_memory(needed, available)}; {advice}")


@contextmanager
def translate_memory_errors(needed: MemoryEstimate, available: int) -> Iterator[None]:
    """Replace torch's out-of-memory errors, on any device, by one line with the estimate.

    Args:
        needed (`MemoryEstimate`): the estimate for one device.
        available (`int`): memory of the device in bytes.

    Raises:
        TuningError: if the block runs out of memory.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not should_reduce_batch_size(error):
            raise
        match = _ALLOCATION_SIZE.search(str(error))
        shortfall = f"{match[1]} more could not be allocated; " if match else ""
        raise TuningError(
            f"out of memory: {shortfall}training takes {describe_memory(needed, available)}; {SMALLER_BATCH_ADVICE}"
        ) from error
