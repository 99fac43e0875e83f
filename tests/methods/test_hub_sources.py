"""Tests datasets on the Hub as sources of images and questions: the real clients against a double, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.methods.generate import generate
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.http import service_unavailable
from tests.doubles.hub.server import HubRequest, HubServer
from tests.hub.clients import run_source
from tests.methods.data_sets import make_images, write_questions_dataset

MAIN_SCRIPT: Final = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from compact_hf.runs.journal import Journal
from compact_hf.errors import CompactError
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.records import Row
from compact_hf.dataset.publish import publish
from compact_hf.methods.annotate.annotate import annotate
from compact_hf.methods.annotate.annotate import iter_annotations
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.generate import generate

release, second, plain, runs, gemini = sys.argv[1:]
runs = Path(runs)
publish(release, "org/compact")
HfApi().create_repo("org/plain", repo_type="dataset")
HfApi().upload_folder(repo_id="org/plain", folder_path=plain, repo_type="dataset")
told_of_plain = DatasetSource(Address.parse("hf://datasets/org/plain")).origin("train/0")

def identity(run):
    with Journal.read(runs / run) as journal:
        return journal.identity["source"]

def refused(dataset):
    try:
        annotate(dataset, runs / "refused", verifier_url=gemini)
    except CompactError as error:
        return str(error)

found = annotate("org/compact", runs / "main", verifier_url=gemini)
told = {
    "sha": HfApi().dataset_info("org/compact").sha,
    "main": identity("main"),
    "questions": sorted(one.question for one in iter_annotations(runs / "main")),
    "rejects": found.rejects,
    "plain": told_of_plain,
}
annotate("hf://datasets/org/compact@v1.0.0/k3", runs / "k3", split="train", verifier_url=gemini)
told["k3"] = identity("k3")
told["of_k3"] = sorted({one.row_id for one in iter_annotations(runs / "k3")})
told["unknown"] = [refused("org/nothing"), refused("org/compact@v9.9.9"), refused("org/compact/k9")]

generate("hf://datasets/org/compact@v1.0.0/k3", runs / "generated", teacher_url=gemini)
rows = [row for row in iter_rows([runs / "generated"], AssemblyOptions()) if isinstance(row, Row)]
told["sources"] = sorted({(row.image_source, row.image_license) for row in rows})
told["read"] = all(len(row.read_images[0]()) > 1000 for row in rows)
told["rows"] = len(rows)

publish(second, "org/compact")
try:
    annotate("org/compact", runs / "main", verifier_url=gemini)
except CompactError as error:
    told["moved"] = str(error)
annotate("org/compact/k3", runs / "later", verifier_url=gemini)
"""

REREAD_SCRIPT: Final = """
import sys
from pathlib import Path
from compact_hf.records import Row
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
rows = [row for row in iter_rows([Path(sys.argv[1])], AssemblyOptions()) if isinstance(row, Row)]
told = [len(row.read_images[0]()) for row in rows]
"""


def make_release(directory: Path, scenes: str, version: str) -> Path:
    generate(scenes, directory / "run")
    assemble(directory / "run", directory / "release", version=version)
    return directory / "release"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_release(tmp_path_factory.mktemp("first"), "scenes:24", "1.0.0")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_release(tmp_path_factory.mktemp("second"), "scenes:24-40", "2.0.0")


def read_rows(release: Path, config: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return [row for split in load_dataset(str(release), config).values() for row in split]


@pytest.mark.slow
def test_a_repository_is_annotated_and_generated_from_at_one_commit(
    release: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    home = tmp_path / "home"
    plain = write_questions_dataset(tmp_path / "plain", [(data, "What is it?", "it") for data in make_images(2)])
    (plain / "README.md").write_text("---\nlicense: mit\n---\nTwo pictures.\n")
    with HubServer() as hub, GeminiServer() as gemini:
        result = run_source(hub, MAIN_SCRIPT, release, second, plain, tmp_path / "runs", gemini.url, home=home)
        hub.fault = fail_on_request
        offline_result = run_source(hub, REREAD_SCRIPT, tmp_path / "runs" / "generated", home=home, HF_HUB_OFFLINE="1")

    assert result["main"] == f"hf://datasets/org/compact@{result['sha']}"
    assert result["questions"] == sorted(turn["question"] for row in read_rows(release, "all") for turn in row["turns"])
    assert result["rejects"] == {}
    assert result["plain"] == ["org/plain", "mit"]
    assert result["k3"] == f"hf://datasets/org/compact@{result['sha']}?config=k3&split=train"
    k3_rows = read_rows(release, "k3")
    assert set(result["of_k3"]) <= {row["id"] for row in k3_rows}
    for message, name in zip(result["unknown"], ("org/nothing", "v9.9.9", "k9"), strict=True):
        assert "cannot be read" in message
        assert name in message
        assert "\n" not in message
    assert result["sources"] == [["scenes", "CC0-1.0"]]
    assert result["rows"] == len(k3_rows)
    assert result["read"]
    assert f"source was 'hf://datasets/org/compact@{result['sha']}', now" in result["moved"]
    assert len(offline_result) == result["rows"], "the later commit's rows were read for the earlier one's"


def fail_on_request(request: HubRequest, number: int) -> Any:
    raise AssertionError(f"the Hub was asked for {request.path}")


LICENSE_SCRIPT: Final = """
import sys
from compact_hf.errors import SourceError
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
try:
    told = DatasetSource(Address.parse("hf://datasets/org/plain")).origin("train/0")
except SourceError as error:
    told = str(error)
"""
UPLOAD_SCRIPT: Final = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("org/plain", repo_type="dataset")
HfApi().upload_folder(repo_id="org/plain", folder_path=sys.argv[1], repo_type="dataset")
told = None
"""


def test_a_hub_that_is_away_for_a_moment_is_not_taken_for_a_missing_license(tmp_path: Path) -> None:
    plain = write_questions_dataset(tmp_path / "plain", [(data, "What is it?", "it") for data in make_images(2)])
    home = tmp_path / "home"
    with HubServer() as hub:
        run_source(hub, UPLOAD_SCRIPT, plain, home=home)
        hub.fault = lambda request, number: (
            service_unavailable(500) if request.path.endswith("README.md") and "/resolve/" in request.path else None
        )
        # Without this, the client's pauses between retries would add up to half a minute.
        message = run_source(
            hub, f"import time; time.sleep = lambda seconds: None\n{LICENSE_SCRIPT}", home=tmp_path / "other"
        )
        hub.fault = lambda request, number: None
        assert run_source(hub, LICENSE_SCRIPT, home=home) == ["org/plain", "unknown"]
    assert "cannot be read" in message
