"""Checks that an assembled base computes the same as its parts, and that it loads and processes images like LLaVA."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compact_hf.models.llava import weights as base_weights
from compact_hf.models.llava.assemble import assemble_base
from compact_hf.models.llava.config import build_base_config
from compact_hf.models.llava.parts import ROLES, find_part
from compact_hf.models.llava.weights import find_weights, write_weights
from tests.models.llava.base_parts import IMAGE_SIZE, MEAN, NUM_IMAGE_TOKENS, STD, VOCAB_SIZE, Parts, save_parts
from tests.models.llava.llava_rules import SlowLlamaTokenizer


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return save_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def base(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assembled") / "base"
    assemble_base(out, **parts.to_kwargs())
    return out


@pytest.fixture(scope="module")
def processor(base: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(base)


def load_model(directory: Path, **arguments: Any) -> Any:
    """Return the model, after checking that all names and shapes on disk match it."""
    from transformers import LlavaForConditionalGeneration

    model, report = LlavaForConditionalGeneration.from_pretrained(directory, output_loading_info=True, **arguments)
    assert not any(report.values()), report
    return model.eval()


def read_tensors(directory: Path) -> dict[str, Any]:
    """Return all tensors by name on disk, found through the index."""
    from safetensors import safe_open

    index = json.loads((directory / "model.safetensors.index.json").read_text())
    tensors = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                assert index["weight_map"][name] == path.name
                tensors[name] = file.get_tensor(name)
    assert tensors.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    return tensors


def write_base(
    directory: Path, paths: dict[str, str], *, dtype: Any = None, on_progress: Any = lambda *_: None
) -> Path:
    """Write only the weights, without tokenizer and other files."""
    found_parts = tuple(find_part(role, path) for role, path in zip(ROLES, paths.values(), strict=True))
    directory.mkdir()
    write_weights(
        find_weights(found_parts, build_base_config(*found_parts), dtype=dtype), directory, on_progress=on_progress
    )
    return directory


def make_inputs(processor: Any, *, size: tuple[int, int] = (60, 40)) -> Any:
    image = Image.effect_noise(size, 90).convert("RGB")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color is it?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    return processor(images=[image], text=[text], return_tensors="pt", add_special_tokens=False)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_tower_projector_and_language_model_one_after_the_other(
    parts: Parts, base: Path, processor: Any, tmp_path: Path, tied: bool
) -> None:
    import torch

    if tied:
        parts, base = save_parts(tmp_path / "parts", tied=True), tmp_path / "base"
        assemble_base(base, **parts.to_kwargs())
    model, inputs = load_model(base), make_inputs(processor)
    assert (inputs["input_ids"] == VOCAB_SIZE).sum() == NUM_IMAGE_TOKENS
    with torch.no_grad():
        logits = model(**inputs).logits
    expected = parts.logits(inputs["input_ids"], inputs["pixel_values"])
    assert expected.std() > 0.1
    torch.testing.assert_close(logits[..., :VOCAB_SIZE], expected, atol=1e-5, rtol=0)


def test_every_weight_is_bit_for_bit_what_its_part_holds(tmp_path: Path) -> None:
    import torch

    parts = save_parts(tmp_path / "parts", dtype="float16")
    tensors = read_tensors(write_base(tmp_path / "base", parts.to_kwargs()))
    expected = {f"language_model.{name}": value for name, value in parts.llama.state_dict().items()}
    vision_tensors = parts.clip.vision_model.state_dict()
    expected |= {f"vision_tower.vision_model.{name}": value for name, value in vision_tensors.items()}
    layers = {"0": "linear_1", "2": "linear_2"}
    for name, value in parts.layers.items():
        number, kind = name.split(".")[-2:]
        expected[f"multi_modal_projector.{layers[number]}.{kind}"] = value
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name][: len(value)], value), name
    assert {
        name: len(tensors[name]) - len(value) for name, value in expected.items() if len(tensors[name]) != len(value)
    } == {
        "language_model.model.embed_tokens.weight": 64,
        "language_model.lm_head.weight": 64,
    }


def test_new_rows_are_the_mean_of_the_others_and_no_token_is_likelier_for_it(parts: Parts, base: Path) -> None:
    import torch

    tensors = read_tensors(base)
    for name, old in (
        ("model.embed_tokens.weight", parts.llama.get_input_embeddings().weight),
        ("lm_head.weight", parts.llama.get_output_embeddings().weight),
    ):
        new = tensors[f"language_model.{name}"][VOCAB_SIZE:]
        assert new.shape[0] == 64
        torch.testing.assert_close(new, old.mean(0).expand_as(new), atol=1e-6, rtol=1e-5)


def test_config_processor_and_generation_agree_on_the_added_tokens(base: Path, processor: Any) -> None:
    from transformers import AutoConfig, GenerationConfig

    config, generation = AutoConfig.from_pretrained(base), GenerationConfig.from_pretrained(base)
    tokenizer = processor.tokenizer
    assert (config.image_token_index, config.text_config.vocab_size) == (VOCAB_SIZE, VOCAB_SIZE + 64)
    assert (processor.image_token_id, tokenizer.pad_token_id, len(tokenizer)) == (
        VOCAB_SIZE,
        VOCAB_SIZE + 1,
        VOCAB_SIZE + 2,
    )
    assert config.text_config.pad_token_id == generation.pad_token_id == VOCAB_SIZE + 1
    assert (generation.bos_token_id, generation.eos_token_id) == (1, 2)
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    # If kept, Vicuna's sampling settings would be used, and every call would warn about its max_length.
    saved_config = json.loads((base / "generation_config.json").read_text())
    assert not saved_config.keys() & {"temperature", "top_p", "do_sample", "max_length"}
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 4096)


def test_a_row_alone_and_padded_in_a_batch_is_continued_in_the_same_words(base: Path, processor: Any) -> None:
    model = load_model(base)
    texts = [f"<s>USER: <image>\n{question} ASSISTANT:" for question in ("What?", "And what is that over there?")]
    images = [Image.new("RGB", (30, 50), color) for color in ("red", "blue")]

    def generate(rows: slice) -> list[list[int]]:
        inputs = processor(
            images=images[rows], text=texts[rows], padding=True, return_tensors="pt", add_special_tokens=False
        )
        out = model.generate(**inputs, max_new_tokens=5, eos_token_id=-1)
        return out[:, inputs["input_ids"].shape[1] :].tolist()

    assert generate(slice(0, 2)) == generate(slice(0, 1)) + generate(slice(1, 2))


@pytest.mark.parametrize("size", [(28, 28), (90, 33), (33, 90), (1, 7)])
def test_a_picture_is_padded_to_a_square_as_llava_does_it(processor: Any, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    pixels = processor.image_processor(image, return_tensors="np")["pixel_values"][0]
    edge = max(size)
    square = Image.new("RGB", (edge, edge), tuple(int(255 * mean) for mean in MEAN))
    square.paste(image, ((edge - size[0]) // 2, (edge - size[1]) // 2))
    resized = np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(pixels, ((resized - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)
    assert (make_inputs(processor, size=size)["input_ids"] == VOCAB_SIZE).sum() == NUM_IMAGE_TOKENS


@pytest.mark.parametrize(("stated", "legacy"), [(False, False), (True, True), (None, True)])
def test_the_tokenizer_cuts_as_the_language_models_own_also_when_it_was_saved_again(
    base: Path, parts: Parts, tmp_path: Path, stated: bool | None, legacy: bool
) -> None:
    from transformers import AutoProcessor

    if stated is not False:
        parts, base = save_parts(tmp_path / "parts", legacy=stated), tmp_path / "base"
        assemble_base(base, **parts.to_kwargs())
    reference = SlowLlamaTokenizer(parts.language / "tokenizer.model", legacy=legacy)
    processor = AutoProcessor.from_pretrained(base)
    processor.save_pretrained(tmp_path / "again")
    for tokenizer in (processor.tokenizer, AutoProcessor.from_pretrained(tmp_path / "again").tokenizer):
        for text in ("one  two\n three", "a</s>USER: b"):
            assert tokenizer(text, add_special_tokens=False).input_ids == reference(text)[1:], text
    assert f"legacy: {str(legacy).lower()}" in (base / "README.md").read_text()


def test_weights_in_other_formats_and_by_todays_names_give_the_same_base(
    parts: Parts, base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import CLIPVisionModel

    parts.llama.save_pretrained(tmp_path / "llama", max_shard_size="1MB")  # safetensors
    assert len(list((tmp_path / "llama").glob("model-*-of-*.safetensors"))) > 1
    tower = CLIPVisionModel(parts.clip.config.vision_config)
    tower.load_state_dict(parts.clip.vision_model.state_dict())
    tower.save_pretrained(tmp_path / "tower")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(parts.language / name, tmp_path / "llama")
    shutil.copy(parts.vision / "preprocessor_config.json", tmp_path / "tower")
    # The format before PyTorch 1.6, which cannot be memory-mapped.
    torch.save(parts.layers, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    paths = {"language": tmp_path / "llama", "vision": tmp_path / "tower", "projector": tmp_path / "old.bin"}
    tensors = read_tensors(write_base(tmp_path / "base", {role: str(path) for role, path in paths.items()}))
    expected = read_tensors(base)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_dtype_rounds_every_weight_to_it(parts: Parts, base: Path, tmp_path: Path, dtype: str) -> None:
    import torch

    torch_dtype = getattr(torch, dtype)
    tensors = read_tensors(write_base(tmp_path / "base", parts.to_kwargs(), dtype=torch_dtype))
    for name, value in read_tensors(base).items():
        assert torch.equal(tensors[name], value.to(torch_dtype)), name


def test_it_is_loaded_in_what_most_of_it_was_stored_in_or_rounded_to(tmp_path: Path) -> None:
    import torch

    parts = save_parts(tmp_path / "parts", dtype="float16")
    assemble_base(tmp_path / "stored", **parts.to_kwargs())
    assert load_model(tmp_path / "stored").dtype == torch.float16
    result = assemble_base(tmp_path / "rounded", **parts.to_kwargs(), dtype="bfloat16")
    assert load_model(tmp_path / "rounded").dtype == torch.bfloat16
    assert result.disk_space.output_bytes == sum(value.nbytes for value in read_tensors(tmp_path / "rounded").values())


def test_shards_keep_to_their_size_and_to_one_file_of_a_part_each(
    parts: Parts, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(base_weights, "SHARD_BYTES", 30_000)
    steps: list[tuple[int, int]] = []
    directory = write_base(tmp_path / "base", parts.to_kwargs(), on_progress=lambda *step: steps.append(step))
    expected, tensors = read_tensors(base), read_tensors(directory)
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    count, total = len(names), sum(value.nbytes for value in tensors.values())
    assert count > 5
    assert names == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    for name in names:
        sizes = [tensors[weight].nbytes for weight in index if index[weight] == name]
        assert sum(sizes) <= 30_000 or len(sizes) == 1
    assert steps == sorted(steps)
    assert steps[-1] == (total, total)


def test_the_same_parts_give_the_same_files(parts: Parts, base: Path, tmp_path: Path) -> None:
    assemble_base(tmp_path / "again", **parts.to_kwargs())
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_bytes() for path in base.iterdir()
    }


def test_no_file_tells_where_the_parts_lay_and_all_can_be_read_by_others(parts: Parts, base: Path) -> None:
    for path in base.iterdir():
        assert str(parts.language.parent).encode() not in path.read_bytes(), path.name
    assert len({path.stat().st_mode for path in base.iterdir()}) == 1


def test_the_snippet_of_the_card_runs(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (base / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet
    monkeypatch.chdir(base)
    namespace: dict[str, Any] = {}
    exec(snippet[1], namespace)
    assert str(namespace["model"].dtype) == "torch.bfloat16"
    assert namespace["processor"].image_token_id == VOCAB_SIZE


def test_llama_2s_terms_go_with_the_base(base: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(base / "README.md")
    assert card.data.license == "llama2"
    assert "Meta Platforms, Inc. All Rights Reserved" in (base / "NOTICE").read_text()
