"""Estimate how much memory training takes, without weights, and report too little of it in one line.

Parameters are counted on the meta device, in the model that PEFT makes of the base. Activations are counted too, not
guessed: one and two decoder layers run forward on fake tensors of the largest batch, and what autograd keeps is summed.

    weights       every parameter, in the type it is loaded in; LoRA and trained copies in what PEFT makes of them
    gradients     the trained ones again; once more where DDP keeps its buckets
    optimizer     two states for each trained parameter (AdamW): in its type, or a byte each (8 bit)
    activations   projector + layers x what one keeps, of the language model and, if it is trained, of the tower; with
                  recomputation layers x its input + one whole layer

Sharded runs (FSDP, ZeRO-3) divide the first three by the number of processes and add two gathered layers. Not counted:
the CUDA context (about 0.5 GB), the tiles of the LM head and fragmentation; leave a tenth free. For small models on a
CPU the estimate is 1 to 13% above what torch's profiler measures (tests/training/test_dry_run.py).

If the device surely has too little, training is refused. If torch cannot get what it asks for, its error is reported
with the estimate. A process that the system kills cannot report anything: child_output.py then repeats what it said at
its start.
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
from compact_hf.models.loading import build_network
from compact_hf.models.registry import get_family
from compact_hf.training.trained_parts import freeze_other_parts

_OPTIMIZER_STATES: Final = 2
# A 4-bit weight with its share of bitsandbytes' scales (one byte for 64 of them, in double quantization).
_BYTES_PER_4BIT_WEIGHT: Final = 0.5 + 1 / 64


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """An estimate for one device, in bytes.

    Attributes:
        weights, gradients, optimizer, activations (`int`): what stands in this module's first lines.
        parameters (`int`): of the model, with LoRA and trained copies.
        trained (`int`): how many of them are trained.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    parameters: int
    trained: int

    @property
    def model_states(self) -> int:
        """What is there whatever the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.model_states + self.activations


@dataclass(frozen=True, slots=True)
class Devices:
    """How a run is spread.

    Attributes:
        processes (`int`): one for each device.
        is_sharded (`bool`): by FSDP or ZeRO-3; else each holds everything.
    """

    processes: int = 1
    is_sharded: bool = False


def estimate_memory(config: Any, args: Any, devices: Devices, *, rows: int = 0, length: int = 0) -> MemoryEstimate:
    """Return what training takes on each device.

    Args:
        config (`PreTrainedConfig`): the base's.
        args (`Arguments`): of the training script.
        devices (`Devices`): how many, and whether sharded.
        rows, length (`int`, *optional*): of the largest batch, which is padded to `length` tokens; without them no
            activations are counted.
    """
    import torch

    with torch.device("meta"):
        model = _build_model(config, args)
    parameters = list(model.named_parameters())
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    quantization = _Quantization.from_args(args)
    weights = sum(quantization.count_bytes(name, parameter) for name, parameter in parameters)
    gradients = sum(quantization.count_bytes("", parameter) for parameter in trained)
    optimizer_bytes = sum(parameter.numel() for parameter in trained) if "8bit" in args.training.optim else gradients
    optimizer_bytes *= _OPTIMIZER_STATES
    family, num_layers = get_family(config.model_type), config.get_text_config().num_hidden_layers
    if devices.is_sharded:
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
        gradients *= 2
    return MemoryEstimate(
        weights=int(weights),
        gradients=int(gradients),
        optimizer=int(optimizer_bytes),
        activations=_estimate_activations(config, args, rows, length, num_layers) if rows else 0,
        parameters=sum(parameter.numel() for _, parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
    )


def _build_model(config: Any, args: Any) -> Any:
    """Return the model of a configuration as the trainer makes it, on whatever device is the default."""
    import torch
    from peft import get_peft_model
    from trl import get_peft_config

    dtype = getattr(torch, str((args.training.model_init_kwargs or {}).get("dtype") or args.model.dtype or "float32"))
    model = build_network(config, dtype=dtype)
    peft_config = get_peft_config(args.model)
    if peft_config is not None:
        return get_peft_model(model, peft_config)
    if args.trained_parts:
        freeze_other_parts(model, args.trained_parts, get_family(config.model_type))
    return model


@dataclass(frozen=True, slots=True)
class _Quantization:
    """What bitsandbytes holds in 4 bits: every linear layer but the trained and those that it is told to skip."""

    is_4bit: bool
    skipped_modules: tuple[str, ...]

    @classmethod
    def from_args(cls, args: Any) -> _Quantization:
        config = (args.training.model_init_kwargs or {}).get("quantization_config") or {}
        skipped_modules = config.get("llm_int8_skip_modules") or ("lm_head",)
        return cls(bool(args.model.load_in_4bit or config.get("load_in_4bit")), (*skipped_modules, "embed"))

    def count_bytes(self, name: str, parameter: Any) -> float:
        if self.is_4bit and parameter.requires_grad:
            return float(parameter.numel() * 2)  # TRL makes bfloat16 of what is trained over 4 bits
        if self.is_4bit and parameter.dim() == 2 and not any(module in name for module in self.skipped_modules):
            return float(parameter.numel() * _BYTES_PER_4BIT_WEIGHT)
        return float(parameter.numel() * parameter.element_size())


def _estimate_activations(config: Any, args: Any, rows: int, length: int, num_layers: int) -> int:
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
    """Return what autograd keeps of a stack of layers, from what it keeps of a stack of one and of two."""
    layer_bytes, other_bytes = two - one, 2 * one - two
    if is_checkpointed and layer_bytes:
        return other_bytes + num_layers * input_bytes + layer_bytes
    return other_bytes + num_layers * layer_bytes


@dataclass(frozen=True, slots=True)
class _SavedBytes:
    """What autograd keeps of each part for a backward pass, in bytes; `tower_output` is the size of what it returns."""

    projector: int
    language_model: int
    tower: int
    tower_output: int


def _measure_saved_bytes(config: Any, args: Any, rows: int, length: int, *, num_layers: int) -> _SavedBytes:
    """Run each part forward on fake tensors, the language model and the tower with so many layers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    small_config = copy.deepcopy(config)
    small_config.get_text_config().num_hidden_layers = num_layers
    if hasattr(getattr(config, "vision_config", None), "num_hidden_layers"):
        small_config.vision_config.num_hidden_layers = num_layers
    family = get_family(config.model_type)
    with torch.device("meta"):
        model = _build_model(small_config, args).train()
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    autocast_dtype = torch.bfloat16 if args.training.bf16 else torch.float16
    with FakeTensorMode(), torch.autocast("cpu", autocast_dtype, enabled=args.training.bf16 or args.training.fp16):
        language_model = _get_part(model, family, "language_model")
        dtype = language_model.get_input_embeddings().weight.dtype
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
    """Return the first module of a part, which is the part but for what stands beside it, such as the LM head."""
    name = family.parts[part].modules[0]
    return next(module for path, module in model.named_modules() if f".{path}".endswith(f".{name}"))


def _count_saved_bytes(module: Any, **inputs: Any) -> tuple[int, int]:
    """Return how many bytes autograd keeps of a module's forward pass, but for its own parameters, and its output's."""
    import torch

    module_state = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    own_addresses = {tensor.untyped_storage()._cdata for tensor in module_state.values()}
    storages: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        # Kept alive, or another storage would be given its address.
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = torch.func.functional_call(module, module_state, kwargs=inputs)
    output = getattr(output, "last_hidden_state", output)
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own_addresses), output.nbytes


ESTIMATE_PREFIX: Final = "memory for each device: "
"""How the line begins that says the estimate before weights are read."""
SMALLER_BATCH_ADVICE: Final = (
    "lower per_device_train_batch_size and raise gradient_accumulation_steps as much, set activation_checkpointing to "
    "true, or train over 4 bits (llava15-7b-qlora)"
)
_SMALLER_MODEL_ADVICE: Final = (
    "train a LoRA, over 4 bits (llava15-7b-qlora), or sharded over more devices (llava15-7b-lora-fsdp2)"
)
_MAX_OVERESTIMATE: Final = 1.15
"""How far an estimate may lie above what is taken (memory.py)."""
_ALLOCATION_SIZE: Final = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def get_device_memory(device: Any) -> int:
    """Return what one process may take on a device, in bytes: a GPU's memory, or its share of the machine's."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    machine_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine_memory // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe_memory(needed: MemoryEstimate, available: int) -> str:
    """Return both in words: `about 38 GB (weights 14, gradients 1.4, ...), and there are 25.4 GB`."""
    names = ("weights", "gradients", "optimizer", "activations")
    sizes = {name: size for name in names if (size := getattr(needed, name))}
    parts = ", ".join(f"{name} {_format_gigabytes(size)}" for name, size in sizes.items())
    return f"about {_format_gigabytes(needed.total)} GB ({parts}), and there are {_format_gigabytes(available)} GB"


def _format_gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f}" if size >= 100e9 else f"{size / 1e9:.3g}"


def check_memory(needed: MemoryEstimate, available: int) -> None:
    """Refuse what surely does not fit.

    Args:
        needed (`MemoryEstimate`): without activations where the batches are not known yet.
        available (`int`): bytes that a device has.

    Raises:
        TuningError: with the estimate.
    """
    if needed.model_states <= available and needed.total <= _MAX_OVERESTIMATE * available:
        return
    advice = _SMALLER_MODEL_ADVICE if needed.model_states > available else SMALLER_BATCH_ADVICE
    raise TuningError(f"not enough memory: training takes {describe_memory(needed, available)}; {advice}")


@contextmanager
def translate_memory_errors(needed: MemoryEstimate, available: int) -> Iterator[None]:
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
        match = _ALLOCATION_SIZE.search(str(error))
        shortfall = f"{match[1]} more could not be had; " if match else ""
        raise TuningError(
            f"out of memory: {shortfall}training takes {describe_memory(needed, available)}; {SMALLER_BATCH_ADVICE}"
        ) from error
