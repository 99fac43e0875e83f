"""Tests of reading parts of files on the Hub through servers that do not send the requested part."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from huggingface_hub import get_session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from compact_hf.hub.download import open_hub_file
from compact_hf.testing.server import LocalServer

WHOLE = bytes(range(100))


def send_part(request: Request) -> Response:
    return Response(WHOLE[:10], 206, {"Content-Range": "bytes 0-9/100"})


def ignore_range(request: Request) -> Response:
    return Response(WHOLE)


def send_too_much(request: Request) -> Response:
    return Response(WHOLE, 206, {"Content-Range": "bytes 0-9/100"})


def send_packed(request: Request) -> Response:
    return Response(gzip.compress(b"")[:10], 206, {"Content-Encoding": "gzip"})


def redirect(request: Request) -> Response:
    if request.query_params:
        return send_part(request)
    return Response(WHOLE, 302, {"Location": f"{request.url}?signed=1"})


def read_part(answer: Callable[[Request], Response], monkeypatch: pytest.MonkeyPatch) -> bytes:
    hooks = get_session().event_hooks
    monkeypatch.setitem(hooks, "response", [])
    monkeypatch.setitem(hooks, "request", [])  # the client's own hook refuses all requests offline
    # What is read here is no repository.
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: SimpleNamespace(open=lambda *_, **__: None))
    for _ in range(2):
        open_hub_file("datasets/org/name@main/file")
    assert len(hooks["response"]) == 1
    with LocalServer(Starlette(routes=[Route("/file", answer)])) as server:
        content: bytes = get_session().get(f"{server.url}/file", headers={"Range": "bytes=0-9"}).content
    return content


@pytest.mark.parametrize("answer", [send_part, redirect])
def test_the_requested_part_is_read(answer: Callable[[Request], Response], monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_part(answer, monkeypatch) == WHOLE[:10]


@pytest.mark.parametrize("answer", [ignore_range, send_too_much, send_packed])
def test_more_than_the_requested_part_is_refused_before_it_is_read(
    answer: Callable[[Request], Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1 sends \d+ bytes instead of the 10 requested ones"):
        read_part(answer, monkeypatch)
