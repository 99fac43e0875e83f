"""Tests of connections: proxies of the environment, errors without secrets, redirects, and replies of any size."""

from __future__ import annotations

import contextlib
import gzip
import socket
import socketserver
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Self

import pytest
from starlette.responses import Response, StreamingResponse

from compact_hf.errors import TeacherError
from compact_hf.teachers.base import Failure, Reply
from compact_hf.teachers.gemini import Gemini
from compact_hf.teachers.openai import OpenAI
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import ask_all, draft_request

COMBINATION = ("color", "counting")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


@pytest.mark.parametrize(
    ("variable", "prefix"), [("http_proxy", ""), ("http_proxy", "http://"), ("ALL_PROXY", "http://")]
)
def test_a_proxy_of_the_environment_is_asked_however_it_is_written(
    variable: str, prefix: str, server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, prefix + server.url.removeprefix("http://"))
    (reply,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)
    monkeypatch.setenv("no_proxy", "gemini.invalid")
    (failure,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)


class Socks5Proxy(socketserver.ThreadingTCPServer):
    """A SOCKS5 proxy that forwards all connections to one local port; without a port it refuses them."""

    daemon_threads = True

    def __init__(self, port: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Socks5Handler)
        self.port = port
        self.destinations: list[tuple[str, int]] = []
        self.url = f"socks5h://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Socks5Handler(socketserver.StreamRequestHandler):
    server: Socks5Proxy

    def handle(self) -> None:
        _, method_count = self.rfile.read(2)
        self.rfile.read(method_count)
        self.wfile.write(b"\x05\x00")  # no authentication required
        self.rfile.read(4)
        host = self.rfile.read(self.rfile.read(1)[0]).decode()  # a host name, which the proxy resolves
        self.server.destinations.append((host, int.from_bytes(self.rfile.read(2))))
        if self.server.port is None:
            self.wfile.write(b"\x05\x02\x00\x01" + bytes(6))  # connection not allowed by ruleset
            return
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True).start()
            _copy(self.connection, upstream)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def test_a_socks_proxy_is_asked_too(server: GeminiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Socks5Proxy(port=int(server.url.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        (reply,) = ask_all(Gemini(url="http://gemini.invalid:81"), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)
    assert proxy.destinations == [("gemini.invalid", 81)]


def test_a_socks_proxy_that_refuses_or_is_not_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with Socks5Proxy(port=None) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        (refused,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    (missing,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    assert isinstance(refused, Failure)
    assert isinstance(missing, Failure)
    assert "http://gemini.invalid cannot be reached (Connection not allowed by ruleset)" in refused.message
    assert "http://gemini.invalid cannot be reached (" in missing.message


def test_without_what_a_socks_proxy_takes_it_is_said_what_to_install(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@proxy.invalid:1080")
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    with pytest.raises(TeacherError, match="pip install aiohttp-socks") as excinfo:
        ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert "secret" not in "".join(traceback.format_exception(excinfo.value))


def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "gopher://user:secret@proxy.invalid")
    with pytest.raises(TeacherError, match=r"the proxy in the environment \(gopher://...\) cannot be used") as excinfo:
        ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert "secret" not in "".join(traceback.format_exception(excinfo.value))


def test_what_keeps_from_a_server_is_said(server: GeminiServer) -> None:
    # The server does not speak TLS: the error comes from OpenSSL, as for an untrusted certificate.
    (failure,) = ask_all(Gemini(url=server.url.replace("http://", "https://")), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert "[SSL: " in failure.message


def gemini_with(response: Callable[[], Response]) -> list[Reply | Failure]:
    with GeminiServer(fault=lambda request, number: response()) as server:
        return ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])


def openai_with(response: Callable[[], Response]) -> list[Reply | Failure]:
    with OpenAIServer(fault=lambda request, number: response()) as server:
        return ask_all(OpenAI("m", url=server.url), [draft_request(COMBINATION)])


ASK = pytest.mark.parametrize("ask", [gemini_with, openai_with])


@ASK
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_carries_an_image_to_another_address(ask: Callable[..., object], status: int) -> None:
    with OpenAIServer() as other:
        target = f"{other.url.replace('http://', 'http://user:secret@')}/v1/chat/completions?token=secret"
        with pytest.raises(TeacherError) as excinfo:
            ask(lambda: Response(status_code=status, headers={"Location": target}))
        assert other.requests == []
    assert f" redirects requests to {other.url}/v1/chat/completions ({status}), and no image" in str(excinfo.value)
    assert "secret" not in "".join(traceback.format_exception(excinfo.value))


@ASK
def test_a_redirect_within_the_server_is_named_with_its_host(ask: Callable[..., object]) -> None:
    with pytest.raises(TeacherError, match=r"redirects requests to http://127\.0\.0\.1:\d+/login \(302\)"):
        ask(lambda: Response(status_code=302, headers={"Location": "/login"}))


@ASK
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("status", [200, 500])
def test_a_small_reply_that_unpacks_to_a_large_one_is_a_failure(
    ask: Callable[..., list[Reply | Failure]], encoding: str, status: int
) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(100 * 2**20), 1)
    tracemalloc.start()
    try:
        (failure,) = ask(lambda: Response(bomb, status_code=status, headers={"Content-Encoding": encoding}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(failure, Failure)
    assert "is larger than 8,388,608 bytes" in failure.message
    assert peak < 50 * 2**20


@ASK
def test_a_reply_without_end_is_a_failure(ask: Callable[..., list[Reply | Failure]]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(2**20)

    start = time.monotonic()
    (failure,) = ask(lambda: StreamingResponse(endless()))
    assert isinstance(failure, Failure)
    assert "is larger than 8,388,608 bytes" in failure.message
    assert time.monotonic() - start < 20


@ASK
def test_a_compressed_reply_is_read(ask: Callable[..., list[Reply | Failure]]) -> None:
    """A proxy may compress replies; the text of the error shows that it was unpacked."""
    packed = gzip.compress(b'{"error": {"message": "an unpacked message", "code": 500}}')
    (failure,) = ask(lambda: Response(packed, status_code=500, headers={"Content-Encoding": "gzip"}))
    assert isinstance(failure, Failure)
    assert "an unpacked message" in failure.message
