"""Tests that models from outside run no code, load no pickles, and end in one line if their files are hostile."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compact_hf.errors import CompactError, TuningError
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.side_by_side import SideBySide
from compact_hf.models.chat_template import check_chat_templates
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.llava.weights import read_headers
from compact_hf.teachers.local_model import LocalModel
from compact_hf.training.dry_run import dry_run
from compact_hf.training.publish import publish_model
from tests.training.samples import MODEL_SIZE, texts

ROOT = Path(__file__).parents[2]
SOURCES = ("compact_hf", "benchmarks", "docs", "model_card", "spaces_demo", "student_script")
CODE_REFUSED = "needs code of its own repository, and such code is never run; use a model of an architecture"
PICKLES_REFUSED = "has no safetensors weights, and pickles such as pytorch_model.bin are not loaded"

CODE = """
from io import BytesIO
from pathlib import Path
Path(__file__).with_name("code-was-run").touch()
Path({marker!r}).touch()
from transformers import LlavaConfig as Foreign, LlavaForConditionalGeneration as ForeignModel
from transformers import LlavaProcessor as ForeignProcessor, PreTrainedTokenizerFast as ForeignTokenizer
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("hostile") / "tiny", texts(3), seed=0, size=MODEL_SIZE)


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny model with a Python file; somebody answers "y" to each question on the terminal."""
    monkeypatch.setattr(builtins, "input", lambda _: "y")
    directory = tmp_path / "model"
    shutil.copytree(tiny, directory)
    (directory / "foreign.py").write_text(CODE.format(marker=str(tmp_path / "code-was-run")))
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def add_model_code(model: Path) -> None:
    auto_map = {"AutoConfig": "foreign.Foreign", "AutoModelForImageTextToText": "foreign.ForeignModel"}
    edit_json(model / "config.json", model_type="foreign", auto_map=auto_map)


def add_processor_code(model: Path) -> None:
    auto_map = {"AutoProcessor": "foreign.ForeignProcessor"}
    edit_json(model / "config.json", model_type="clip_text_model")
    edit_json(model / "processor_config.json", processor_class="ForeignProcessor", auto_map=auto_map)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def pickle_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(model.parent / "code-was-run")))


def name_pickle(model: Path) -> None:
    pickle_weights(model)
    (model / "other.safetensors").touch()
    edit_json(model / "config.json", transformers_weights="pytorch_model.bin")


def nest(name: str) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)

    return write


def write_config(text: str) -> Callable[[Path], None]:
    return lambda model: (model / "config.json").write_text(text) and None


OPENERS: dict[str, Callable[[Path], object]] = {
    "evaluation": lambda model: Student(str(model)),
    "Space": lambda model: SideBySide(str(model)),
    "teacher": lambda model: LocalModel(str(model), batch_size=1),
    "training": lambda model: dry_run(
        "tiny-cpu", overrides={"model_name_or_path": str(model), "dataset_name": str(model), "output_dir": "out"}
    ),
    "publishing": lambda model: publish_model(model, "org/student", dry_run=True),
}


def open_hostile(opener: str, model: Path) -> str:
    """Open a hostile model, and return the error; nothing of the model may have been run."""
    with pytest.raises(CompactError) as excinfo:
        OPENERS[opener](model)
    assert not (model.parent / "code-was-run").exists()
    message = str(excinfo.value)
    assert "\n" not in message
    assert "trust_remote_code" not in message
    return message


@pytest.mark.parametrize("opener", ["evaluation", "Space", "teacher", "training"])
def test_code_of_a_model_is_never_run_and_the_error_says_what_to_do(opener: str, model: Path) -> None:
    add_model_code(model)
    assert CODE_REFUSED in open_hostile(opener, model)


@pytest.mark.parametrize("opener", ["evaluation", "publishing"])
def test_code_of_a_processor_is_never_run(opener: str, model: Path) -> None:
    add_processor_code(model)
    assert "code-was-run" not in open_hostile(opener, model)


@pytest.mark.parametrize("damage", [pickle_weights, name_pickle])
def test_pickled_weights_are_refused(damage: Callable[[Path], None], model: Path) -> None:
    damage(model)
    message = open_hostile("evaluation", model)
    assert PICKLES_REFUSED in message or damage is name_pickle


ENDLESS = "its chat template does not end within seconds, or needs gigabytes, for a question of one line"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ENDLESS),
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", ENDLESS),
        ("{{ 'x' * 10 ** 10 }}", ENDLESS),
        ("{{ 10 ** (10 ** 9) % 7 }}", ENDLESS),
        ("{% macro a(n) %}{{ a(n) }}{{ a(n) }}{% endmacro %}{{ a(1) }}", ENDLESS),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ENDLESS),
        ("{% if messages | length > 2 %}{{ '%1000000000d' % 1 }}{% endif %}", ENDLESS),
        ("{% for", "does not accept a question with an image (unexpected 'end of template'"),
        ("{{ raise_exception('first line\nsecond') }}", "does not accept a question with an image (first line"),
    ],
    ids=["loop", "text", "memory", "power", "recursion", "brackets", "several turns", "syntax", "refusal"],
)
def test_a_chat_template_that_does_not_end_is_refused_within_seconds(template: str, reason: str, model: Path) -> None:
    (model / "chat_template.jinja").write_text(template)
    assert reason in open_hostile("evaluation", model)


def test_the_chat_templates_that_people_use_are_accepted() -> None:
    from trl import chat_template_utils

    for name in ("gemma3", "llava_next", "qwen2_5_vl"):
        template = getattr(chat_template_utils, f"{name}_chat_template")
        check_chat_templates(SimpleNamespace(chat_template={"default": template, "again": template}))
    check_chat_templates(SimpleNamespace(chat_template=None))


@pytest.mark.parametrize(
    "damage",
    [
        *map(
            nest,
            [
                "config.json",
                "processor_config.json",
                "tokenizer_config.json",
                "tokenizer.json",
                "generation_config.json",
                "model.safetensors.index.json",
                "adapter_config.json",
            ],
        ),
        write_config("[]"),
        write_config("5"),
        write_config('{"model_type": ["llava"]}'),
        write_config('{"model_type": "llava", "text_config": 5}'),
        write_config(
            '{"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 1000000000}}'
        ),
        write_config('{"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": "many"}}'),
    ],
)
@pytest.mark.parametrize("opener", ["evaluation"])
def test_hostile_files_end_in_one_line(damage: Callable[[Path], None], opener: str, model: Path) -> None:
    damage(model)
    if damage.__qualname__.startswith("nest") and (model / "model.safetensors.index.json").exists():
        (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    open_hostile(opener, model)


CALL = re.compile(r"(?:Auto\w+\.from_pretrained|\bpipeline)\((?:[^()]|\([^()]*\))*\)")


@pytest.mark.parametrize("suffix", ["py", "md", "jinja", "ipynb"])
def test_no_call_of_ours_lets_transformers_ask_whether_code_may_run(suffix: str) -> None:
    paths = (path for name in SOURCES for path in (ROOT / name).rglob(f"*.{suffix}"))
    calls = [(path, call) for path in paths for call in CALL.findall(path.read_text(encoding="utf-8"))]
    # What `load_network` passes is tested above.
    assert [call for call in calls if "trust_remote_code=False" not in call[1] and "**options" not in call[1]] == []
    assert calls or suffix in ("md", "ipynb")


def test_a_recipe_that_trusts_code_is_refused(model: Path) -> None:
    overrides = {"model_name_or_path": str(model), "dataset_name": str(model), "output_dir": "out"}
    with pytest.raises(CompactError, match="sets trust_remote_code, but compact tune runs no code of models"):
        dry_run("tiny-cpu", overrides=overrides | {"trust_remote_code": "true"})


@pytest.mark.parametrize("damage", ["code", "type", "memo", "text"])
def test_a_hostile_pickle_of_a_part_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    import torch

    data = BytesIO()
    torch.save({"a.weight": torch.zeros(2)}, data, _use_new_zipfile_serialization=False)
    weights = data.getvalue()
    files = {
        "code": pickle.dumps(Payload(tmp_path / "code-was-run")),
        "type": weights.replace(b"X\x03\x00\x00\x00cpu", b"(NNNNNN)", 1),
        "memo": b"\x80\x02h\x63.",
        "text": weights.replace(b"a.weight", b"a.\xffeight"),
    }
    path = tmp_path / "mm_projector.bin"
    path.write_bytes(files[damage])
    with pytest.raises(TuningError) as excinfo:
        read_headers(path)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "code-was-run").exists()
