"""Data sets by way of the double: `datasets` pushes to it, and reads from it while it answers 429 or breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.responses import Response

from tests.doubles.hub.http import DroppedConnection, too_many_requests
from tests.doubles.hub.server import HubRequest, HubServer
from tests.hub.clients import run_source

SOURCE: Final = """
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi

def push(numbers, **options):
    Dataset.from_dict({"number": numbers}).push_to_hub("org/numbers", **options)

push([1, 2, 3], config_name="odd", private=True)
HfApi().create_tag("org/numbers", tag="v1", repo_type="dataset")
push([4, 5], config_name="odd")
push([7], config_name="even", split="test")
told = {
    "main": load_dataset("org/numbers", "odd", split="train")["number"][:],
    "tag": load_dataset("org/numbers", "odd", split="train", revision="v1")["number"][:],
    "stream": [row["number"] for row in load_dataset("org/numbers", "even", split="test", streaming=True)],
}
"""
READ_SOURCE: Final = """
from datasets import load_dataset
told = {
    "loaded": load_dataset("org/numbers", "odd", split="train")["number"][:],
    "streamed": [row["number"] for row in load_dataset("org/numbers", "even", split="test", streaming=True)],
}
"""


def test_data_sets_are_pushed_and_loaded_by_their_own_client(tmp_path: Path) -> None:
    with HubServer() as server:
        result = run_source(server, SOURCE, home=tmp_path / "home")
        assert result == {"main": [4, 5], "tag": [1, 2, 3], "stream": [7]}
        repository = server.store.repository("dataset", "org/numbers")
        assert repository.private
        odd, even = "odd/train-00000-of-00001.parquet", "even/test-00000-of-00001.parquet"
        assert {path for path in repository.get_commit("main").files if path.endswith(".parquet")} == {odd, even}
        failed_requests: set[str] = set()

        def fail_once(request: HubRequest, number: int) -> Response | None:
            """Answer every request for a file of data the second time only."""
            request_key = f"{request.method} {request.path}"
            if request_key in failed_requests or not request.path.endswith((odd, even)):
                return None
            failed_requests.add(request_key)
            return DroppedConnection() if request.method == "GET" else too_many_requests(retry_after_s=0)

        server.fault = fail_once
        assert run_source(server, READ_SOURCE, home=tmp_path / "elsewhere") == {"loaded": [4, 5], "streamed": [7]}
        assert {request_key.partition(" ")[0] for request_key in failed_requests} == {"HEAD", "GET"}
