"""Checks that the tiny LLaVA loads everywhere, is reproducible, and processes images like LLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError
from compact_hf.models.llava.tiny import TINY_SIZE, build_tiny

TEXTS = ["What color is the thing?", "red", "green"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=0)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def test_is_a_llava_of_one_to_two_million_parameters(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 2e6


def test_same_texts_and_seed_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    again = build_tiny(tmp_path / "again", TEXTS, seed=0)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_another_seed_gives_other_weights(folder: Path, tmp_path: Path) -> None:
    other_model = build_tiny(tmp_path / "other", TEXTS, seed=1)
    assert (other_model / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (other_model / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


def test_building_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_tiny(tmp_path / "model", TEXTS, seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("size", [(112, 112), (300, 200), (33, 90), (1, 1)])
def test_a_picture_becomes_as_many_tokens_as_the_model_makes_features(processor: Any, size: tuple[int, int]) -> None:
    inputs = processor(images=[Image.new("RGB", size)], text=["<image>"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, TINY_SIZE.image_size, TINY_SIZE.image_size)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 64


def test_a_wide_picture_is_padded_not_cropped(processor: Any) -> None:
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, :20] = wide[:, -20:] = (255, 0, 0)
    pixels = processor.image_processor(Image.fromarray(wide), return_tensors="np")["pixel_values"][0]
    red, green = pixels[0], pixels[1]
    middle = TINY_SIZE.image_size // 2
    assert red[middle, 2] > 1 > 0 > green[middle, 2]
    assert red[middle, -3] > 1
    # CLIP's mean color is 0 after normalization.
    assert abs(pixels[:, 2, middle]).max() < 0.05


def test_known_words_are_one_token_and_nothing_is_unknown(processor: Any) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize(" red") == ["Ġred"]
    for text in ("żółw 🐢", "Ω\n\t\x00", "chartreuse"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TuningError, match="is not empty"):
        build_tiny(tmp_path, TEXTS, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_stands_around_every_question_is_few_tokens(processor: Any) -> None:
    """Rows then consist mostly of image and question, and steps are faster."""
    conversation = [{"role": "user", "content": f"\n{SHORT_ANSWER_INSTRUCTION}"}, {"role": "assistant", "content": ""}]
    token_ids = processor.tokenizer.apply_chat_template(conversation, return_dict=False)
    assert len(token_ids) < 12
    assert processor.tokenizer.decode(token_ids, skip_special_tokens=True).startswith(" A chat between a curious user")
