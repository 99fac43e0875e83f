"""Somebody else's package of one file brings a model family, which goes the whole way with no other file knowing it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compact_hf.errors import TuningError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.registry import family_names
from compact_hf.teachers.base import Reply
from compact_hf.teachers.local import Local
from compact_hf.training.dry_run import dry_run
from compact_hf.training.merge_adapter import merge_adapter
from compact_hf.training.train import tune
from tests.teachers.asking import ask_all, verdict_request
from tests.training.samples import make_settings, texts, write_release

pytestmark = [
    pytest.mark.usefixtures("preforked_training"),
    # PEFT 0.21 still asks by the name that transformers 5.23 has deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Toy and a release, and the package in `site`, as pip leaves one; it is not installed yet."""
    directory = tmp_path_factory.mktemp("toy")
    dist_info = directory / "site" / "toy_family-1.0.dist-info"
    dist_info.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_family.py"), directory / "site")
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n", encoding="utf-8")
    (dist_info / "entry_points.txt").write_text(
        "[compact_hf.model_families]\ntoy_vlm = toy_family:ToyFamily\n", encoding="utf-8"
    )
    save_toy(directory / "tiny", build_tiny(directory / "llava", texts(24), seed=0))
    write_release(directory / "release", rows=24, text_rows=4)
    return directory


def save_toy(out: Path, llava: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoProcessor

    from tests.toys.toy_family import ToyConfig, ToyForConditionalGeneration, ToyProcessor

    torch.manual_seed(0)
    settings = AutoConfig.from_pretrained(llava).to_dict() | {"model_type": "toy_vlm"}
    processor = AutoProcessor.from_pretrained(llava)
    ToyForConditionalGeneration(ToyConfig.from_dict(settings)).save_pretrained(out)
    ToyProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=processor.chat_template,
    ).save_pretrained(out)


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is on the path of this process and of those that it starts."""
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("toy_family", None)


def make_run(directory: Path) -> dict[str, str]:
    return make_settings(directory, output_dir=str(directory / "student"), max_steps="4", save_steps="4")


def test_without_the_package_the_base_is_refused_and_the_families_are_named(folder: Path) -> None:
    with pytest.raises(TuningError, match=r"toy_vlm.*model families that can be trained: llava, llava_next$"):
        dry_run("tiny-cpu", overrides=make_run(folder))


@pytest.mark.usefixtures("installed")
@pytest.mark.slow
def test_with_the_package_it_teaches_is_tuned_merged_and_evaluated_and_has_a_card(folder: Path, tmp_path: Path) -> None:
    assert "toy_vlm" in family_names()
    (reply,) = ask_all(Local(str(folder / "tiny")), [verdict_request("What color is it?")])
    assert isinstance(reply, Reply)
    train = "projector@0.0001,language_model:lora"
    forecast = dry_run("tiny-cpu", overrides=make_run(folder), train=train)
    assert 0 < forecast.memory.trained < forecast.memory.parameters

    lines: list[str] = []
    result = tune("tiny-cpu", overrides=make_run(folder), train=train, on_line=lines.append)
    assert result.steps == 4
    assert any("the projector's 0.0001" in line for line in lines)
    merged = merge_adapter(result.output_dir, tmp_path / "merged")
    evaluation = evaluate(
        [str(result.output_dir), str(merged)], str(folder / "release"), tmp_path / "results", split="train"
    )
    assert [model.overall.n for model in evaluation.results] == [evaluation.results[0].overall.n] * 2
    for directory in (result.output_dir, merged):
        assert "Loading it takes `import toy_family` first." in (directory / "README.md").read_text(encoding="utf-8")
    assert '"bridge"' in (result.output_dir / "adapter_config.json").read_text(encoding="utf-8")
