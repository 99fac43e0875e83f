"""Creates adapters with PEFT within a second, with the modules of the 7B recipe and weights that change every logit."""

from __future__ import annotations

import warnings
from pathlib import Path

from compact_hf.training.recipes import read_recipe


def save_adapter(base: Path, out: Path, *, seed: int = 0) -> Path:
    """Save an adapter of the model in `base`, projector included, together with the processor, as TRL does."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    recipe = read_recipe("llava15-7b-lora")
    (targets,) = recipe["lora_target_modules"]
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets,
        modules_to_save=recipe["lora_modules_to_save"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modules_to_save" in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(base).save_pretrained(out)
    return out
