"""Models and adapters by way of the double: transformers and peft push to it and load from it, by tag too."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source

SOURCE: Final = """
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
base = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
base.push_to_hub("org/base")
HfApi().create_tag("org/base", tag="v1")
first = base.model.embed_tokens.weight.clone()
with torch.no_grad():
    base.model.embed_tokens.weight.zero_()
base.push_to_hub("org/base")

old = AutoModelForCausalLM.from_pretrained("org/base", revision="v1")
new = AutoModelForCausalLM.from_pretrained("org/base")
adapter = get_peft_model(old, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
adapter.push_to_hub("org/adapter", private=True)
tokens = torch.tensor([[1, 2, 3]])
fresh = AutoModelForCausalLM.from_pretrained("org/base", revision="v1")
plain = fresh(tokens).logits
loaded = PeftModel.from_pretrained(fresh, "org/adapter")
told = {
    "of the tag": torch.equal(old.get_input_embeddings().weight, first),
    "of main": new.model.embed_tokens.weight.abs().sum().item(),
    "adapted": torch.allclose(loaded(tokens).logits, adapter(tokens).logits),
    "as before": torch.allclose(loaded(tokens).logits, plain),
}
"""


def test_models_and_adapters_are_pushed_and_loaded_by_their_own_clients(tmp_path: Path) -> None:
    with HubServer() as server:
        result = run_source(server, SOURCE, home=tmp_path)
        assert result == {"of the tag": True, "of main": 0.0, "adapted": True, "as before": False}
        files = server.store.repository("model", "org/adapter").get_commit("main").files
        assert {"adapter_config.json", "adapter_model.safetensors"} <= files.keys()
        assert server.store.repository("model", "org/adapter").private
        assert all(file.lfs for name, file in files.items() if name.endswith(".safetensors"))
