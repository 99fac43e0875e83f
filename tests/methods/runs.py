"""Helpers for tests of runs with failures: hashes of releases, journal contents, requests, and the command."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from compact_hf.dataset.assemble import assemble
from compact_hf.images.codec import encode_for_teacher
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.records import digest
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.testing.scripted_model import ModelRequest, ModelServer

PRESETS = ("paper", "efficient")

COMMAND = (sys.executable, "-c", "import sys; from compact_hf.cli.main import main; sys.exit(main())")


def generate_command(directory: Path, run: Path, server: ModelServer, *options: str) -> list[str]:
    return [*COMMAND, "generate", str(directory), "--out", str(run), "--teacher-url", server.url, *options]


def hash_release(run: Path) -> dict[str, str]:
    """Assemble a run and return each Parquet file's name with its hash."""
    out = run.parent / f"{run.name}-release"
    assemble([run], out, version="1.0.0")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.parquet")
    }


def read_reply_keys(run: Path) -> set[str]:
    """Return the keys of the replies in a run's journal; empty if there is no run yet."""
    if not (run / FILE_NAME).exists() or not (run / FILE_NAME).stat().st_size:
        return set()
    with Journal.read(run) as journal:
        return {reply.key for _, _, reply in journal.replies()}


def read_outcomes(run: Path) -> dict[str, Outcome]:
    """Return the outcome of each image by its id."""
    with Journal.read(run) as journal:
        return {finished.image_id: parse_outcome(finished.body) for finished in journal.outcomes()}


def request_keys(directory: Path, requests: Iterable[ModelRequest]) -> list[str]:
    """Return the journal keys of the requests that a server received about the images of a directory, in order."""
    image_ids = {
        encode_for_teacher(path.read_bytes()): compute_image_id(path.read_bytes()) for path in directory.iterdir()
    }
    return [digest(request.role, image_ids[request.image], request.prompt) for request in requests]
