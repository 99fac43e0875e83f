"""Builds the model to train without weights, and counts the bytes of its parameters and of the optimizer's states.

memory.py estimates the memory from them, and disk_space.py the size of checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from compact_hf.models.loading import build_network
from compact_hf.models.registry import get_family
from compact_hf.training.trained_parts import freeze_other_parts

# Part of an optimizer's name -> number of states that are as large as the parameter, by the first part that matches:
# for AdamW the moving averages of gradients and of their squares. Others have smaller ones (Adafactor's are factored,
# those of GaLore and APOLLO have a low rank) or none (SGD), and are not counted: the estimate is a lower bound.
_OPTIMIZER_STATES: Final = {"galore": 0, "apollo": 0, "ademamix": 3, "adam": 2, "lion": 1, "rmsprop": 1, "adagrad": 1}
# Half a byte per weight, and its share of bitsandbytes' scales: one byte per 64 weights with double quantization.
_BYTES_PER_4BIT_WEIGHT: Final = 0.5 + 1 / 64


def build_model(config: Any, args: Any) -> Any:
    """Return the model of a configuration as the trainer builds it, with initial weights, on the default device.

    Args:
        config (`PreTrainedConfig`): configuration of the base.
        args (`Arguments`): arguments of the training script.
    """
    import torch
    from peft import get_peft_model
    from trl import get_peft_config

    # As in `load_network`, `model_init_kwargs` takes precedence; TRL's default is float32.
    dtype = getattr(torch, str((args.training.model_init_kwargs or {}).get("dtype") or args.model.dtype or "float32"))
    model = build_network(config, dtype=dtype)
    peft_config = get_peft_config(args.model)
    if peft_config is not None:
        return get_peft_model(model, peft_config)
    if args.trained_parts:
        freeze_other_parts(model, args.trained_parts, get_family(config.model_type))
    return model


@dataclass(frozen=True, slots=True)
class Quantization:
    """Which weights bitsandbytes quantizes to 4 bits: all linear layers except trained and skipped ones.

    Attributes:
        is_4bit (`bool`): whether the base is quantized at all.
        skipped_modules (`tuple[str, ...]`): parts of names of modules that are not quantized.
    """

    is_4bit: bool
    skipped_modules: tuple[str, ...]

    @classmethod
    def from_args(cls, args: Any) -> Quantization:
        """Return the quantization that the arguments of the training script configure."""
        config = (args.training.model_init_kwargs or {}).get("quantization_config") or {}
        skipped_modules = config.get("llm_int8_skip_modules") or ("lm_head",)
        return cls(bool(args.model.load_in_4bit or config.get("load_in_4bit")), (*skipped_modules, "embed"))

    def count_bytes(self, name: str, parameter: Any) -> float:
        """Return the bytes that a parameter takes: quantized, cast by TRL, or in its own dtype.

        Args:
            name (`str`): the parameter's name in the model.
            parameter (`torch.nn.Parameter`): the parameter, on any device.
        """
        if self.is_4bit and parameter.requires_grad:
            return float(parameter.numel() * 2)  # TRL casts trained parameters of a 4-bit model to bfloat16
        if self.is_4bit and parameter.dim() == 2 and not any(module in name for module in self.skipped_modules):
            return float(parameter.numel() * _BYTES_PER_4BIT_WEIGHT)
        return float(parameter.numel() * parameter.element_size())


def count_optimizer_bytes(trained: Iterable[Any], args: Any) -> float:
    """Return the bytes of the optimizer's states of all trained parameters, or fewer for an optimizer without a rule.

    Args:
        trained (`Iterable[torch.nn.Parameter]`): the trained parameters.
        args (`Arguments`): arguments of the training script.
    """
    name, quantization = args.training.optim, Quantization.from_args(args)
    states = next((count for part, count in _OPTIMIZER_STATES.items() if part in name), 0)
    # Optimizers of 8 and 4 bits store each state in one byte or half a byte, others in the dtype of the parameter.
    bytes_per_value = 1.0 if "8bit" in name else 0.5 if "4bit" in name else None
    return states * sum(
        quantization.count_bytes("", parameter) if bytes_per_value is None else parameter.numel() * bytes_per_value
        for parameter in trained
    )
