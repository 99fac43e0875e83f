"""Checks that adapters fit only their own base, and that merging does not change the answers."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import CompactError, TuningError, UsageError
from compact_hf.models.adapter import check_adapter_base, load_merged_model
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.training.inputs import bind_inputs, find_trained_base
from compact_hf.training.merge_adapter import merge_adapter
from compact_hf.training.training_record import RECORD_FILE, read_adapter_info
from tests.disk import limited_file_size
from tests.training.adapters import save_adapter
from tests.training.samples import draw_image, texts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("model") / "tiny", texts(10), seed=0)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("model") / "tuned")


def write_config(base: Path, out: Path, **text_config: Any) -> Path:
    """Write the config of a base with a changed language model, which suffices to check whether an adapter fits."""
    out.mkdir(parents=True)
    config = json.loads((base / "config.json").read_bytes())
    config["text_config"] |= text_config
    (out / "config.json").write_text(json.dumps(config))
    return out


def compute_logits(model: Any, processor: Any) -> Any:
    import torch
    from PIL import Image

    image = Image.open(BytesIO(draw_image("red")))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What color is the thing?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return model.eval()(**inputs.to(dtype=model.dtype)).logits.float()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_merged_or_apart_the_logits_are_the_same_and_not_the_bases(base: Path, tuned: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(tuned)
    base_logits = compute_logits(AutoModelForImageTextToText.from_pretrained(base), processor)
    unmerged = compute_logits(
        PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), tuned), processor
    )
    assert (unmerged - base_logits).abs().max() > 0.1

    (base / "NOTICE").write_text("terms")
    out = merge_adapter(tuned, tmp_path / "merged")
    assert (out / "NOTICE").read_text() == "terms"
    merged = compute_logits(AutoModelForImageTextToText.from_pretrained(out), AutoProcessor.from_pretrained(out))
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=1e-4)
    assert {path.suffix for path in out.iterdir()} == {".json", ".jinja", ".md", ".safetensors", ""}
    assert not (out / "adapter_config.json").exists()
    assert (
        "base_model_relation" not in (out / "README.md").read_text()
    )  # the base is a local directory, which has no public name
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_disk_that_is_too_full_for_a_merge_is_told_before_it_or_when_it_is_written(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
        with pytest.raises(
            TuningError, match=r"not enough disk space: \S+/merged needs about 0\.00\d+ GB, and 1e-06 GB"
        ):
            merge_adapter(tuned, tmp_path / "merged")
    with (
        pytest.raises(TuningError, match=r"/merged cannot be written \(File too large\); free disk space") as excinfo,
        limited_file_size(1_000_000),
    ):
        merge_adapter(tuned, tmp_path / "merged")
    assert "\n" not in str(excinfo.value)
    assert not list(tmp_path.iterdir())


def test_the_precision_of_the_base_is_kept_where_the_adapters_is_higher(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    bf16_base = shutil.copytree(base, tmp_path / "half")
    AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(bf16_base)
    expected = dict(load_merged_model(tuned, base).named_parameters())
    for name, weight in load_merged_model(tuned, bf16_base).named_parameters():
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight.float(), expected[name].float(), atol=0.02, rtol=0.02)
    out = merge_adapter(tuned, tmp_path / "merged", base=bf16_base)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_hidden_layers": 5}, "the adapter has no model.language_model.layers.4.mlp.down_proj.lora_A.weight"),
        ({"num_hidden_layers": 3}, "this base has no model.language_model.layers.3.mlp.down_proj.lora_A.weight"),
        ({"intermediate_size": 256}, "mlp.down_proj.lora_A.weight is [4, 384], but has to be [4, 256] for this base"),
    ],
)
def test_an_adapter_of_another_base_is_refused_before_weights_are_read(
    base: Path, tuned: Path, tmp_path: Path, change: dict[str, int], told: str
) -> None:
    check_adapter_base(tuned, base)
    other_base = write_config(base, tmp_path / "other", **change)
    with pytest.raises(TuningError) as excinfo:
        merge_adapter(tuned, tmp_path / "merged", base=other_base)
    assert "was not made for" in str(excinfo.value)
    assert told in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "merged").exists()


def test_the_bases_revision_comes_from_the_config_or_from_what_training_wrote_down(tuned: Path, tmp_path: Path) -> None:
    student = shutil.copytree(tuned, tmp_path / "student")
    base = read_adapter_info(student).base
    assert read_adapter_info(student).base_revision is None
    (student / RECORD_FILE).write_text(json.dumps({"base": base, "base_revision": "abc"}))
    assert read_adapter_info(student).base_revision == "abc"
    (student / RECORD_FILE).write_text(json.dumps({"base": "org/another", "base_revision": "abc"}))
    assert read_adapter_info(student).base_revision is None
    config = json.loads((student / "adapter_config.json").read_bytes())
    (student / "adapter_config.json").write_text(json.dumps({**config, "revision": "def"}))
    assert read_adapter_info(student).base_revision == "def"


def test_a_student_of_another_base_is_one_clear_line(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = shutil.copytree(tuned, tmp_path / "student")
    config = json.loads((student / "adapter_config.json").read_bytes())
    config["base_model_name_or_path"] = str(write_config(base, tmp_path / "other", num_hidden_layers=3))
    (student / "adapter_config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(student), "scenes:2", "--out", str(tmp_path / "results")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compact: adapter ")
    assert "was not made for" in line


def test_what_cannot_be_merged_is_told_in_one_line(base: Path, tuned: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tuned, tmp_path / "broken")
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    pickled = shutil.copytree(tuned, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    text_only = tmp_path / "text"
    text_only.mkdir()
    (text_only / "config.json").write_text('{"model_type": "llama"}')
    nameless = shutil.copytree(tuned, tmp_path / "nameless")
    (nameless / "adapter_config.json").write_text("{}")
    elsewhere = shutil.copytree(tuned, tmp_path / "elsewhere")
    config = json.loads((tuned / "adapter_config.json").read_bytes())
    (elsewhere / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/base"}))
    changed, own_base = shutil.copytree(tuned, tmp_path / "changed"), shutil.copytree(base, tmp_path / "base")
    (changed / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(own_base)}))
    bind_inputs(changed, {"dataset_name": "release", "model_name_or_path": str(own_base)}, on_note=pytest.fail)
    assert find_trained_base(changed) == own_base
    with (own_base / "model.safetensors").open("ab") as file:
        file.write(b"more")
    contradicting, untokenized = (shutil.copytree(tuned, tmp_path / name) for name in ("contradicting", "untokenized"))
    processor_config = json.loads((tuned / "processor_config.json").read_bytes())
    (contradicting / "processor_config.json").write_text(
        json.dumps(processor_config | {"num_additional_image_tokens": 0})
    )
    (untokenized / "tokenizer.json").unlink()
    non_empty = tmp_path / "full"
    non_empty.mkdir()
    (non_empty / "something").touch()
    cases: list[tuple[type[CompactError], str, Path, dict[str, Any]]] = [
        (TuningError, "cannot be read", broken, {}),
        (TuningError, "has no adapter_model.safetensors", pickled, {}),
        (TuningError, "not a readable vision-language model", tuned, {"base": text_only}),
        (TuningError, "names no base", nameless, {}),
        (TuningError, "has other weights than those that .* was trained on: put", changed, {}),
        (UsageError, "the base cannot be used: model '/nowhere' was not found", tuned, {"base": "/nowhere"}),
        (UsageError, "the base cannot be used: .*full is not a model", tuned, {"base": non_empty}),
        (TuningError, "contradicting cannot be merged: its processor makes 63 tokens per image", contradicting, {}),
        (TuningError, "untokenized cannot be merged: it has no tokenizer .*copy the file", untokenized, {}),
        (UsageError, "is a whole model", base, {}),
        (
            TuningError,
            r"elsewhere is an adapter, and its base cannot be used: model 'org/base' was .* as --base",
            elsewhere,
            {},
        ),
        (
            TuningError,
            "the base cannot be used: model 'org/other' was not found.* as --base",
            elsewhere,
            {"base": "org/other"},
        ),
    ]
    for error_class, message, directory, options in cases:
        with pytest.raises(error_class, match=message) as excinfo:
            merge_adapter(directory, tmp_path / "merged", **options)
        assert "\n" not in str(excinfo.value)
        assert not (tmp_path / "merged").exists()
    with pytest.raises(UsageError, match="is not empty"):
        merge_adapter(tuned, non_empty)


def test_an_adapter_whose_base_was_moved_is_evaluated_and_merged_with_the_base_that_is_given_and_the_results_say_so(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, moved = shutil.copytree(tuned, tmp_path / "student"), shutil.copytree(base, tmp_path / "moved")
    config = json.loads((student / "adapter_config.json").read_bytes())
    (student / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    evaluation = ["evaluate", str(student), "scenes:1", "--limit", "2", "--out", str(tmp_path / "results")]

    for command in (evaluation, ["adapter", "merge", str(student), "--out", str(tmp_path / "merged")]):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{student} is an adapter, and its base cannot be used: model '/gone/base' was not found" in line
        assert line.endswith("give the model that it was trained on as --base")
        assert main([*command, "--base", "./missing"]) == 2
        assert "the base cannot be used: model './missing' was not found" in capsys.readouterr().err
        assert main([*command, "--base", str(moved)]) == 0
        capsys.readouterr()
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [model["model"] for model in results["models"]] == ["student on moved"]
    # The call that failed has left nothing.
    assert list(json.loads((tmp_path / "results" / "evaluation.json").read_text())["models"]) == ["student-on-moved"]
    assert f" {moved}</code>" in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "merged" / RECORD_FILE).read_text())["base"] == str(moved)
    assert main(["evaluate", str(base), "scenes:1", "--base", str(moved), "--out", str(tmp_path / "other")]) == 2
    assert "none of the models is an adapter; leave out --base" in capsys.readouterr().err
