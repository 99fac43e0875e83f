"""Assembles a base from parts on the Hub and pushes it, with the real command and client, on a test server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from compact_hf.models.llava.assemble import LANGUAGE_MODEL, PROJECTOR, VISION_TOWER
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import MAIN, File, Repository
from tests.hub.clients import COMPACT, contents, revision_files, run, run_source, statuses
from tests.models.llava.base_parts import Parts, save_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return save_parts(tmp_path_factory.mktemp("parts"), layers=1)


@pytest.fixture
def server(parts: Parts) -> Iterator[HubServer]:
    """Start a Hub that has the three parts under their real names."""
    with HubServer() as server:
        for name, directory in (
            (LANGUAGE_MODEL, parts.language),
            (VISION_TOWER, parts.vision),
            (PROJECTOR, parts.projector),
        ):
            upload(server.store.create("model", name, private=False, author="someone"), directory)
        yield server


def upload(repository: Repository, directory: Path) -> None:
    files = {name: File.from_bytes(data, lfs=b"\0" in data[:1000]) for name, data in contents(directory).items()}
    repository.add_commit(MAIN, files, title="upload", message="", author="someone")


def fetched_files(server: HubServer) -> set[str]:
    """Return the names of the files that were downloaded."""
    return {
        request.path.rpartition("/")[2]
        for request in server.requests
        if request.method == "GET" and "/resolve/" in request.path
    }


def test_one_command_takes_the_three_from_the_hub_and_publishes_the_base_in_one_piece_also_at_a_second_go(
    server: HubServer, tmp_path: Path
) -> None:
    def refuse(request: HubRequest, number: int) -> Response | None:
        return JSONResponse({"error": "out of order"}, 403) if "/commit/" in request.path else None

    out, home = tmp_path / "base", tmp_path / "home"
    command = ["base", "assemble", "--out", out, "--push", "org/base", "--private"]
    server.fault = refuse
    failed = run(server, COMPACT, *command, home=home)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "may not upload to org/base" in failed.stderr.splitlines()[-1]
    assert not {"tf_model.h5", "flax_model.msgpack", "trainer_state.json"} & fetched_files(server)
    assert {"mm_projector.bin", "pytorch_model.bin", "pytorch_model-00002-of-00002.bin"} <= fetched_files(server)
    repository = server.store.repository("model", "org/base")
    assert revision_files(repository, "main") == {}
    before = contents(out)
    check_recorded_parts(server, out)

    server.fault = lambda request, number: None
    server.requests.clear()
    process = run(server, COMPACT, *command, home=home)
    assert (process.returncode, process.stdout) == (0, f"{server.url}/org/base/tree/main\n"), process.stderr
    assert "holds this base already" in process.stderr
    assert not fetched_files(server) - {"config.json"}
    assert repository.private
    assert statuses(repository) == ["merged"]
    assert revision_files(repository, "main") == contents(out) == before


def check_recorded_parts(server: HubServer, base: Path) -> None:
    record = json.loads((base / "assembly.json").read_text())
    card = (base / "README.md").read_text()
    for role, name in (("language model", LANGUAGE_MODEL), ("vision tower", VISION_TOWER), ("projector", PROJECTOR)):
        commit = server.store.repository("model", name).get_commit("main").sha
        assert (record["parts"][role]["name"], record["parts"][role]["commit"]) == (name, commit)
        assert f"| [{name}]({server.url}/{name}) | `{commit}` |" in card
        assert f"- {name}\n" in card.partition("\n---\n")[0]


def test_a_dry_run_and_a_pinned_revision_fetch_no_weights_but_their_configs(server: HubServer, tmp_path: Path) -> None:
    vicuna = server.store.repository("model", LANGUAGE_MODEL)
    vicuna.add_tag("v1.5", "main")
    pinned = vicuna.get_commit("main").sha
    vicuna.add_commit(
        MAIN, {"config.json": File.from_bytes(b"{}", lfs=False)}, title="broken", message="", author="someone"
    )
    command = ["base", "assemble", "--out", tmp_path / "base", "--dry-run", "--language-model"]
    process = run(server, COMPACT, *command, f"{LANGUAGE_MODEL}@v1.5", home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert f"language model {LANGUAGE_MODEL}@{pinned[:12]}" in process.stdout
    # All of CLIP and both shards of Vicuna, without the tokenizer, which is in the cache already.
    assert re.search(r"would take at most 9 MB, with a vocabulary of 32064 tokens; to download: 9 MB", process.stderr)
    assert not [name for name in fetched_files(server) if name.endswith(".bin")]
    assert not (tmp_path / "base").exists()


def test_what_the_hub_does_not_give_or_take_is_told_in_one_line_before_any_weight(
    server: HubServer, tmp_path: Path
) -> None:
    def refuse_gated(request: HubRequest, number: int) -> Response | None:
        if request.path.startswith("/meta/llama/resolve/"):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model meta/llama is restricted."}
            return JSONResponse({"error": "restricted"}, 403, headers=headers)
        return None

    store = server.store
    files = store.repository("model", LANGUAGE_MODEL).get_commit("main").files
    llama = store.create("model", "meta/llama", private=False, author="someone")
    llama.add_commit(MAIN, files, title="files", message="", author="someone")
    adapter = {
        "adapter_config.json": File.from_bytes(b"{}", lfs=False),
        "README.md": File.from_bytes(b"mine", lfs=False),
    }
    store.create("model", "org/adapter", private=False, author="tester").add_commit(
        MAIN, adapter, title="adapter", message="", author="tester"
    )
    server.fault = refuse_gated
    source = """
import sys
from compact_hf import CompactError, assemble_base
told = []
for given in (
    {"language_model": "meta/llama"},
    {"language_model": "lmsys/vicuna-8b"},
    {"vision_tower": "openai/clip-vit-large-patch14-336@v9"},
    {"projector": "openai/clip-vit-large-patch14-336"},
    {"push_to": "org/adapter"},
):
    try:
        assemble_base(sys.argv[1], **given)
    except CompactError as error:
        told.append([type(error).__name__, str(error)])
"""
    errors = run_source(server, source, tmp_path / "base", home=tmp_path / "home")
    expected = [
        ("HubError", f"meta/llama@.* is gated: accept its terms at {server.url}/meta/llama, and set HF_TOKEN"),
        ("HubError", "lmsys/vicuna-8b was not found on the Hub"),
        ("HubError", "openai/clip-vit-large-patch14-336@v9 was not found on the Hub"),
        ("TuningError", "projector openai/clip-vit-large-patch14-336@.* lacks mm_projector.bin"),
        ("UsageError", "org/adapter holds something other than an assembled base"),
    ]
    assert len(errors) == len(expected)
    for (error_name, message), (expected_name, pattern) in zip(errors, expected, strict=True):
        assert error_name == expected_name
        assert re.search(pattern, message), message
        assert "\n" not in message
    assert not [name for name in fetched_files(server) if name.endswith(".bin")]
    assert not (tmp_path / "base").exists()
