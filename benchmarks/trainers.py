"""Builds what benchmarks/training.py measures: a LLaVA with random weights, rows, and a trainer with given settings.

Random weights need the same time and memory as trained ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WARM_UP = 2
"""Steps before time is measured, during which allocators, kernels and workers are initialized."""
LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class TrainingSetup:
    """The settings of one training run.

    Attributes:
        data (`str`): directory of the dataset.
        size (`str`): model size, one of `SHAPES`; `7b` needs a GPU.
        steps (`int`): number of steps to measure.
        trainer (`str`, *optional*, defaults to `compact`): `trl` for plain TRL, or `compact`.
        rows (`str`, *optional*, defaults to `conversations`): `conversations`, or `questions` for a separate row with
            the image for each question.
        batch (`int`, *optional*, defaults to 16): rows per forward pass.
        accumulation (`int`, *optional*, defaults to 1): forward passes per optimizer step.
        recomputation (`bool`, *optional*, defaults to True): whether to use activation checkpointing.
        attention (`str`, *optional*, defaults to `sdpa`): attention implementation of transformers.
        compiled (`bool`, *optional*, defaults to False): whether to use `torch.compile`.
        workers (`int`, *optional*, defaults to 1): number of processes that prepare rows.
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
    """The size of a LLaVA.

    Attributes:
        vision (`tuple[int, int, int, int]`): hidden size, feed-forward size, layers and heads of the vision tower.
        text (`tuple[int, int, int, int]`): the same for the language model.
        rank (`int`): rank of the LoRA.
    """

    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    rank: int


SHAPES: Final = {
    "7b": Shape(vision=(1024, 4096, 24, 16), text=(4096, 11008, 32, 32), rank=128),
    # 1/16 of the width and 1/8 of the layers of 7b; an image has 576 tokens here too.
    "tiny": Shape(vision=(64, 256, 3, 1), text=(256, 688, 4, 2), rank=8),
}


def build_config(shape: Shape, *, vocabulary: int, image_token: int) -> Any:
    """Return the config of a LLaVA-1.5 of this size."""
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

    The tokenizer is that of the tiny model, which needs a few more tokens per question than that of Llama.
    """
    import torch
    from transformers import AutoProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    from compact_hf.models.llava.processor import build_llava_processor
    from compact_hf.models.llava.tiny import build_tiny

    texts = [message["content"] for row in load_rows(setup) for message in row["messages"]]
    tiny = build_tiny(directory / "tiny", texts, seed=0)
    tiny_processor = AutoProcessor.from_pretrained(tiny, trust_remote_code=False)
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
    """Return the rows of the dataset, or a separate row for each question."""
    from datasets import load_dataset

    rows = load_dataset(setup.data, "compositional", split="train").select_columns(["images", "messages"])
    return rows if setup.rows == "conversations" else rows.map(_split_questions, batched=True, batch_size=50)


def _split_questions(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return a batch with a separate row for each question."""
    turns = [
        (images, messages[index : index + 2])
        for images, messages in zip(batch["images"], batch["messages"], strict=True)
        for index in range(0, len(messages), 2)
    ]
    return {"images": [images for images, _ in turns], "messages": [messages for _, messages in turns]}


def build_trainer(setup: TrainingSetup, directory: Path) -> Any:
    """Return the trainer, with the LoRA of the LLaVA recipe on the model."""
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from compact_hf.models.registry import get_family
    from compact_hf.training.recipes import read_recipe
    from compact_hf.training.row_images import decode_images
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
        train_dataset=decode_images(rows.select(screening.kept_indices)),
        screening=screening,
        family=family,
        learning_rates={"projector": LEARNING_RATE / 10},
        seconds=0.0,
        checkpoint_bytes=0,  # nothing is saved
        **arguments,
    )
