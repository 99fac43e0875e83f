"""What one process of benchmarks/training.py does: some steps of training under given switches, measured by itself.

In: what is asked (`Asked`), as JSON on the command line. Out: one object of figures. The model's weights are random,
which costs what trained ones cost.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARM_UP = 2
"""Steps before the clock starts: allocators, kernels and workers are in place by then."""
LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Asked:
    """One training.

    Attributes:
        data (`str`): a release's folder.
        size (`str`): `tiny`, or `7b`: LLaVA-1.5-7B, which needs a GPU.
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
    workers: int = 2


def base(asked: Asked, folder: Path) -> tuple[Any, Any]:
    """Return a LLaVA with random weights, and its processor."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    from compact_hf.tuning.processor import llava_processor
    from compact_hf.tuning.tiny import build_tiny

    texts = [message["content"] for row in rows_of(asked) for message in row["messages"]]
    tiny = build_tiny(folder / "tiny", texts, seed=0)
    processor = AutoProcessor.from_pretrained(tiny)
    if asked.size == "tiny":
        return AutoModelForImageTextToText.from_pretrained(tiny, attn_implementation=asked.attention), processor
    # The tiny model's tokenizer: it makes a few tokens more of a question than Llama's.
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=336,
            patch_size=14,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-2,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Llava._from_config(config, attn_implementation=asked.attention)
    torch.set_default_dtype(torch.float32)
    return model, llava_processor(processor.tokenizer, image_edge=336, patch_edge=14)


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

    from compact_hf.tuning.recipes import read_recipe
    from compact_hf.tuning.training.screen import screen
    from compact_hf.tuning.training.trainer import CompactTrainer

    model, processor = base(asked, folder)
    rows, recipe = rows_of(asked), read_recipe("llava15-7b-lora")
    (target,) = recipe["lora_target_modules"]
    on_gpu = torch.cuda.is_available()
    arguments = {
        "model": model,
        "processing_class": processor,
        "peft_config": LoraConfig(
            r=recipe["lora_r"] if asked.size == "7b" else 8,
            lora_alpha=recipe["lora_alpha"],
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


def measure(asked: Asked) -> dict[str, Any]:
    """Train and return rates, the share of the hardware's peak and peak memory."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.monotonic())

    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(asked, Path(folder))
        prepared = preparing(trainer)
        trainer.add_callback(Clock())
        trainer.train()
        questions = sum(len(messages) // 2 for messages in trainer.train_dataset["messages"])
        rows, per_token, per_picture = len(trainer.train_dataset), *operations(trainer.model)
    seconds = ends[-1] - ends[WARM_UP - 1]
    tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    trained = asked.steps * asked.batch * asked.accumulation
    work = (tokens[-1] - tokens[WARM_UP - 1]) * per_token + trained * per_picture
    peak_mb = (
        torch.cuda.max_memory_allocated() / 1e6
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    return {
        "questions_per_second": trained / seconds * questions / rows,
        "rows_per_second": trained / seconds,
        "tokens_per_question": (tokens[-1] - tokens[WARM_UP - 1]) / trained * rows / questions,
        "of_peak": work / seconds / peak_rate(),
        "peak_mb": round(peak_mb),
        "rows_prepared_per_second_and_worker": prepared,
        "workers_needed": math.ceil(trained / seconds / prepared),
    }


def operations(model: Any) -> tuple[float, float]:
    """Return what a token of the language model and a picture cost, in operations, without recomputation.

    Two for each weight forward, two for the gradient of its input, two more where the weight itself is trained; the
    tower runs forward only, over its patches and the class token. Attention's own products are left out: at 700 tokens
    they are a few hundredths.
    """
    per_token = tower = 0.0
    for name, weight in model.named_parameters():
        if "vision_tower" in name:
            tower += 2 * weight.numel()
        elif "embed_tokens" not in name or model.config.tie_word_embeddings:
            per_token += (6 if weight.requires_grad else 4) * weight.numel() if "projector" not in name else 0
    vision = model.config.vision_config
    return per_token, tower * ((vision.image_size // vision.patch_size) ** 2 + 1)


def peak_rate() -> float:
    """Return the operations a second of one large product of matrices here: the best of five."""
    import torch

    on_gpu = torch.cuda.is_available()
    edge, device = (8192, "cuda") if on_gpu else (2048, "cpu")
    one = torch.ones(edge, edge, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    best = math.inf
    for _ in range(6):
        began = time.monotonic()
        one @ one
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - began)
    return 2 * edge**3 / best


def preparing(trainer: Any) -> float:
    """Return the rows a second that one process decodes, scales and tokenizes."""
    rows = trainer.train_dataset
    began, done = time.monotonic(), 0
    while time.monotonic() - began < 1.0:
        trainer.data_collator([rows[number % len(rows)] for number in range(done, done + 16)])
        done += 16
    return done / (time.monotonic() - began)


if __name__ == "__main__":
    print(json.dumps(measure(Asked(**json.loads(sys.argv[1])))))
