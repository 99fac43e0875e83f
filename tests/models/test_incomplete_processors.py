"""Tests that a base whose processor lacks settings, as many on the Hub do, is completed from its config.json.

Each broken base is a copy of an intact one; what is loaded from it has to be the same as from the intact one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import TuningError
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.side_by_side import SideBySide
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.loading import load_config, load_processor
from compact_hf.models.registry import get_family
from compact_hf.teachers.local_model import LocalModel
from compact_hf.training.dry_run import dry_run
from compact_hf.training.merge_adapter import merge_adapter
from tests.models.llava_next.tiny_llava_next import save_llava_next
from tests.training.adapters import save_adapter
from tests.training.samples import MODEL_SIZE, draw_image, make_settings, texts, write_release

SETTINGS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
FAMILIES = ("llava", "llava_next")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the bases `llava` and `llava_next`, `release`, and `adapter`, an adapter of `llava`."""
    directory = tmp_path_factory.mktemp("incomplete")
    llava = build_tiny(directory / "llava", texts(6), seed=0, size=MODEL_SIZE)
    save_llava_next(directory / "llava_next", llava, template=(llava / "chat_template.jinja").read_text())
    save_adapter(llava, directory / "adapter")
    write_release(directory / "release", rows=6)
    return directory


def edit_json(path: Path, *without: str, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in without}))


def remove(*names: str) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "processor_config.json", *names)


def set_null(*names: str) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "processor_config.json", **dict.fromkeys(names))


def save_as_in_2023(model: Path) -> None:
    """Leave only preprocessor_config.json, as transformers wrote it before processors had settings of their own."""
    settings = json.loads((model / "processor_config.json").read_text())
    (model / "processor_config.json").unlink()
    (model / "preprocessor_config.json").write_text(json.dumps(settings["image_processor"]))
    edit_json(model / "tokenizer_config.json", "processor_class")


def remove_pad_token(model: Path) -> None:
    edit_json(model / "tokenizer_config.json", "pad_token")


def change_config(**changes: Any) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "config.json", **changes)


def change_part(part: str, *without: str, **changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        config[part] = {key: value for key, value in (config[part] | changes).items() if key not in without}
        (model / "config.json").write_text(json.dumps(config))

    return change


def drop_image_token(model: Path) -> None:
    """Give the model a tokenizer that ends before the image token, as the language model's own does."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<image>"]
    del tokenizer["model"]["vocab"]["<image>"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit_json(model / "tokenizer_config.json", "image_token", "model_specific_special_tokens")


def break_copy(base: Path, out: Path, *damages: Callable[[Path], None]) -> Path:
    shutil.copytree(base, out)
    for damage in damages:
        damage(out)
    return out


@pytest.mark.parametrize(
    "damage",
    [
        *(remove(name) for name in SETTINGS),
        set_null("patch_size", "vision_feature_select_strategy"),
        remove(*SETTINGS),
        save_as_in_2023,
    ],
    ids=[*SETTINGS, "null", "all settings", "no processor_config.json"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_settings_that_are_missing_are_those_of_the_configuration(
    family: str, damage: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    config = load_config(folder / family)
    intact = load_processor(folder / family, config)
    broken = load_processor(break_copy(folder / family, tmp_path / "broken", damage), config)
    assert broken.to_json_string() == intact.to_json_string()
    broken.save_pretrained(tmp_path / "saved")
    saved = load_processor(tmp_path / "saved")
    count = get_family(family).count_image_tokens
    assert count(saved, (60, 40)) == count(intact, (60, 40))


def test_settings_that_only_together_give_the_right_number_are_kept(folder: Path, tmp_path: Path) -> None:
    full = {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}
    model = break_copy(
        folder / "llava", tmp_path / "full", lambda model: edit_json(model / "processor_config.json", **full)
    )
    processor = load_processor(model, load_config(model))
    assert {name: getattr(processor, name) for name in full} == full


def test_a_tower_without_a_class_token_adds_none(folder: Path, tmp_path: Path) -> None:
    from transformers import SiglipVisionConfig

    model = break_copy(folder / "llava", tmp_path / "siglip", remove(*SETTINGS))
    config = load_config(model)
    config.vision_config, config.vision_feature_select_strategy = SiglipVisionConfig(image_size=112), "full"
    config.vision_config.patch_size = 14
    assert get_family("llava").count_image_tokens(load_processor(model, config), (60, 40)) == 64


def test_a_tokenizer_without_padding_pads_with_its_end_token(folder: Path, tmp_path: Path) -> None:
    model = break_copy(folder / "llava", tmp_path / "broken", remove_pad_token)
    assert load_processor(model).tokenizer.pad_token is None
    assert load_processor(model, load_config(model)).tokenizer.pad_token == "</s>"


def test_an_image_token_that_is_the_next_one_of_the_tokenizer_is_added(folder: Path, tmp_path: Path) -> None:
    intact = load_processor(folder / "llava").tokenizer
    model = break_copy(folder / "llava", tmp_path / "broken", drop_image_token)
    config = load_config(model)
    config.image_token_index = len(load_processor(model).tokenizer)
    processor = load_processor(model, config)
    assert processor.tokenizer("<image>", add_special_tokens=False)["input_ids"] == [len(intact) - 1]
    assert processor.image_token_id == len(intact) - 1


@pytest.mark.parametrize(
    ("damages", "message"),
    [
        (
            (remove("patch_size"), change_part("vision_config", "patch_size", model_type="resnet")),
            "its processor has no patch_size, and vision_config in config.json has none either: add it to processor_c",
        ),
        (
            (lambda model: edit_json(model / "processor_config.json", num_additional_image_tokens=0),),
            "its processor makes 63 tokens per image, and the model expects 64: set patch_size 14, "
            "vision_feature_select_strategy default, num_additional_image_tokens 1 in processor_config.json",
        ),
        (
            (change_config(image_token_index=7),),
            "its image token <image> is token 3 of the tokenizer, but image_token_index in config.json is 7: use",
        ),
        (
            (drop_image_token,),
            "its image token <image> is no token of the tokenizer, but image_token_index in config.json is 3: use",
        ),
        (
            (change_part("text_config", vocab_size=100),),
            "but its embeddings have only 100 rows (vocab_size in config.json): use the tokenizer that",
        ),
        (
            (remove_pad_token, lambda model: edit_json(model / "tokenizer_config.json", "eos_token", "unk_token")),
            "its tokenizer has no padding token, and no end token to use instead: set pad_token in",
        ),
        (
            (lambda model: (model / "processor_config.json").unlink(),),
            "it has no image processor (processor_config.json or preprocessor_config.json); copy the file from",
        ),
        (
            (lambda model: [path.unlink() for path in model.glob("tokenizer*")] and None,),
            "it has no tokenizer (tokenizer.json or tokenizer.model); copy the file from the model that it was",
        ),
    ],
    ids=[
        *("patch size", "contradiction", "image token", "no image token", "vocabulary", "no end token"),
        *("no image processor", "no tokenizer"),
    ],
)
def test_what_the_configuration_does_not_determine_or_contradicts_is_one_line(
    damages: tuple[Callable[[Path], None], ...], message: str, folder: Path, tmp_path: Path
) -> None:
    model = break_copy(folder / "llava", tmp_path / "broken", *damages)
    settings = make_settings(folder, model_name_or_path=str(model), output_dir=str(tmp_path / "out"))
    with pytest.raises(TuningError) as excinfo:
        dry_run("tiny-cpu", overrides=settings)
    assert message in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


def break_everything(model: Path) -> None:
    save_as_in_2023(model)
    remove_pad_token(model)


def test_every_way_to_use_a_model_completes_its_processor(folder: Path, tmp_path: Path) -> None:
    model = break_copy(folder / "llava", tmp_path / "broken", break_everything)
    settings = make_settings(folder, model_name_or_path=str(folder / "llava"), output_dir=str(tmp_path / "out"))
    intact_plan = dry_run("tiny-cpu", overrides=settings)
    assert dry_run("tiny-cpu", overrides=settings | {"model_name_or_path": str(model)}) == intact_plan
    pairs = [(draw_image(color), "What color is the thing?") for color in ("red", "green", "red")]
    assert Student(str(model)).answer(pairs, max_new_tokens=4) == Student(str(folder / "llava")).answer(
        pairs, max_new_tokens=4
    )
    assert LocalModel(str(model), batch_size=1)._processor.patch_size == 14
    (*_, (answer,)) = SideBySide(str(model)).stream(pairs[0][0], "What is it?", max_new_tokens=2, seconds=60)
    assert answer.finish_reason


def test_an_adapter_is_completed_from_its_base_when_it_is_evaluated_merged_and_published(
    folder: Path, tmp_path: Path
) -> None:
    adapter = break_copy(folder / "adapter", tmp_path / "adapter", remove(*SETTINGS), remove_pad_token)
    assert Student(str(adapter))._processor.patch_size == 14
    merged = merge_adapter(adapter, tmp_path / "merged")
    assert load_processor(merged).patch_size == 14
    assert load_processor(merged).tokenizer.pad_token == "</s>"
