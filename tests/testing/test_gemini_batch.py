"""The double of Gemini's files and batches is as strict as the service: one that takes anything would prove nothing."""

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
    with GeminiServer() as started:
        yield started


@pytest.fixture
def client(server: GeminiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-goog-api-key": KEY}) as opened:
        yield opened


def uploaded(client: httpx.Client, text: str, *, parts: int = 1) -> str:
    """Send a file in so many parts, as the protocol has it, and return its name."""
    data = text.encode()
    start = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(len(data)),
    }
    url = client.post("/upload/v1beta/files", json={"file": {}}, headers=start).headers["X-Goog-Upload-URL"]
    ends = [len(data) * number // parts for number in range(parts + 1)]
    for begin, end in itertools.pairwise(ends):
        command = "upload, finalize" if end == len(data) else "upload"
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(begin)}
        answer = client.post(url, content=data[begin:end], headers=headers)
    assert answer.headers["X-Goog-Upload-Status"] == "final"
    return str(answer.json()["file"]["name"])


def created(client: httpx.Client, file: str, *, name: str = "mine") -> httpx.Response:
    batch = {"displayName": name, "inputConfig": {"fileName": file}}
    return client.post("/v1beta/models/gemini-3.8-flash:batchGenerateContent", json={"batch": batch})


def test_a_batch_goes_from_pending_to_its_results(server: GeminiServer, client: httpx.Client) -> None:
    server.batches.polls_to_finish = 3
    other = json.dumps({"key": "b", "request": REQUEST})
    name = created(client, uploaded(client, f"{LINE}\n{other}\n", parts=3)).json()["name"]
    seen: list[dict[str, Any]] = [client.get(f"/v1beta/{name}").json() for _ in range(3)]
    assert [one["metadata"]["state"].removeprefix("BATCH_STATE_") for one in seen] == [
        "PENDING",
        "RUNNING",
        "SUCCEEDED",
    ]
    assert [one["metadata"]["batchStats"]["successfulRequestCount"] for one in seen] == ["0", "1", "2"]
    file = seen[-1]["metadata"]["output"]["responsesFile"]
    lines = client.get(f"/v1beta/{file}:download", params={"alt": "media"}).text.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["a", "b"]
    assert server.request_count == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no requests"),
        ("{", "Error on line 1"),
        (f"{LINE}\n{LINE}", "Error on line 2: expected a key of its own"),
        (json.dumps({"request": REQUEST}), "Error on line 1: expected a key of its own and a request"),
        (json.dumps({"key": "a", "request": {**REQUEST, "thinking_config": {}}}), "no such field: 'thinking_config'"),
        (json.dumps({"key": "a", "request": {**REQUEST, "generationConfig": {}}}), "expected a response schema"),
        (json.dumps({"key": "a", "request": {**REQUEST, "contents": []}}), "expected one picture, got 0"),
    ],
)
def test_one_bad_line_refuses_the_whole_file(text: str, why: str, server: GeminiServer, client: httpx.Client) -> None:
    refused = created(client, uploaded(client, text))
    assert refused.status_code == 400
    assert why in refused.json()["error"]["message"]
    assert (server.batches.jobs, server.request_count) == ([], 0)


def test_without_the_key_only_an_upload_that_was_begun_goes_on(server: GeminiServer, client: httpx.Client) -> None:
    file = uploaded(client, LINE)
    name = created(client, file).json()["name"]
    with httpx.Client(base_url=server.url, headers={"x-goog-api-key": "wrong"}) as stranger:
        answers = [
            stranger.post("/upload/v1beta/files", json={"file": {}}),
            created(stranger, file),
            stranger.get("/v1beta/batches"),
            stranger.get(f"/v1beta/{name}"),
            stranger.post(f"/v1beta/{name}:cancel"),
            stranger.get(f"/v1beta/{file}:download"),
            stranger.delete(f"/v1beta/{file}"),
        ]
    assert {answer.json()["error"]["details"][0]["reason"] for answer in answers} == {"API_KEY_INVALID"}
    assert (file in server.batches.files, len(server.batches.jobs)) == (True, 1)


def test_what_is_not_there_is_said_as_the_service_does(client: httpx.Client) -> None:
    assert created(client, "files/none").status_code == 403
    assert client.get("/v1beta/batches/none").status_code == 404
    assert client.post("/v1beta/batches/none:cancel").status_code == 404
    assert client.get("/v1beta/files/none:download").status_code == 403
    assert client.delete("/v1beta/files/none").status_code == 403
    file = uploaded(client, LINE)
    assert client.get(f"/v1beta/{file}:download").status_code == 400  # one's own uploads cannot be had back
    assert client.delete(f"/v1beta/{file}").status_code == 200
    assert created(client, file).status_code == 403


def test_an_upload_has_its_order_and_its_length(client: httpx.Client) -> None:
    start = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    assert client.post("/upload/v1beta/files", headers=start).status_code == 400  # how long?
    start["X-Goog-Upload-Header-Content-Length"] = "5"
    url = client.post("/upload/v1beta/files", headers=start).headers["X-Goog-Upload-URL"]

    def chunk(data: bytes, offset: int, command: str) -> int:
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
        return client.post(url, content=data, headers=headers).status_code

    assert chunk(b"abc", 3, "upload") == 400
    assert chunk(b"abc", 0, "upload") == 200
    assert chunk(b"d", 3, "upload, finalize") == 400
    assert chunk(b"e", 4, "upload, finalize") == 200
    assert chunk(b"f", 5, "upload, finalize") == 404


def test_batches_are_listed_page_by_page_the_newest_first(client: httpx.Client) -> None:
    file = uploaded(client, LINE)
    for name in ("first", "second", "third"):
        created(client, file, name=name)
    first = client.get("/v1beta/batches", params={"pageSize": 2}).json()
    second = client.get("/v1beta/batches", params={"pageSize": 2, "pageToken": first["nextPageToken"]}).json()
    assert "nextPageToken" not in second
    names = [one["metadata"]["displayName"] for one in (*first["operations"], *second["operations"])]
    assert names == ["third", "second", "first"]


def test_a_batch_that_is_cancelled_has_no_results(client: httpx.Client) -> None:
    name = created(client, uploaded(client, LINE)).json()["name"]
    assert client.post(f"/v1beta/{name}:cancel").json() == {}
    ended = client.get(f"/v1beta/{name}").json()
    assert (ended["metadata"]["state"], ended["error"]["code"]) == ("BATCH_STATE_CANCELLED", 1)
    assert "output" not in ended["metadata"]
    assert client.get("/v1beta/files/results-of-batch0:download").status_code == 403
