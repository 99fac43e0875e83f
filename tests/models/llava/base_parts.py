"""Writes tiny versions of the three parts of a base in the real formats, and computes their logits directly.

The Llama has two `.bin` shards and the additional files of Vicuna; the whole CLIP is one `.bin` file in float32; the
projector is saved as by LLaVA's pre-training; the tokenizer is a real SentencePiece model of 32,000 tokens.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

VOCAB_SIZE: Final = 32000
IMAGE_SIZE: Final = 28
PATCH_SIZE: Final = 14
NUM_IMAGE_TOKENS: Final = (IMAGE_SIZE // PATCH_SIZE) ** 2
MEAN: Final = [0.4, 0.5, 0.25]
STD: Final = [0.2, 0.3, 0.25]


@dataclass(frozen=True)
class Parts:
    """Paths of the parts, and the models that were saved there."""

    language: Path
    vision: Path
    projector: Path
    llama: Any
    clip: Any
    layers: dict[str, Any]

    def to_kwargs(self) -> dict[str, str]:
        """Return the arguments of `assemble_base`."""
        return {
            "language_model": str(self.language),
            "vision_tower": str(self.vision),
            "projector": str(self.projector),
        }

    def logits(self, ids: Any, pixels: Any) -> Any:
        """Return logits `(1, tokens, vocabulary)` for one row of ids in which ROWS marks the image."""
        import torch

        with torch.no_grad():
            image_features = self.clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            weight = {name.removeprefix("model.mm_projector."): value for name, value in self.layers.items()}
            image_features = torch.nn.functional.linear(image_features, weight["0.weight"], weight["0.bias"])
            image_features = torch.nn.functional.linear(
                torch.nn.functional.gelu(image_features), weight["2.weight"], weight["2.bias"]
            )
            embeddings = self.llama.get_input_embeddings()(ids.clamp(max=VOCAB_SIZE - 1)).clone()
            embeddings[ids == VOCAB_SIZE] = image_features.flatten(0, 1)
            return self.llama(inputs_embeds=embeddings).logits


def save_parts(
    directory: Path,
    *,
    legacy: bool | None = False,
    dtype: str = "float32",
    width: int = 32,
    layers: int = 2,
    tied: bool = False,
) -> Parts:
    """Write the parts with weights of a fixed seed. `dtype` is that of the language model; Vicuna has float16."""
    import torch
    from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB_SIZE,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=4096,
                pad_token_id=0,
                tie_word_embeddings=tied,
            )
        ).eval()
        transformer_config = {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        }
        clip = CLIPModel(
            CLIPConfig(
                vision_config={**transformer_config, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
                text_config={**transformer_config, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2},
            )
        ).eval()
        # With the initial weights, a wrong layer would change the logits by almost nothing.
        for parameter in (*llama.parameters(), *clip.parameters()):
            parameter.data += 0.05 * torch.randn_like(parameter)
        shapes = {"0.weight": (width, 24), "0.bias": (width,), "2.weight": (width, width), "2.bias": (width,)}
        projector = {f"model.mm_projector.{name}": torch.randn(shape) / 4 for name, shape in shapes.items()}
    llama = llama.to(getattr(torch, dtype))
    _save_language(directory / "vicuna", llama, legacy=legacy)
    _save_vision(directory / "clip", clip)
    _save_projector(directory / "projector", projector)
    return Parts(directory / "vicuna", directory / "clip", directory / "projector", llama, clip, projector)


def _save_language(directory: Path, llama: Any, *, legacy: bool | None) -> None:
    import mistral_common
    import torch

    directory.mkdir(parents=True)
    state = dict(llama.state_dict())
    if llama.config.tie_word_embeddings:
        del state["lm_head.weight"]
    # Older checkpoints contain tensors that are computed from the config today.
    state |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.rand(4) for n in range(len(llama.model.layers))}
    names = list(state)
    shards = names[: len(names) // 2], names[len(names) // 2 :]
    for number, shard in enumerate(shards, 1):
        torch.save({name: state[name] for name in shard}, directory / f"pytorch_model-{number:05d}-of-00002.bin")
    weight_map = {
        name: f"pytorch_model-{number:05d}-of-00002.bin" for number, shard in enumerate(shards, 1) for name in shard
    }
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = llama.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "_name_or_path": "vicuna-7b-v1.5"}
    config["torch_dtype"] = str(llama.dtype).removeprefix("torch.")
    config.pop("dtype", None)
    (directory / "config.json").write_text(json.dumps(config))
    generation_config = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 4096}
    (directory / "generation_config.json").write_text(
        json.dumps({**generation_config, "temperature": 0.9, "top_p": 0.6})
    )
    sentencepiece = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(sentencepiece, directory / "tokenizer.model")
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "model_max_length": 4096,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(config | ({} if legacy is None else {"legacy": legacy}))
    )
    (directory / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (directory / "README.md").write_text("---\nlicense: llama2\n---\n# Vicuna\n")


def _save_vision(directory: Path, clip: Any) -> None:
    import torch

    directory.mkdir(parents=True)
    positions = {"vision_model.embeddings.position_ids": torch.arange(NUM_IMAGE_TOKENS + 1)[None]}
    torch.save(dict(clip.state_dict()) | positions, directory / "pytorch_model.bin")
    (directory / "config.json").write_text(json.dumps(clip.config.to_dict()))
    preprocessor_config = {"crop_size": IMAGE_SIZE, "size": IMAGE_SIZE, "image_mean": MEAN, "image_std": STD}
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor_config))
    # Files that are not needed, and must not be downloaded.
    for name in ("tf_model.h5", "flax_model.msgpack"):
        (directory / name).write_bytes(bytes(1000))


def _save_projector(directory: Path, layers: dict[str, Any]) -> None:
    import torch

    directory.mkdir(parents=True)
    torch.save(layers, directory / "mm_projector.bin")
    projector_config = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_use_im_start_end": False}
    (directory / "config.json").write_text(json.dumps({"model_type": "llava", **projector_config}))
    (directory / "trainer_state.json").write_text("{}")
