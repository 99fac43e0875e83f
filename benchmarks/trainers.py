"""What benchmarks/training.py measures: a LLaVA with random weights, rows, and their trainer under given switches.

Random weights cost what trained ones cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WARM_UP = 2
"""Steps before the clock starts: allocators, kernels and workers are in place by then."""
LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Asked:
    """One training.

    Attributes:
        data (`str`): a release's folder.
        size (`str`): one of `SHAPES`; `7b` needs a GPU.
        steps (`int`): to measure.
        trainer (`str`): `trl`, or `compact`.
        rows (`str`): `conversations`, or `questions`: each question with its picture in a row of its own.
        batch, accumulation (`int`): rows at a time, and how many times before the weights are changed.
        recomputation, compiled (`bool`)
        attention (`str`): as transformers names its implementations.
        workers (`int`): processes that prepare rows.
    """

    data: str
    size: str
    steps: int
    trainer: str = "compact"
    rows: str = "conversations"
    batch: int = 16
    accumulation: int = 1
    recomputation: bool = True
    attention: str = "sdpa"
    compiled: bool = False
    workers: int = 1


@dataclass(frozen=True)
class Shape:
    """A LLaVA: of `vision` and `text` width, width inside the feed-forward part, layers, heads; the LoRA's rank."""

    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    rank: int


SHAPES: Final = {
    "7b": Shape(vision=(1024, 4096, 24, 16), text=(4096, 11008, 32, 32), rank=128),
    # Widths are a sixteenth and layers an eighth; a picture has 576 tokens here too.
    "tiny": Shape(vision=(64, 256, 3, 1), text=(256, 688, 4, 2), rank=8),
}


def config_of(shape: Shape, *, vocabulary: int, image_token: int) -> Any:
    """Return the configuration of a LLaVA-1.5 of this shape."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=336, patch_size=14, **dict(zip(names, shape.vision, strict=True))),
        text_config=LlamaConfig(
            vocab_size=vocabulary, max_position_embeddings=4096, **dict(zip(names, shape.text, strict=True))
        ),
        image_token_index=image_token,
        vision_feature_layer=-2,
    )


def base(asked: Asked, folder: Path) -> tuple[Any, Any]:
    """Return a LLaVA with random weights, and its processor.

    The tokenizer is a tiny model's: it makes a few tokens more of a question than Llama's.
    """
    import torch
    from transformers import AutoProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    from compact_hf.models.llava.processor import llava_processor
    from compact_hf.models.llava.tiny import build_tiny

    texts = [message["content"] for row in rows_of(asked) for message in row["messages"]]
    tiny = AutoProcessor.from_pretrained(build_tiny(folder / "tiny", texts, seed=0))
    on_gpu = torch.cuda.is_available()
    config = config_of(
        SHAPES[asked.size],
        vocabulary=32064 if asked.size == "7b" else len(tiny.tokenizer),
        image_token=tiny.image_token_id,
    )
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    with torch.device("cuda" if on_gpu else "cpu"):
        model = Llava._from_config(config, attn_implementation=asked.attention)
    torch.set_default_dtype(torch.float32)
    return model, llava_processor(tiny.tokenizer, image_edge=336, patch_edge=14)


def rows_of(asked: Asked) -> Any:
    """Return the rows: as a release has them, or one for each question."""
    from datasets import load_dataset

    rows = load_dataset(asked.data, "compositional", split="train").select_columns(["images", "messages"])
    return rows if asked.rows == "conversations" else rows.map(_apart, batched=True, batch_size=50)


def _apart(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    turns = [
        (images, messages[at : at + 2])
        for images, messages in zip(batch["images"], batch["messages"], strict=True)
        for at in range(0, len(messages), 2)
    ]
    return {"images": [images for images, _ in turns], "messages": [messages for _, messages in turns]}


def trainer_of(asked: Asked, folder: Path) -> Any:
    """Return the trainer, LLaVA's LoRA upon the model."""
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from compact_hf.training.recipes import read_recipe
    from compact_hf.training.row_screening import screen
    from compact_hf.training.trainer import CompactTrainer

    model, processor = base(asked, folder)
    rows, recipe, rank = rows_of(asked), read_recipe("llava15-7b-lora"), SHAPES[asked.size].rank
    (target,) = recipe["lora_target_modules"]
    on_gpu = torch.cuda.is_available()
    arguments = {
        "model": model,
        "processing_class": processor,
        "peft_config": LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=recipe["lora_dropout"],
            target_modules=target,
            modules_to_save=recipe["lora_modules_to_save"],
        ),
        "args": SFTConfig(
            output_dir=str(folder / "out"),
            use_cpu=not on_gpu,
            bf16=on_gpu,
            assistant_only_loss=True,
            max_length=recipe["max_length"],
            per_device_train_batch_size=asked.batch,
            gradient_accumulation_steps=asked.accumulation,
            activation_checkpointing=asked.recomputation,
            torch_compile=asked.compiled,
            dataloader_num_workers=asked.workers,
            learning_rate=LEARNING_RATE,
            max_steps=WARM_UP + asked.steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    }
    if asked.trainer == "trl":
        return SFTTrainer(train_dataset=rows, **arguments)
    screened = screen(rows, processor, max_length=recipe["max_length"], answers_only=True)
    return CompactTrainer(
        train_dataset=rows.select(screened.kept),
        screened=screened,
        projector_learning_rate=LEARNING_RATE / 10,
        seconds=0.0,
        **arguments,
    )
