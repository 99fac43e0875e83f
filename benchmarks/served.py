"""The two ends of benchmarks/generation.py: a server in a process of its own that writes down when each request came,
and the pictures that are asked about.
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

LARGE_EVERY = 10  # one picture in ten is of 3000 x 2000 pixels, the others of 640 x 480


@dataclass(frozen=True)
class ReceivedRequest:
    """One request at the server: when, whether it was answered, whether it carried a picture, and what it was."""

    received_at: float
    is_answered: bool
    has_image: bool
    digest: str


class GeminiProcess:
    """GeminiServer in another process; leaving the block ends it.

    Args:
        latency_s, accept_rate: as for GeminiServer.
        storm_s (`float`): from the 100th request on, answer nothing but 429 for so many seconds.
        delay_s (`float`): the delay that each 429 states.
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
        """Return all requests so far."""
        self._pipe.send("came")
        requests: list[ReceivedRequest] = self._pipe.recv()
        return requests


def _serve(pipe: Connection, latency_s: float, accept_rate: float, storm_s: float, delay_s: float) -> None:
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
    """Write `count` different photographs, JPEG files, into a new folder; goes on where it stopped."""
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
    """Eight photographs that scikit-image ships, at this size."""
    import skimage

    files = sorted(
        file for file in (Path(skimage.__file__).parent / "data").iterdir() if file.suffix in (".jpg", ".png")
    )
    return [Image.open(file).convert("RGB").resize(size) for file in files[:8]]
