"""Provides the inputs of benchmarks/generation.py: a Gemini server in another process, and photographs.

The server records the time of each request.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import random
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image
from starlette.responses import Response

from compact_hf.testing.gemini import GeminiServer, error_response
from compact_hf.testing.scripted_model import ModelRequest

LARGE_EVERY = 10  # one image in ten has 3000 x 2000 pixels, the others 640 x 480


@dataclass(frozen=True)
class ReceivedRequest:
    """One request that the server received.

    Attributes:
        received_at (`float`): time of arrival, in seconds since the epoch.
        is_answered (`bool`): whether it was answered and not refused with a 429.
        has_image (`bool`): whether it contained an image.
        digest (`str`): hash of its contents, equal for repeated requests.
    """

    received_at: float
    is_answered: bool
    has_image: bool
    digest: str


class GeminiProcess:
    """A `GeminiServer` in another process, which is stopped at the end of the `with` block.

    Args:
        latency_s (`float`): as for `GeminiServer`.
        accept_rate (`float`, *optional*, defaults to 0.8): as for `GeminiServer`.
        storm_s (`float`, *optional*, defaults to 0.0): seconds for which all requests from the 100th on get a 429.
        delay_s (`float`, *optional*, defaults to 5.0): the retry delay in these responses, in seconds.

    Attributes:
        url (`str`): URL of the server.
    """

    def __init__(
        self, *, latency_s: float, accept_rate: float = 0.8, storm_s: float = 0.0, delay_s: float = 5.0
    ) -> None:
        self._pipe, child_pipe = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        settings = latency_s, accept_rate, storm_s, delay_s
        self._process = context.Process(target=_serve, args=(child_pipe, *settings), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.url: str = self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def read_requests(self) -> list[ReceivedRequest]:
        """Return all requests received so far."""
        self._pipe.send("came")
        requests: list[ReceivedRequest] = self._pipe.recv()
        return requests


def _serve(pipe: Connection, latency_s: float, accept_rate: float, storm_s: float, delay_s: float) -> None:
    """Run the server, send its URL, and answer each message with the list of requests."""
    requests: list[ReceivedRequest] = []
    storm_starts: list[float] = []

    def on_request(request: ModelRequest, number: int) -> Response | None:
        now = time.time()
        if storm_s and number == 100:
            storm_starts.append(now)
        is_refused = bool(storm_starts) and now - storm_starts[0] < storm_s
        digest = hashlib.sha256(request.prompt.encode() + request.image[-2048:] + request.image[:2048]).hexdigest()
        requests.append(ReceivedRequest(now, not is_refused, bool(request.image), digest))
        return error_response(429, "RESOURCE_EXHAUSTED", "slow down", retry_delay_s=delay_s) if is_refused else None

    with GeminiServer(latency_s=latency_s, accept_rate=accept_rate, fault=on_request, record_requests=False) as server:
        pipe.send(server.url)
        while pipe.recv():
            pipe.send(list(requests))


def write_photos(directory: Path, count: int, *, large_every: int | None = LARGE_EVERY) -> Path:
    """Write `count` different photographs as JPEG files into a directory, skipping those that exist."""
    directory.mkdir(parents=True, exist_ok=True)
    small, large = _load_photos((640, 480)), _load_photos((3000, 2000))
    for number in range(count):
        path = directory / f"{number:05d}.jpg"
        if path.exists():
            continue
        is_large = large_every is not None and number % large_every == 0
        image = (large if is_large else small)[number % len(small)].copy()
        rng = random.Random(number)
        patch = Image.new("RGB", (64, 64), tuple(rng.randrange(256) for _ in range(3)))
        image.paste(patch, (rng.randrange(image.width - 64), rng.randrange(image.height - 64)))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        path.write_bytes(out.getvalue())
    return directory


def _load_photos(size: tuple[int, int]) -> list[Image.Image]:
    """Return eight photographs that ship with scikit-image, scaled to a size."""
    import skimage

    files = sorted(
        file for file in (Path(skimage.__file__).parent / "data").iterdir() if file.suffix in (".jpg", ".png")
    )
    return [Image.open(file).convert("RGB").resize(size) for file in files[:8]]
