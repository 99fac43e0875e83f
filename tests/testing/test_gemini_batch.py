"""Tests that the local server for Gemini's files and batches is as strict as the real service."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import photograph

FIELDS = {"question": {}, "answer": {}, "confidence": {}}
REQUEST = {
    "contents": [
        {
            "role": "user",
            "parts": [
                {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(photograph()).decode()}},
                {"text": "- color: hue"},
            ],
        }
    ],
    "generationConfig": {"responseSchema": {"properties": FIELDS}},
}
LINE = json.dumps({"key": "a", "request": REQUEST})


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as gemini:
        yield gemini


@pytest.fixture
def client(server: GeminiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-goog-api-key": KEY}) as http_client:
        yield http_client


def upload(client: httpx.Client, text: str, *, parts: int = 1) -> str:
    """Upload a file in `parts` chunks, as the protocol requires, and return its name."""
    data = text.encode()
    start_headers = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(len(data)),
    }
    url = client.post("/upload/v1beta/files", json={"file": {}}, headers=start_headers).headers["X-Goog-Upload-URL"]
    ends = [len(data) * number // parts for number in range(parts + 1)]
    for start, end in itertools.pairwise(ends):
        command = "upload, finalize" if end == len(data) else "upload"
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(start)}
        response = client.post(url, content=data[start:end], headers=headers)
    assert response.headers["X-Goog-Upload-Status"] == "final"
    return str(response.json()["file"]["name"])


def create_batch(client: httpx.Client, file: str, *, name: str = "mine") -> httpx.Response:
    batch = {"displayName": name, "inputConfig": {"fileName": file}}
    return client.post("/v1beta/models/gemini-3.8-flash:batchGenerateContent", json={"batch": batch})


def test_a_batch_goes_from_pending_to_its_results(server: GeminiServer, client: httpx.Client) -> None:
    server.batches.polls_to_finish = 3
    second_line = json.dumps({"key": "b", "request": REQUEST})
    name = create_batch(client, upload(client, f"{LINE}\n{second_line}\n", parts=3)).json()["name"]
    polls: list[dict[str, Any]] = [client.get(f"/v1beta/{name}").json() for _ in range(3)]
    assert [poll["metadata"]["state"].removeprefix("BATCH_STATE_") for poll in polls] == [
        "PENDING",
        "RUNNING",
        "SUCCEEDED",
    ]
    assert [poll["metadata"]["batchStats"]["successfulRequestCount"] for poll in polls] == ["0", "1", "2"]
    file = polls[-1]["metadata"]["output"]["responsesFile"]
    lines = client.get(f"/v1beta/{file}:download", params={"alt": "media"}).text.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["a", "b"]
    assert server.request_count == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "contains no requests"),
        ("{", "Error on line 1"),
        (f"{LINE}\n{LINE}", "Error on line 2: expected a unique key"),
        (json.dumps({"request": REQUEST}), "Error on line 1: expected a unique key and a request"),
        (json.dumps({"key": "a", "request": {**REQUEST, "thinking_config": {}}}), "no such field: 'thinking_config'"),
        (json.dumps({"key": "a", "request": {**REQUEST, "generationConfig": {}}}), "expected a response schema"),
        (json.dumps({"key": "a", "request": {**REQUEST, "contents": []}}), "expected one image, got 0"),
    ],
)
def test_one_bad_line_refuses_the_whole_file(text: str, why: str, server: GeminiServer, client: httpx.Client) -> None:
    response = create_batch(client, upload(client, text))
    assert response.status_code == 400
    assert why in response.json()["error"]["message"]
    assert (server.batches.jobs, server.request_count) == ([], 0)


def test_without_the_key_only_an_upload_that_was_begun_goes_on(server: GeminiServer, client: httpx.Client) -> None:
    file = upload(client, LINE)
    name = create_batch(client, file).json()["name"]
    with httpx.Client(base_url=server.url, headers={"x-goog-api-key": "wrong"}) as stranger:
        responses = [
            stranger.post("/upload/v1beta/files", json={"file": {}}),
            create_batch(stranger, file),
            stranger.get("/v1beta/batches"),
            stranger.get(f"/v1beta/{name}"),
            stranger.post(f"/v1beta/{name}:cancel"),
            stranger.get(f"/v1beta/{file}:download"),
            stranger.delete(f"/v1beta/{file}"),
        ]
    assert {response.json()["error"]["details"][0]["reason"] for response in responses} == {"API_KEY_INVALID"}
    assert (file in server.batches.files, len(server.batches.jobs)) == (True, 1)


def test_what_is_not_there_is_said_as_the_service_does(client: httpx.Client) -> None:
    assert create_batch(client, "files/none").status_code == 403
    assert client.get("/v1beta/batches/none").status_code == 404
    assert client.post("/v1beta/batches/none:cancel").status_code == 404
    assert client.get("/v1beta/files/none:download").status_code == 403
    assert client.delete("/v1beta/files/none").status_code == 403
    file = upload(client, LINE)
    assert client.get(f"/v1beta/{file}:download").status_code == 400  # uploaded files cannot be downloaded
    assert client.delete(f"/v1beta/{file}").status_code == 200
    assert create_batch(client, file).status_code == 403


def test_an_upload_has_its_order_and_its_length(client: httpx.Client) -> None:
    start_headers = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    assert client.post("/upload/v1beta/files", headers=start_headers).status_code == 400  # no length
    start_headers["X-Goog-Upload-Header-Content-Length"] = "5"
    url = client.post("/upload/v1beta/files", headers=start_headers).headers["X-Goog-Upload-URL"]

    def send_chunk(data: bytes, offset: int, command: str) -> int:
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
        return client.post(url, content=data, headers=headers).status_code

    assert send_chunk(b"abc", 3, "upload") == 400
    assert send_chunk(b"abc", 0, "upload") == 200
    assert send_chunk(b"d", 3, "upload, finalize") == 400
    assert send_chunk(b"e", 4, "upload, finalize") == 200
    assert send_chunk(b"f", 5, "upload, finalize") == 404


def test_batches_are_listed_page_by_page_the_newest_first(client: httpx.Client) -> None:
    file = upload(client, LINE)
    for name in ("first", "second", "third"):
        create_batch(client, file, name=name)
    first = client.get("/v1beta/batches", params={"pageSize": 2}).json()
    second = client.get("/v1beta/batches", params={"pageSize": 2, "pageToken": first["nextPageToken"]}).json()
    assert "nextPageToken" not in second
    names = [operation["metadata"]["displayName"] for operation in (*first["operations"], *second["operations"])]
    assert names == ["third", "second", "first"]


def test_a_batch_that_is_cancelled_has_no_results(client: httpx.Client) -> None:
    name = create_batch(client, upload(client, LINE)).json()["name"]
    assert client.post(f"/v1beta/{name}:cancel").json() == {}
    batch = client.get(f"/v1beta/{name}").json()
    assert (batch["metadata"]["state"], batch["error"]["code"]) == ("BATCH_STATE_CANCELLED", 1)
    assert "output" not in batch["metadata"]
    assert client.get("/v1beta/files/results-of-batch0:download").status_code == 403
