"""The three parts of a base at tiny size, saved as the real ones are, and what they compute, straight through.

Llama in two `.bin` shards with Vicuna's odds and ends; the whole of CLIP in one `.bin` in float32; the projector as
LLaVA's pre-training saves it; a real SentencePiece model of 32,000 tokens.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROWS: Final = 32000
EDGE: Final = 28
PATCH: Final = 14
TOKENS: Final = (EDGE // PATCH) ** 2
MEAN: Final = [0.4, 0.5, 0.25]
STD: Final = [0.2, 0.3, 0.25]


@dataclass(frozen=True)
class Parts:
    """Where they lie, and the models that were saved there."""

    language: Path
    vision: Path
    projector: Path
    llama: Any
    clip: Any
    layers: dict[str, Any]

    def places(self) -> dict[str, str]:
        """The arguments of `assemble_base`."""
        return {
            "language_model": str(self.language),
            "vision_tower": str(self.vision),
            "projector": str(self.projector),
        }

    def logits(self, ids: Any, pixels: Any) -> Any:
        """(1, tokens, rows of the language model) for one row of ids in which the picture's place is ROWS."""
        import torch

        with torch.no_grad():
            seen = self.clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            weight = {name.removeprefix("model.mm_projector."): value for name, value in self.layers.items()}
            seen = torch.nn.functional.linear(seen, weight["0.weight"], weight["0.bias"])
            seen = torch.nn.functional.linear(torch.nn.functional.gelu(seen), weight["2.weight"], weight["2.bias"])
            embedded = self.llama.get_input_embeddings()(ids.clamp(max=ROWS - 1)).clone()
            embedded[ids == ROWS] = seen.flatten(0, 1)
            return self.llama(inputs_embeds=embedded).logits


def save_parts(
    folder: Path,
    *,
    legacy: bool | None = False,
    dtype: str = "float32",
    width: int = 32,
    layers: int = 2,
    tied: bool = False,
) -> Parts:
    """Make the parts with weights of a fixed seed. `dtype` is the language model's; Vicuna's is float16."""
    import torch
    from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=ROWS,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=4096,
                pad_token_id=0,
                tie_word_embeddings=tied,
            )
        ).eval()
        tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
        clip = CLIPModel(
            CLIPConfig(
                vision_config={**tower, "image_size": EDGE, "patch_size": PATCH},
                text_config={**tower, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2},
            )
        ).eval()
        # As drawn, the model is so weak that a wrong layer changes next to nothing.
        for parameter in (*llama.parameters(), *clip.parameters()):
            parameter.data += 0.05 * torch.randn_like(parameter)
        shapes = {"0.weight": (width, 24), "0.bias": (width,), "2.weight": (width, width), "2.bias": (width,)}
        projector = {f"model.mm_projector.{name}": torch.randn(shape) / 4 for name, shape in shapes.items()}
    llama = llama.to(getattr(torch, dtype))
    _save_language(folder / "vicuna", llama, legacy=legacy)
    _save_vision(folder / "clip", clip)
    _save_projector(folder / "projector", projector)
    return Parts(folder / "vicuna", folder / "clip", folder / "projector", llama, clip, projector)


def _save_language(folder: Path, llama: Any, *, legacy: bool | None) -> None:
    import mistral_common
    import torch

    folder.mkdir(parents=True)
    state = dict(llama.state_dict())
    if llama.config.tie_word_embeddings:
        del state["lm_head.weight"]
    # Older checkpoints hold what is computed from the config today.
    state |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.rand(4) for n in range(len(llama.model.layers))}
    names = list(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    for number, half in enumerate(halves, 1):
        torch.save({name: state[name] for name in half}, folder / f"pytorch_model-{number:05d}-of-00002.bin")
    places = {
        name: f"pytorch_model-{number:05d}-of-00002.bin" for number, half in enumerate(halves, 1) for name in half
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    stated = llama.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "_name_or_path": "vicuna-7b-v1.5"}
    stated["torch_dtype"] = str(llama.dtype).removeprefix("torch.")
    stated.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(stated))
    chatting = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 4096}
    (folder / "generation_config.json").write_text(json.dumps({**chatting, "temperature": 0.9, "top_p": 0.6}))
    sentencepiece = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(sentencepiece, folder / "tokenizer.model")
    stated = {
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
    (folder / "tokenizer_config.json").write_text(json.dumps(stated | ({} if legacy is None else {"legacy": legacy})))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (folder / "README.md").write_text("---\nlicense: llama2\n---\n# Vicuna\n")


def _save_vision(folder: Path, clip: Any) -> None:
    import torch

    folder.mkdir(parents=True)
    positions = {"vision_model.embeddings.position_ids": torch.arange(TOKENS + 1)[None]}
    torch.save(dict(clip.state_dict()) | positions, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(clip.config.to_dict()))
    seeing = {"crop_size": EDGE, "size": EDGE, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(seeing))
    # What nobody here needs, and nobody may download.
    for name in ("tf_model.h5", "flax_model.msgpack"):
        (folder / name).write_bytes(bytes(1000))


def _save_projector(folder: Path, layers: dict[str, Any]) -> None:
    import torch

    folder.mkdir(parents=True)
    torch.save(layers, folder / "mm_projector.bin")
    stated = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_use_im_start_end": False}
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **stated}))
    (folder / "trainer_state.json").write_text("{}")
