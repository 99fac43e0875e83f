"""Fixtures that start the Space as it is published: a copy of its files in a directory, started as on the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from starlette.responses import Response

from compact_hf.scenes.source import SceneSource
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import ModelRequest
from tests import preforked

REPOSITORY = Path(__file__).parents[2]
SPACE = REPOSITORY / "spaces_demo"
VISITORS_KEY = "visitors-own-key-4711"
# Seconds; long, because the start takes minutes on a busy machine.
_START_S = 540.0


@dataclass
class RunningSpace:
    """A running Space.

    Attributes:
        url (`str`): URL of its page, without a slash at the end.
        directory (`Path`): the directory with its files (`space`), and all that it writes (`log`, `tmp`).
        pid (`int`): its process.
    """

    url: str
    directory: Path
    pid: int

    @cached_property
    def client(self) -> Client:
        """Gradio's client, as any user has it."""
        return Client(self.url, verbose=False)

    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8")

    def call(self, name: str, *data: Any) -> httpx.Response:
        """Post a call without the checks of a client; return the refusal, or the result from the queue."""
        response = httpx.post(f"{self.url}/gradio_api/call/{name}", json={"data": data}, timeout=60)
        if response.status_code != 200:
            return response
        return httpx.get(f"{self.url}/gradio_api/call/{name}/{response.json()['event_id']}", timeout=_START_S)


@contextmanager
def run_space(
    directory: Path, *, popen: type[subprocess.Popen[bytes]] = preforked.Popen, **variables: str
) -> Iterator[RunningSpace]:
    """Start a copy of the Space in `directory` with these environment variables, and stop it at the end.

    `popen` is `subprocess.Popen` for a real start, including all imports, as on the Hub.
    """
    space = directory / "space"
    shutil.copytree(SPACE, space, ignore=shutil.ignore_patterns("__pycache__", "*.pyi", ".*"))
    (directory / "tmp").mkdir()
    paths = {
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(directory / "tmp"),
        "GRADIO_TEMP_DIR": str(directory / "tmp/gradio"),
    }
    log = directory / "log"
    with log.open("w") as log_file:
        process = popen(
            [sys.executable, "app.py"],
            cwd=space,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **paths, **variables},
            stdout=log_file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RunningSpace(_wait_for_url(process, log), directory, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8")):
            return match[0]
        time.sleep(0.05)
    pytest.fail("the Space served nothing:\n" + log.read_text(encoding="utf-8"))


class Gate:
    """Delays every answer of the Gemini test server while it is closed, and can answer in its place."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._response: Response | None = None

    def __call__(self, request: ModelRequest, number: int) -> Response | None:
        """Wait until the gate is open, and return the fault of the server; None lets the server answer."""
        self._open.wait(25)
        return self._response

    @contextmanager
    def answering(self, response: Response) -> Iterator[None]:
        """Answer every request with `response` inside the block."""
        self._response = response
        try:
            yield
        finally:
            self._response = None

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close the gate inside the block."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


@pytest.fixture(scope="session")
def gate() -> Gate:
    """The gate of the Gemini test server."""
    return Gate()


@pytest.fixture(scope="session")
def gemini(gate: Gate) -> Iterator[GeminiServer]:
    """A test server that speaks Gemini's protocol and accepts only the visitor's key."""
    with GeminiServer(key=VISITORS_KEY, fault=gate) as server:
        yield server


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory, gemini: GeminiServer) -> Iterator[RunningSpace]:
    """The Space with only GEMINI_URL set: no key, no GPU, no network, the shipped student."""
    with run_space(tmp_path_factory.mktemp("space"), GEMINI_URL=gemini.url) as running_space:
        # The page is served before the models are loaded: wait for the first answer.
        image = upload(running_space, SceneSource(0, 1).read("scene:0"))
        assert "event: complete" in running_space.call("ask", image, "What is this?").text
        yield running_space


def upload(space: RunningSpace, data: bytes, name: str = "picture.png") -> dict[str, Any]:
    """Upload bytes without the checks of a client, and return them as an input of a call."""
    response = httpx.post(f"{space.url}/gradio_api/upload", files={"files": (name, data)}, timeout=60)
    response.raise_for_status()
    return {"path": response.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def page_texts(client: Client) -> str:
    """Return all texts that the page shows at its start."""
    return " ".join(str(component["props"].get("value", "")) for component in client.config["components"])


def read_error(response: httpx.Response) -> str:
    """Return the error message that a visitor sees."""
    if response.status_code != 200:
        return str(response.json()["detail"])
    match = re.search(r"event: error\ndata: (.*)", response.text)
    assert match, response.text[:300]
    error = json.loads(match[1])
    return str(error.get("error", error) if isinstance(error, dict) else error)
