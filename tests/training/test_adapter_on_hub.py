"""Publishes an adapter and loads it again, with the real clients over HTTP, and checks that the logits are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.responses import Response

from compact_hf.models.llava.processor import PROCESSOR_SETTINGS
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.models.loading import PROCESSOR_CONFIG
from compact_hf.records import RESULTS_SCHEMA
from compact_hf.training.training_record import RECORD_FILE
from tests.doubles.hub.http import service_unavailable
from tests.doubles.hub.server import HubRequest, HubServer
from tests.hub.clients import revision_files, run_source, statuses
from tests.training.adapters import save_adapter
from tests.training.samples import MODEL_SIZE, draw_image, texts

ROUND_TRIP_SOURCE: Final = """
import contextlib, io, os, re, sys
from pathlib import Path
import torch
from huggingface_hub import HfApi
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from compact_hf import merge_adapter, publish_model
from compact_hf.cli.main import main
from compact_hf.evaluation.inference import Student

os.chdir(sys.argv[1])
content = [{"type": "image", "image": Image.open("image.jpg")}, {"type": "text", "text": "What color is the thing?"}]

def printed(call):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        call()
    return said.getvalue()

def logits(model, processor):
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return model.eval()(**inputs).logits

def auto(name, **options):
    return AutoModelForImageTextToText.from_pretrained(name, **options)

told = {"publish": []}
publish = ["publish", "tuned", "org/student", "--base", "org/base", "--version", "1.0.0", "--results", "results"]
publish += ["--no-pr"]
told["base at"] = publish_model("base", "org/base").pushed.commit
for options in (["--dry-run"], []):
    told["publish"].append(printed(lambda: told["publish"].append(main(publish + options))))

again = publish_model("tuned", "org/student", base="org/base", results="results")
told["again"] = again.pushed.commit
told["same version"] = main(publish)

processor = AutoProcessor.from_pretrained("org/student")
before = logits(PeftModel.from_pretrained(auto("base"), "tuned"), AutoProcessor.from_pretrained("base"))
loaded = {
    "peft": PeftModel.from_pretrained(auto("org/base"), "org/student"),
    "peft, the tag": PeftModel.from_pretrained(auto("org/base"), "org/student", revision="v1.0.0"),
    "auto": auto("org/student"),
    "auto, the tag": auto("org/student", adapter_kwargs={"revision": "v1.0.0"}),
    "pipeline": pipeline("image-text-to-text", model="org/student").model,
}
told["same"] = {name: torch.equal(logits(model, processor), before) for name, model in loaded.items()}
told["same"]["the base alone"] = torch.equal(logits(auto("org/base"), processor), before)

merge_adapter("org/student", "merged")
publish_model("merged", "org/merged")
merged = logits(auto("org/merged"), AutoProcessor.from_pretrained("org/merged"))
told["same"]["merged"] = torch.allclose(merged, before, atol=1e-4)
told["same"]["merged, here and there"] = torch.equal(merged, logits(auto("merged"), processor))

told["snippets"] = {}
for name in ("org/student", "org/merged"):
    card = Path(HfApi().hf_hub_download(name, "README.md")).read_text()
    snippets = re.findall(r"```python\\n(.*?)```", card, re.DOTALL)
    told["snippets"][name] = [printed(lambda: exec(compile(one, name, "exec"), {})) for one in snippets]

# The base moves on; who wrote down its revision stays with the one that was tuned on.
other = auto("base")
with torch.no_grad():
    other.lm_head.weight.zero_()
other.save_pretrained("moved")
HfApi().upload_folder(repo_id="org/base", folder_path="moved", allow_patterns="*.safetensors")
told["same"]["on the base as it is now"] = torch.equal(logits(auto("org/student"), processor), before)
told["same"]["student"] = torch.allclose(logits(Student("org/student")._network, processor), before, atol=1e-4)
"""
BAD_INPUT_SOURCE: Final = """
import json, shutil, sys
from pathlib import Path
from huggingface_hub import HfApi
from compact_hf.errors import CompactError
from compact_hf import publish_model
from compact_hf.hub import push as module
work = Path(sys.argv[1])
told = {}

def refused(case, folder, name="org/new", **options):
    try:
        publish_model(work / folder, name, **options)
    except CompactError as error:
        told[case] = [type(error).__name__, str(error)]

publish_model(work / "base", "org/base")
publish_model(work / "other", "org/other")
publish_model(work / "narrow", "org/narrow")
publish_model(work / "tuned", "org/student", base="org/base", version="1.0.0")
refused("base in a folder", "tuned")
refused("base no repository", "tuned", base="base")
refused("base of other weights", "tuned", base="org/other")
shutil.move(work / "base", work / "gone")
refused("base of another shape", "tuned", base="org/narrow")
refused("base not there", "tuned", base="org/nowhere")
refused("base's revision not there", "tuned", base="org/base@v9")
refused("version taken", "tuned", "org/student", base="org/base", version="1.0.0", license="mit")
refused("version below", "tuned", "org/student", base="org/base", version="0.9.0")
refused("no version", "tuned", "org/student", base="org/base", version="one")
refused("something else there", "tuned", "org/base", base="org/base")
refused("results of another", "tuned", base="org/base", results=work / "results")
refused("results of schema 1", "tuned", base="org/base", results=work / "outdated")
refused("no results", "tuned", base="org/base", results=work / "nowhere")
refused("no processor", "bare", base="org/base")
refused("pickles", "pickled", base="org/base")
refused("broken weights", "broken", base="org/base")
refused("no model", "results")
refused("no card", "unknown")
refused("own card", "other", license="mit")
publish_model(work / "tuned", "org/thanked", base="org/base")
HfApi().upload_file(path_or_fileobj=b"# Thanks", path_in_repo="README.md", repo_id="org/thanked")
refused("card edited on the Hub", "tuned", "org/thanked", base="org/base")
refused("license without a name", "tuned", base="org/base", license="other")
refused("license that the Hub does not know", "tuned", base="org/base", license="my own")
refused("card in Latin-1", "latin", base="org/base")
refused("a shard is missing", "sharded", base="org/base")
module._RETRY_DELAYS_S = ()
refused("the Hub fails", "tuned", "org/resumed", base="org/base", version="1.0.0")
publish_model(work / "tuned", "org/resumed", base="org/base", version="1.0.0")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a base with a card, an adapter as training saves it, its evaluation results, and an image."""
    from compact_hf.models.loading import hash_model

    work = tmp_path_factory.mktemp("made")
    base = build_tiny(work / "base", texts(10), seed=0, size=MODEL_SIZE)
    (base / "README.md").write_text("---\nlicense: llama2\n---\nA base.\n")
    tuned = save_adapter(base, work / "tuned")
    # As plain `trl sft` leaves it on a base without these settings; published, it has them.
    for name, missing in ((PROCESSOR_CONFIG, PROCESSOR_SETTINGS), ("tokenizer_config.json", ("pad_token",))):
        config = json.loads((tuned / name).read_bytes())
        (tuned / name).write_text(json.dumps({key: value for key, value in config.items() if key not in missing}))
    record = {
        "base": str(base),
        "dataset": "org/compact",
        "dataset_revision": "v1.0.0",
        "settings": {"output_dir": str(tuned), "learning_rate": 0.0002},
        "loss": [[1, 2.0], [2, 1.0]],
    }
    (tuned / RECORD_FILE).write_text(json.dumps(record))
    for path in ("training_args.bin", "checkpoint-2/optimizer.pt", "runs/events"):
        (tuned / path).parent.mkdir(exist_ok=True)
        (tuned / path).write_bytes(b"\0")
    score = {"n": 8, "right": 4, "accuracy": 0.5, "low": 0.2, "high": 0.8, "majority": {"right": 2, "accuracy": 0.25}}
    score_groups = {"overall": score, "by_k": {"1": score}, "by_capability": {"color": score}}
    model_results = {"model": "tuned", "matching": "exact", **score_groups}
    results = {
        "dataset": "60 reserved scenes",
        "matching": "exact",
        "models": [model_results],
        "comparisons": [],
        "notes": [],
    }
    (work / "results" / "tuned").mkdir(parents=True)
    (work / "results" / "tuned" / "results.json").write_text(json.dumps(model_results))
    (work / "results" / "results.json").write_text(json.dumps({"schema": RESULTS_SCHEMA, **results}))
    model_entry = {"model": str(tuned), "identity": hash_model(tuned), "batch_size": 64}
    (work / "results" / "evaluation.json").write_text(json.dumps({"models": {"tuned": model_entry}}))
    (work / "image.jpg").write_bytes(draw_image("red"))
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """Return a copy whose adapter names the copied base."""
    copy = shutil.copytree(made, tmp_path / "work")
    for name in ("tuned/adapter_config.json", f"tuned/{RECORD_FILE}"):
        path = copy / name
        path.write_text(path.read_text().replace(str(made), str(copy)))
    return copy


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def update_model_hash(work: Path) -> None:
    from compact_hf.models.loading import hash_model

    path = work / "results" / "evaluation.json"
    evaluation = json.loads(path.read_bytes())
    evaluation["models"]["tuned"]["identity"] = hash_model(work / "tuned")
    path.write_text(json.dumps(evaluation))


def test_the_round_trip_gives_the_same_logits_by_every_way_to_load(
    server: HubServer, work: Path, tmp_path: Path
) -> None:
    update_model_hash(work)
    base_files = {path.name: path.read_bytes() for path in (work / "base").iterdir()}
    result = run_source(server, ROUND_TRIP_SOURCE, work, home=tmp_path / "home")

    student = server.store.repository("model", "org/student")
    published = revision_files(student, "v1.0.0")
    assert published == revision_files(student, "main")
    assert (result["again"], statuses(student)) == (
        student.refs["refs/heads/main"],
        [],
    )  # nothing changed, so there is no commit
    assert result["same version"] == 0  # as after a kill past the tag
    assert revision_files(server.store.repository("model", "org/base"), result["base at"]) == base_files
    first_status, listing, second_status, url = result["publish"]
    assert (first_status, second_status, url) == (0, 0, f"{server.url}/org/student/tree/v1.0.0\n")
    assert {name: int(size) for name, size in (line.split() for line in listing.splitlines()[2:])} == {
        name: len(data) for name, data in published.items()
    }
    check_published_files(published, work, result["base at"])

    for name, answers in result["snippets"].items():
        assert len(answers) == 2, name
        assert answers[0] == answers[1], "both ways of the card give the same answer"
    assert result["same"] == {
        **dict.fromkeys(("peft", "peft, the tag", "auto", "auto, the tag", "pipeline"), True),
        **{"the base alone": False, "merged": True, "merged, here and there": True},
        **{"on the base as it is now": False, "student": True},
    }


def check_published_files(files: dict[str, bytes], work: Path, revision: str) -> None:
    from huggingface_hub import ModelCard

    assert files.keys() == {
        *("README.md", "training_curve.png", "accuracy_by_k.png", "adapter_config.json", "adapter_model.safetensors"),
        *("processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
    }
    for name, data in files.items():
        assert str(work).encode() not in data, name
    assert json.loads(files["tokenizer_config.json"])["pad_token"] == "</s>"
    assert "pad_token" not in json.loads((work / "tuned" / "tokenizer_config.json").read_bytes())  # left as it was
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", revision)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.license) == ("org/base", "llama2")
    assert f'from_pretrained("org/base", revision="{revision}"' in card.text
    assert "at `v1.0.0`" in card.text
    assert {result.metric_value for result in card.data.eval_results or []} == {0.5}


def test_what_cannot_be_published_is_one_clear_line_and_nothing_there(
    server: HubServer, work: Path, tmp_path: Path
) -> None:
    make_bad_directories(work)
    failed_paths: list[str] = []

    def fail_once(request: HubRequest, number: int) -> Response | None:
        if request.path.endswith("org/resumed/discussions/1/merge") and not failed_paths:
            failed_paths.append(request.path)
            return service_unavailable()
        return None

    server.fault = fail_once
    errors: dict[str, list[Any]] = run_source(server, BAD_INPUT_SOURCE, work, home=tmp_path / "home")
    expected = {
        "base in a folder": ("UsageError", "give its repository as --base"),
        "base no repository": ("UsageError", "--base base is not a repository"),
        "base of other weights": ("TuningError", "org/other is not the base"),
        "base of another shape": ("TuningError", "was not made for org/narrow"),
        "base not there": ("HubError", "org/nowhere was not found on the Hub"),
        "base's revision not there": ("HubError", "org/base@v9 was not found on the Hub"),
        "version taken": ("TuningError", "org/student is at v1.0.0"),
        "version below": ("TuningError", "org/student is at v1.0.0"),
        "no version": ("UsageError", "'one' is not a version"),
        "something else there": ("TuningError", "org/base holds other files"),
        "results of another": ("TuningError", "evaluate again: compact evaluate"),
        "results of schema 1": (
            "TuningError",
            "results.json has schema 1, but this version reads 2 and 3; evaluate again",
        ),
        "no results": ("TuningError", "has no readable results"),
        "no processor": ("TuningError", "has no processor"),
        "pickles": ("TuningError", "has no safetensors weights"),
        "broken weights": ("TuningError", "cannot be read"),
        "no model": ("UsageError", "give the directory of a model or adapter"),
        "no card": ("TuningError", "has no record of its training"),
        "own card": ("UsageError", "was written by hand"),
        "card edited on the Hub": ("HubError", "README.md of org/thanked was edited on the Hub and would be replaced"),
        "license without a name": ("UsageError", "--license other does not name the license"),
        "license that the Hub does not know": (
            "HubError",
            'the Hub rejects the metadata in README.md ("license" must be one of [',
        ),
        "card in Latin-1": ("HubError", "README.md is not UTF-8"),
        "a shard is missing": ("TuningError", "adapter_model-2.safetensors cannot be read"),
        "the Hub fails": ("HubUnavailableError", "busy or failing (503"),
    }
    assert errors.keys() == expected.keys()
    for case, (error_name, message) in expected.items():
        assert errors[case][0] == error_name, errors[case]
        assert message in errors[case][1], errors[case]
        assert "\n" not in errors[case][1]
    assert not server.store.has("model", "org/new")
    resumed = server.store.repository("model", "org/resumed")
    assert statuses(resumed) == ["merged"], "the same call has to resume in the same pull request"
    assert revision_files(resumed, "main") == revision_files(resumed, "v1.0.0")


def make_bad_directories(work: Path) -> None:
    """Write directories that are refused: a base of other weights, one of another shape, and incomplete ones."""
    from safetensors.torch import load_file, save_file

    other_base = shutil.copytree(work / "base", work / "other")
    weights = load_file(other_base / "model.safetensors")
    save_file(
        {name: weight + 1 for name, weight in weights.items()}, other_base / "model.safetensors", {"format": "pt"}
    )
    narrow_base = shutil.copytree(work / "base", work / "narrow")
    config = json.loads((narrow_base / "config.json").read_bytes())
    config["text_config"]["intermediate_size"] = 256
    (narrow_base / "config.json").write_text(json.dumps(config))
    without_processor = shutil.copytree(work / "tuned", work / "bare")
    for path in without_processor.glob("*"):
        if path.name.startswith(("processor", "tokenizer", "chat")):
            path.unlink()
    pickled = shutil.copytree(work / "tuned", work / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    broken = shutil.copytree(work / "tuned", work / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    sharded = shutil.copytree(work / "tuned", work / "sharded")
    index = {"weight_map": {"a": "adapter_model.safetensors", "b": "adapter_model-2.safetensors"}}
    (sharded / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    old_results = shutil.copytree(work / "results", work / "outdated") / "results.json"
    old_results.write_text(json.dumps(json.loads(old_results.read_bytes()) | {"schema": 1}))
    latin = shutil.copytree(work / "tuned", work / "latin")
    (latin / "README.md").write_bytes("Ein Café.".encode("latin-1"))
    without_card = shutil.copytree(work / "base", work / "unknown")
    (without_card / "README.md").unlink()
