"""Tests that models whose training diverged are refused: by their weights, or else by the logits of their answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compact_hf.errors import CompactError, EvaluationError, TeacherError
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.side_by_side import SideBySide
from compact_hf.models.finite import find_non_finite
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.teachers.local import Local
from compact_hf.teachers.local_model import ModelLocation, load_network
from compact_hf.training.merge_adapter import merge_adapter
from compact_hf.training.publish import publish_model
from tests.teachers.asking import ask_all, verdict_request
from tests.training.adapters import save_adapter
from tests.training.samples import MODEL_SIZE, draw_image, texts

PROJECTOR = "multi_modal_projector.linear_1.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model, `whole`, and an adapter of it, `adapter`."""
    directory = tmp_path_factory.mktemp("finite")
    build_tiny(directory / "whole", texts(3), seed=0, size=MODEL_SIZE)
    save_adapter(directory / "whole", directory / "adapter")
    return directory


def fill(path: Path, value: float, *, names: str = "") -> str:
    """Set an element of each tensor whose name contains `names` to a value, and return the first one's name."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    changed = sorted(name for name in weights if names in name)
    for name in changed:
        weights[name].view(-1)[-1] = value
    save_file(weights, path, metadata={"format": "pt"})
    return changed[0]


OPENERS: dict[str, Callable[[Path], object]] = {
    "evaluation": lambda model: Student(str(model)),
    "Space": lambda model: SideBySide(str(model)),
    "teacher": lambda model: load_network(ModelLocation(str(model), None)),
    "merging": lambda model: merge_adapter(model, model.parent / "merged"),
    "publishing": lambda model: publish_model(model, "org/student", dry_run=True),
}


@pytest.mark.parametrize(
    ("opener", "kind", "value"),
    [
        ("evaluation", "whole", "nan"),
        ("Space", "whole", "inf"),
        ("teacher", "whole", "-inf"),
        ("publishing", "whole", "nan"),
        ("evaluation", "adapter", "nan"),
        ("Space", "adapter", "nan"),
        ("merging", "adapter", "inf"),
        ("publishing", "adapter", "nan"),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    models: Path, tmp_path: Path, opener: str, kind: str, value: str
) -> None:
    model = shutil.copytree(models / kind, tmp_path / "model")
    file = next(model.glob("*.safetensors"))
    name = fill(file, float(value), names="multi_modal_projector.linear_1")
    with pytest.raises(CompactError, match=r"weights (that )?are not finite numbers \(") as excinfo:
        OPENERS[opener](model)
    assert name.partition("multi_modal")[2] in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "merged").exists()


def test_the_first_tensors_are_named_and_the_others_counted(models: Path, tmp_path: Path) -> None:
    model = shutil.copytree(models / "whole", tmp_path / "model")
    fill(model / "model.safetensors", float("nan"))
    with pytest.raises(CompactError, match=r"\(\S+, \S+, \S+ and \d+ more\), as after training that diverged"):
        publish_model(model, "org/student", dry_run=True)


def test_a_base_that_is_not_finite_or_damaged_is_named_when_an_adapter_is_merged(models: Path, tmp_path: Path) -> None:
    base = shutil.copytree(models / "whole", tmp_path / "base")
    fill(base / "model.safetensors", float("nan"), names="embed_tokens")
    with pytest.raises(CompactError, match=r"the base \S+/base cannot be loaded: its weights .* \(\S+embed_tokens"):
        merge_adapter(models / "adapter", tmp_path / "merged", base=base)
    (base / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CompactError, match=r"the base \S+/base cannot be loaded: its files are not those of a model"):
        merge_adapter(models / "adapter", tmp_path / "merged", base=base)


def test_finite_weights_that_become_too_large_in_the_merge_are_refused(models: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(models / "adapter", tmp_path / "adapter")
    fill(adapter / "adapter_model.safetensors", 1e30, names="lora_")
    with pytest.raises(CompactError, match=r"cannot be merged into \S+: its weights are not finite .*language_model"):
        merge_adapter(adapter, tmp_path / "merged")


def test_finite_weights_whose_logits_are_not_finite_give_no_answer(models: Path, tmp_path: Path) -> None:
    model = shutil.copytree(models / "whole", tmp_path / "model")
    fill(model / "model.safetensors", 3e38, names=PROJECTOR)
    student, question = Student(str(model)), (draw_image("red"), "What is it?")
    for pairs in ([question], [question, (question[0], "How many?")]):
        with pytest.raises(
            EvaluationError, match=r"model \S+ cannot answer: its logits are not finite numbers"
        ) as info:
            student.answer(pairs, max_new_tokens=4)
        assert "\n" not in str(info.value)
    # The teacher stops, because a request without such logits would not help.
    with pytest.raises(TeacherError, match=r"^model cannot answer: its logits are not finite numbers"):
        ask_all(Local(str(model)), [verdict_request("What is it?"), verdict_request("How many?")])
    with pytest.raises(EvaluationError, match="cannot answer: its logits are not finite"):
        list(SideBySide(str(model)).stream(*question, max_new_tokens=4, seconds=60))


def test_low_precision_and_integers_are_checked_too() -> None:
    import torch

    good = [(str(dtype), torch.ones(9).to(dtype)) for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int8)]
    bad = [(f"bad {name}", tensor.float().index_fill(0, torch.tensor([4]), torch.nan)) for name, tensor in good[:2]]
    bad = [
        (name, tensor.to(dtype))
        for (name, tensor), dtype in zip(bad, (torch.bfloat16, torch.float8_e4m3fn), strict=True)
    ]
    empty = [("empty", torch.empty(0)), ("meta", torch.empty(3, device="meta"))]
    assert find_non_finite([*good, *bad, *empty]) == [name for name, _ in bad]


@pytest.mark.parametrize(("rank", "bad", "is_found"), [(0, 2, True), (1, 1, True), (1, 2, False)])
def test_of_zero3_weights_the_shard_is_checked_without_the_padding_of_the_last(
    monkeypatch: pytest.MonkeyPatch, rank: int, bad: int, is_found: bool
) -> None:
    """As DeepSpeed 0.19 shards 5 values over two processes: 3 and 2, and a value that is never set."""
    import torch

    shard = torch.ones(3).index_fill(0, torch.tensor([bad]), torch.nan)
    weight = torch.empty(0)
    weight.ds_tensor, weight.ds_numel, weight.ds_process_group = shard, 5, None  # type: ignore[attr-defined]
    monkeypatch.setattr("torch.distributed.get_rank", lambda group: rank)
    assert find_non_finite([("weight", weight)]) == ["weight"] * is_found
