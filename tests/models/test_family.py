"""Checks that the example family in docs/model_families.md works with the defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from compact_hf.models.family import ModelFamily
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.loading import load_network, load_processor
from tests.teachers.other_models import save_idefics
from tests.training.samples import texts, write_release

DOCS = Path(__file__).parents[2] / "docs" / "model_families.md"


@pytest.fixture(scope="module")
def family() -> ModelFamily:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(code, namespace)
    shown: ModelFamily = namespace["SmolVlm"]()
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write `model`, a tiny Idefics 3 (the architecture of SmolVLM), and `release` with images of several shapes."""
    directory = tmp_path_factory.mktemp("family")
    save_idefics(directory / "model", build_tiny(directory / "tiny", texts(6), seed=0))
    write_release(directory / "release", rows=6, sizes=((60, 40), (64, 64), (48, 120)))
    return directory


def test_its_parts_hold_every_parameter_and_its_lora_goes_into_every_part(family: ModelFamily, folder: Path) -> None:
    model = load_network(folder / "model")
    assert {family.find_part(name) for name, _ in model.named_parameters()} == set(family.parts)
    for name, part in family.parts.items():
        targets = [path for path, _ in model.named_modules() if re.fullmatch(part.lora_targets, path)]
        assert targets
        assert {family.find_part(target) for target in targets} == {name}


def test_the_lengths_that_it_counts_are_those_of_the_batches_of_training(family: ModelFamily, folder: Path) -> None:
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from compact_hf.training.row_screening import screen_rows

    processor = load_processor(folder / "model")
    rows = load_dataset(str(folder / "release"), "all")["train"]
    result = screen_rows(rows, processor, family, max_length=1024, answers_only=False)
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024)
    assert result.lengths == tuple(int(collate([row])["attention_mask"].sum()) for row in rows)
    assert len({family.count_image_tokens(processor, row["images"][0].size) for row in rows}) > 1
