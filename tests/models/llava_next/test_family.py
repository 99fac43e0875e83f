"""Checks the family LLaVA-NeXT: image tokens by shape, TRL's template, and the parts of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.loading import load_network, load_processor
from compact_hf.models.registry import get_family
from tests.models.llava_next.tiny_llava_next import save_llava_next

FAMILY = get_family("llava_next")
SIDES = st.integers(8, 400)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trl.chat_template_utils import llava_next_chat_template

    directory = tmp_path_factory.mktemp("llava next")
    tiny = build_tiny(directory / "tiny", ["What color is it?", "red"], seed=0)
    return save_llava_next(directory / "base", tiny, template=llava_next_chat_template)


@pytest.fixture(scope="module")
def processor(base: Path) -> Any:
    return load_processor(base)


@given(width=SIDES, height=SIDES)
def test_an_image_counts_as_the_processor_makes_it(processor: Any, width: int, height: int) -> None:
    from PIL import Image

    text = FAMILY.image_placeholder(processor)
    tokens = processor(images=Image.new("RGB", (width, height)), text=text, add_special_tokens=False)["input_ids"][0]
    assert FAMILY.count_image_tokens(processor, (width, height)) == len(tokens)


def test_the_shape_of_an_image_decides_how_many_tokens_it_becomes(processor: Any) -> None:
    counts = {FAMILY.count_image_tokens(processor, size) for size in ((64, 64), (60, 40), (40, 60), (200, 60))}
    assert len(counts) > 2


def test_the_model_has_as_many_features_as_the_processor_makes_tokens(base: Path, processor: Any) -> None:
    import torch
    from PIL import Image

    model = load_network(base)
    for size in ((64, 64), (60, 40), (40, 60), (300, 20), (17, 230)):
        inputs = processor(images=Image.new("RGB", size), text="<image> What?", return_tensors="pt")
        with torch.inference_mode():
            assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_trls_template_teaches_the_answers_of_the_conversation_that_it_knows(processor: Any) -> None:
    template = FAMILY.training_template(processor)
    assert template is not None
    messages = [{"role": role, "content": [{"type": "text", "text": role}]} for role in ("user", "assistant")]
    render = processor.apply_chat_template
    assert render(messages, chat_template=template, tokenize=False) == render(messages, tokenize=False)
    assert "generation" in template


def test_every_parameter_belongs_to_a_part(base: Path) -> None:
    parts = {name: FAMILY.find_part(name) for name, _ in load_network(base).named_parameters()}
    assert set(parts.values()) == {"projector", "language_model", "tower"}
    assert {name.split(".")[1] for name, part in parts.items() if part == "projector"} == {
        "multi_modal_projector",
        "image_newline",
    }


def test_a_family_that_nobody_registered_is_asked_and_has_nothing_to_train(processor: Any) -> None:
    unknown = get_family("qwen2_vl")
    assert not unknown.parts
    assert not unknown.can_share_prefix(processor)
