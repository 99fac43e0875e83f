"""Estimate how much memory training takes, without weights, and report too little of it in one line.

Parameters are counted on the meta device, in the model that PEFT makes of the base. Activations are counted too, not
guessed: one and two decoder layers run forward on fake tensors of the largest batch, and what autograd keeps is summed.

    weights       every parameter, in the type it is loaded in; LoRA and trained copies in what PEFT makes of them
    gradients     the trained ones again; once more where DDP keeps its buckets
    optimizer     two states for each trained parameter (AdamW): in its type, or a byte each (8 bit)
    activations   projector + layers x what one keeps; with recomputation layers x its input + one whole layer

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

_STATES: Final = 2
# A 4-bit weight with its share of bitsandbytes' scales (one byte for 64 of them, in double quantization).
_BITS_4: Final = 0.5 + 1 / 64


@dataclass(frozen=True, slots=True)
class Memory:
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
    def held(self) -> int:
        """What is there whatever the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.held + self.activations


@dataclass(frozen=True, slots=True)
class Devices:
    """How a run is spread.

    Attributes:
        processes (`int`): one for each device.
        sharded (`bool`): by FSDP or ZeRO-3; else each holds everything.
    """

    processes: int = 1
    sharded: bool = False


def estimate(config: Any, told: Any, devices: Devices, *, rows: int = 0, length: int = 0) -> Memory:
    """Return what training takes on each device.

    Args:
        config (`LlavaConfig`): the base's.
        told (`Arguments`): of the training script.
        devices (`Devices`): how many, and whether sharded.
        rows, length (`int`, *optional*): of the largest batch, which is padded to `length` tokens; without them no
            activations are counted.
    """
    import torch

    with torch.device("meta"):
        model = _model(config, told)
    parameters = list(model.named_parameters())
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    bits = _Bits.of(told)
    weights = sum(bits.bytes_of(name, parameter) for name, parameter in parameters)
    gradients = sum(bits.bytes_of("", parameter) for parameter in trained)
    states = sum(parameter.numel() for parameter in trained) if "8bit" in told.training.optim else gradients
    states *= _STATES
    layers = config.get_text_config().num_hidden_layers
    if devices.sharded:
        gathered = 2 * sum(bits.bytes_of(name, one) for name, one in parameters if "language_model.layers.0." in name)
        weights, gradients, states = (part // devices.processes for part in (weights, gradients, states))
        weights += gathered
    elif devices.processes > 1:
        gradients *= 2
    return Memory(
        weights=int(weights),
        gradients=int(gradients),
        optimizer=int(states),
        activations=_activations(config, told, rows, length, layers) if rows else 0,
        parameters=sum(parameter.numel() for _, parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
    )


def _model(config: Any, told: Any) -> Any:
    """Return the model of a configuration as the trainer makes it, on whatever device is the default."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl import get_peft_config

    dtype = getattr(torch, str((told.training.model_init_kwargs or {}).get("dtype") or told.model.dtype or "float32"))
    model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    peft_config = get_peft_config(told.model)
    return model if peft_config is None else get_peft_model(model, peft_config)


@dataclass(frozen=True, slots=True)
class _Bits:
    """What bitsandbytes holds in 4 bits: every linear layer but the trained and those that it is told to skip."""

    used: bool
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, told: Any) -> _Bits:
        config = (told.training.model_init_kwargs or {}).get("quantization_config") or {}
        skipped = config.get("llm_int8_skip_modules") or ("lm_head",)
        return cls(bool(told.model.load_in_4bit or config.get("load_in_4bit")), (*skipped, "embed"))

    def bytes_of(self, name: str, parameter: Any) -> float:
        if self.used and parameter.requires_grad:
            return float(parameter.numel() * 2)  # TRL makes bfloat16 of what is trained over 4 bits
        if self.used and parameter.dim() == 2 and not any(part in name for part in self.skipped):
            return float(parameter.numel() * _BITS_4)
        return float(parameter.numel() * parameter.element_size())


def _activations(config: Any, told: Any, rows: int, length: int, layers: int) -> int:
    projector, one = _kept(config, told, rows, length, layers=1)
    _, two = _kept(config, told, rows, length, layers=2)
    layer, around = two - one, 2 * one - two
    width = config.get_text_config().hidden_size * (2 if told.training.bf16 or told.training.fp16 else 4)
    recomputed = told.training.gradient_checkpointing
    kept = layers * rows * length * width + layer if recomputed else layers * layer
    return projector + around + kept


def _kept(config: Any, told: Any, rows: int, length: int, *, layers: int) -> tuple[int, int]:
    """Return how many bytes autograd keeps for a backward pass of the projector, and of so many decoder layers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    shallow = copy.deepcopy(config)
    shallow.get_text_config().num_hidden_layers = layers
    # The tower is frozen in LLaVA's LoRA: it keeps nothing. Trained in full it is small beside the language model.
    shallow.vision_config.num_hidden_layers = 1
    with torch.device("meta"):
        whole = _model(shallow, told).train()
    llava = (whole.get_base_model() if hasattr(whole, "get_base_model") else whole).model
    mixed = torch.bfloat16 if told.training.bf16 else torch.float16
    with FakeTensorMode(), torch.autocast("cpu", mixed, enabled=told.training.bf16 or told.training.fp16):
        dtype = llava.language_model.embed_tokens.weight.dtype
        tokens = torch.zeros(rows, length, shallow.get_text_config().hidden_size, dtype=dtype, requires_grad=True)
        seen = torch.zeros(rows, shallow.image_seq_length, shallow.vision_config.hidden_size, dtype=dtype)
        by_projector = _kept_for_backward(llava.multi_modal_projector, image_features=seen)
        return by_projector, _kept_for_backward(llava.language_model, inputs_embeds=tokens, use_cache=False)


def _kept_for_backward(module: Any, **inputs: Any) -> int:
    """Return how many bytes autograd keeps of a module's forward pass; its own parameters do not count."""
    import torch

    own = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    parameters = {tensor.untyped_storage()._cdata for tensor in own.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        # Kept alive, or another storage would be given its address.
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(module, own, kwargs=inputs)
    return sum(storage.nbytes() for number, storage in kept.items() if number not in parameters)


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
