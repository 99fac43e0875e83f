"""Checks which files of a part are selected."""

from __future__ import annotations

from pathlib import Path

from compact_hf.models.llava.parts import find_part


def test_of_weights_that_are_there_whole_and_in_shards_the_shards_are_taken(tmp_path: Path) -> None:
    shards = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    others = ("config.json", "tokenizer_config.json", "tokenizer.model")
    for name in (*others, *shards, "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"1234")
    part = find_part("language model", str(tmp_path))
    assert part.weight_files == shards
    assert part.files.keys() == {*others, *shards}
    assert part.weight_bytes == 8
