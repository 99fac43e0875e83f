"""Checks that invalid parts are refused in one line before anything is written, and that partial output is hidden."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from compact_hf.errors import CompactError, TuningError, UsageError
from compact_hf.models.llava import assemble
from compact_hf.models.llava.assemble import assemble_base
from tests import preforked
from tests.models.llava.base_parts import Parts, save_parts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return save_parts(tmp_path_factory.mktemp("parts"), layers=1)


@pytest.fixture
def places(made: Parts, tmp_path: Path) -> dict[str, str]:
    """Copy the parts to directories that a test may damage."""
    shutil.copytree(made.language.parent, tmp_path / "parts")
    return {role: str(tmp_path / "parts" / Path(path).name) for role, path in made.to_kwargs().items()}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    import torch

    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def set_wrong_width(tensors: dict[str, Any]) -> None:
    import torch

    tensors["model.mm_projector.0.weight"] = torch.zeros(32, 40)


def drop_layer(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        if ".2." in name:
            del tensors[name]


def set_infinity(tensors: dict[str, Any]) -> None:
    tensors["model.mm_projector.2.bias"][3] = float("inf")


def set_integers(tensors: dict[str, Any]) -> None:
    import torch

    tensors["vision_model.post_layernorm.bias"] = torch.zeros(24, dtype=torch.int8)


LLAMA_SHARD = "pytorch_model-00001-of-00002.bin"
# Name -> (damage to the directories of the parts, expected message).
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a llava": (lambda at: edit_json(at / "vicuna/config.json", model_type="llava"), "is a LLaVA already"),
    "a mistral": (lambda at: edit_json(at / "vicuna/config.json", model_type="mistral"), "has the model type mistral"),
    "a siglip": (lambda at: edit_json(at / "clip/config.json", model_type="siglip"), "has the model type siglip"),
    "no kind": (lambda at: (at / "vicuna/config.json").write_text("{}"), "cannot be read"),
    "a width in words": (
        lambda at: edit_json(at / "vicuna/config.json", hidden_size="wide"),
        "the config of language model",
    ),
    "quantized": (
        lambda at: edit_json(at / "vicuna/config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "is quantized",
    ),
    "a linear projector": (
        lambda at: edit_json(at / "projector/config.json", mm_projector_type="linear"),
        "mm_projector_type 'linear', but LLaVA-1.5 needs 'mlp2x_gelu'",
    ),
    "a projector of another width": (
        lambda at: edit_weights(at / "projector/mm_projector.bin", set_wrong_width),
        "[32, 40], but it has to be [32, 24], from the vision tower's 24 to the language model's 32",
    ),
    "half a projector": (
        lambda at: edit_weights(at / "projector/mm_projector.bin", drop_layer),
        "lacks the weights for multi_modal_projector.linear_2.weight and 1 more",
    ),
    "something else as a projector": (
        lambda at: shutil.copy(at / "clip/pytorch_model.bin", at / "projector/mm_projector.bin"),
        "which LLaVA-1.5 does not have",
    ),
    "a projector that is not finite": (
        lambda at: edit_weights(at / "projector/mm_projector.bin", set_infinity),
        "mm_projector.2.bias in mm_projector.bin has values that are not finite in torch.float32",
    ),
    "a projector cut short": (lambda at: os.truncate(at / "projector/mm_projector.bin", 900), "cannot be read"),
    "an empty projector": (lambda at: os.truncate(at / "projector/mm_projector.bin", 0), "cannot be read"),
    "whole numbers": (
        lambda at: edit_weights(at / "clip/pytorch_model.bin", set_integers),
        "as torch.int8: give it in floating point",
    ),
    "a shard less": (lambda at: (at / "vicuna" / LLAMA_SHARD).unlink(), "has 1 of its 2 shards"),
    "a shard twice": (
        lambda at: shutil.copy(at / "vicuna" / LLAMA_SHARD, at / "vicuna" / LLAMA_SHARD.replace("00001", "00002", 1)),
        "twice",
    ),
    "a layer less": (lambda at: edit_json(at / "vicuna/config.json", num_hidden_layers=2), "lacks the weights for"),
    "a layer more": (lambda at: edit_json(at / "clip/config.json", vision_config={}), "has to be"),
    "no weights": (lambda at: (at / "clip/pytorch_model.bin").unlink(), "lacks weights"),
    "no tokenizer": (lambda at: (at / "vicuna/tokenizer.model").unlink(), "lacks tokenizer.model or tokenizer.json"),
    "a broken tokenizer": (lambda at: (at / "vicuna/tokenizer.model").write_text("?"), "cannot be read"),
    "more rows than tokens": (lambda at: edit_json(at / "vicuna/config.json", vocab_size=32001), "has 32000 tokens"),
    "no normalization": (lambda at: (at / "clip/preprocessor_config.json").unlink(), "preprocessor_config.json"),
    "no patches": (
        lambda at: edit_json(at / "clip/config.json", vision_config={"image_size": 30, "patch_size": 14}),
        "which is not a multiple of its patch size 14",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_that_does_not_fit_is_told_in_one_line_and_nothing_is_left(
    places: dict[str, str], tmp_path: Path, damage: str
) -> None:
    apply_damage, message = DAMAGES[damage]
    apply_damage(tmp_path / "parts")
    with pytest.raises(TuningError) as excinfo:
        assemble_base(tmp_path / "base", **places)
    assert message in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_pickle_that_would_run_something_is_not_opened(places: dict[str, str], tmp_path: Path) -> None:
    import torch

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"model.mm_projector.0.weight": Trap()}, tmp_path / "trap.bin")
    with pytest.raises(TuningError, match="contains other objects than tensors"):
        assemble_base(tmp_path / "base", **places | {"projector": str(tmp_path / "trap.bin")})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"language_model": "nowhere/at/all"}, "was not found: give a directory, or a repository on the Hub"),
        ({"vision_tower": "nowhere"}, "was not found: give a directory, or a repository on the Hub"),
        ({"dtype": "int8"}, "choose from stored, float16, bfloat16, float32"),
        ({"push_to": "base"}, "give namespace/name"),
        ({"private": True}, "give --push ORG/NAME too"),
    ],
)
def test_what_names_nothing_is_told(places: dict[str, str], tmp_path: Path, given: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        assemble_base(tmp_path / "base", **places | given)


def test_a_folder_with_something_else_and_a_file_are_left_alone(places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    thesis = tmp_path / "mine" / "thesis.tex"
    thesis.write_text("years of work")
    for out, message in ((thesis.parent, "something other than an assembled base"), (thesis, "is not a directory")):
        with pytest.raises(UsageError, match=message):
            assemble_base(out, **places)
    assert thesis.read_text() == "years of work"


def test_the_same_call_again_keeps_the_base_and_another_one_is_refused(places: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "base"
    assert assemble_base(out, **places).is_new
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not assemble_base(out, **places).is_new
    with pytest.raises(UsageError, match="a base of other parts or another dtype"):
        assemble_base(out, **places, dtype="bfloat16")
    # A projector that was trained again in the same directory, of the same size.
    edit_weights(Path(places["projector"]) / "mm_projector.bin", lambda tensors: next(iter(tensors.values())).add_(1))
    with pytest.raises(UsageError, match="a base of other parts or another dtype"):
        assemble_base(out, **places)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_kill_leaves_nothing_that_looks_whole_and_the_same_call_begins_anew(
    places: dict[str, str], tmp_path: Path
) -> None:
    """The process kills itself after the first shard, when the partial output looks most like a model."""
    source = """
import json, os, signal, sys
from compact_hf.models.llava.assemble import assemble_base
assemble_base(sys.argv[1], **json.loads(sys.argv[2]), on_progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    out = tmp_path / "base"
    process = preforked.run([sys.executable, "-c", source, str(out), json.dumps(places)])
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not out.exists()
    assert any(path.suffix == ".safetensors" for path in (tmp_path / ".base.writing").rglob("*"))
    assemble_base(out, **places)
    assert (out / "config.json").is_file()
    assert not (tmp_path / ".base.writing").exists()


def test_too_small_a_disk_or_memory_is_told_before_anything_is_written(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk and memory sizes are simulated, because a test cannot fill them."""
    import psutil

    with monkeypatch.context() as patch:
        patch.setattr(assemble.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
        with pytest.raises(
            TuningError, match=r"has 0\.0 GB free, but assembling takes 0\.0 GB for the base; free disk space"
        ):
            assemble_base(tmp_path / "base", **places)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    with pytest.raises(TuningError, match=r"not enough memory: 0\.0 GB are free, but assembling takes 0\.0 GB"):
        assemble_base(tmp_path / "base", **places)
    assert not (tmp_path / "base").exists()


def test_a_disk_needs_room_for_the_download_and_the_base_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assemble.shutil, "disk_usage", lambda path: SimpleNamespace(free=10e9))
    assemble.check_disk_space(
        tmp_path / "base", assemble.DiskSpace(download_bytes=4_000_000_000, output_bytes=6_000_000_000)
    )
    with pytest.raises(
        TuningError, match=r"has 10\.0 GB free, but assembling takes 7\.0 GB for the base and 4\.0 GB for parts"
    ):
        assemble.check_disk_space(
            tmp_path / "base", assemble.DiskSpace(download_bytes=4_000_000_000, output_bytes=7_000_000_000)
        )


def test_a_dry_run_says_what_it_would_take_and_refuses_what_the_run_would(
    places: dict[str, str], tmp_path: Path
) -> None:
    planned = assemble_base(tmp_path / "base", **places, dry_run=True)
    assert not (tmp_path / "base").exists()
    assert (planned.vocab_size, planned.is_new, planned.disk_space.download_bytes) == (32064, False, 0)
    assemble_base(tmp_path / "base", **places)
    weight_bytes = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    assert 0.8 * planned.disk_space.output_bytes < weight_bytes < 1.1 * planned.disk_space.output_bytes
    edit_json(Path(places["projector"]) / "config.json", mm_vision_select_layer=-1)
    with pytest.raises(CompactError, match="mm_vision_select_layer -1"):
        assemble_base(tmp_path / "other", **places, dry_run=True)
