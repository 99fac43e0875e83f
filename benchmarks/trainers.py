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
class TrainingSetup:
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


def build_config(shape: Shape, *, vocabulary: int, image_token: int) -> Any:
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


def build_model(setup: TrainingSetup, directory: Path) -> tuple[Any, Any]:
    """Return a LLaVA with random weights, and its processor.

    The tokenizer is a tiny model's: it makes a few tokens more of a question than Llama's.
    """
    import torch
    from transformers import AutoProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    from compact_hf.models.llava.processor import build_llava_processor
    from compact_hf.models.llava.tiny import build_tiny

    texts = [message["content"] for row in load_rows(setup) for message in row["messages"]]
    tiny_processor = AutoProcessor.from_pretrained(build_tiny(directory / "tiny", texts, seed=0))
    on_gpu = torch.cuda.is_available()
    config = build_config(
        SHAPES[setup.size],
        vocabulary=32064 if setup.size == "7b" else len(tiny_processor.tokenizer),
        image_token=tiny_processor.image_token_id,
    )
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    with torch.device("cuda" if on_gpu else "cpu"):
        model = Llava._from_config(config, attn_implementation=setup.attention)
    torch.set_default_dtype(torch.float32)
    return model, build_llava_processor(tiny_processor.tokenizer, image_size=336, patch_size=14)


def load_rows(setup: TrainingSetup) -> Any:
    """Return the rows: as a release has them, or one for each question."""
    from datasets import load_dataset

    rows = load_dataset(setup.data, "compositional", split="train").select_columns(["images", "messages"])
    return rows if setup.rows == "conversations" else rows.map(_split_questions, batched=True, batch_size=50)


def _split_questions(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    turns = [
        (images, messages[index : index + 2])
        for images, messages in zip(batch["images"], batch["messages"], strict=True)
        for index in range(0, len(messages), 2)
    ]
    return {"images": [images for images, _ in turns], "messages": [messages for _, messages in turns]}


def build_trainer(setup: TrainingSetup, directory: Path) -> Any:
    """Return the trainer, LLaVA's LoRA upon the model."""
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from compact_hf.models.registry import get_family
    from compact_hf.training.recipes import read_recipe
    from compact_hf.training.row_screening import screen_rows
    from compact_hf.training.trainer import CompactTrainer

    model, processor = build_model(setup, directory)
    rows, recipe, rank = load_rows(setup), read_recipe("llava15-7b-lora"), SHAPES[setup.size].rank
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
            output_dir=str(directory / "out"),
            use_cpu=not on_gpu,
            bf16=on_gpu,
            assistant_only_loss=True,
            max_length=recipe["max_length"],
            per_device_train_batch_size=setup.batch,
            gradient_accumulation_steps=setup.accumulation,
            activation_checkpointing=setup.recomputation,
            torch_compile=setup.compiled,
            dataloader_num_workers=setup.workers,
            learning_rate=LEARNING_RATE,
            max_steps=WARM_UP + setup.steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    }
    if setup.trainer == "trl":
        return SFTTrainer(train_dataset=rows, **arguments)
    family = get_family("llava")
    screening = screen_rows(rows, processor, family, max_length=recipe["max_length"], answers_only=True)
    return CompactTrainer(
        train_dataset=rows.select(screening.kept_indices),
        screening=screening,
        family=family,
        learning_rates={"projector": LEARNING_RATE / 10},
        seconds=0.0,
        **arguments,
    )
