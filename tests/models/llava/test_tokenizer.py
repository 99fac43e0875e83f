"""Checks that the tokenizer splits text as SentencePiece does, also after saving and loading."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import TuningError
from compact_hf.models.llava.processor import load_llama_tokenizer
from tests.models.llava.llava_rules import SlowLlamaTokenizer

SENTENCEPIECE = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
REFERENCE = SlowLlamaTokenizer(SENTENCEPIECE, legacy=False)
TEXT = st.text(st.one_of(st.sampled_from(" \n.aeé▁红🐢"), st.characters(exclude_categories=["Cs"])), max_size=60)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load_llama_tokenizer(SENTENCEPIECE)
    tokenizer.save_pretrained(directory)
    return [tokenizer, AutoTokenizer.from_pretrained(directory)]


@given(text=TEXT)
def test_cuts_any_text_as_sentencepiece_does(ours: list[Any], text: str) -> None:
    # Without the first token, which the chat template adds.
    expected = REFERENCE(f"x{text}")[1:]
    for tokenizer in ours:
        assert tokenizer(f"x{text}").input_ids == expected


@pytest.mark.parametrize("content", [None, b"", b"no such thing"])
def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "tokenizer.model"
    if content is not None:
        model.write_bytes(content)
    with pytest.raises(TuningError, match=r"tokenizer\.model cannot be read") as excinfo:
        load_llama_tokenizer(model)
    assert "\n" not in str(excinfo.value)
