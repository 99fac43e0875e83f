"""Tests the main task on real input: photographs, the real google-genai client over HTTP, a release, `load_dataset`."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from starlette.responses import Response

from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import SourceError, StoppedEarly, UsageError
from compact_hf.images.codec import encode_for_teacher
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.testing.gemini import GeminiServer, content_response, error_response
from compact_hf.testing.scripted_model import KEY, ModelRequest
from tests.methods.runs import hash_release


def generate_run(directory: Path, run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch, GeminiServer(accept_rate=0.7) as server:
        patch.setenv("GEMINI_API_KEY", KEY)
        progress = generate(str(directory), run, teacher_url=server.url, concurrency=8)
    assert progress.finished == progress.images
    return run


@pytest.fixture(scope="module")
def clean_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all photographs without failures."""
    return generate_run(photographs, tmp_path_factory.mktemp("clean") / "run")


@pytest.fixture(scope="module")
def clean_few(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a few photographs without failures, to compare runs with failures with."""
    return generate_run(few, tmp_path_factory.mktemp("clean-few") / "run")


def test_photographs_become_a_valid_release_that_load_dataset_reads(photographs: Path, clean_run: Path) -> None:
    from datasets import load_dataset

    out = clean_run.parent / "release"
    stats = assemble([clean_run], out, version="1.0.0")
    assert validate(out).problems == ()
    dataset = load_dataset(str(out))
    rows = [row for split in dataset.values() for row in split]
    assert len(rows) == stats.rows() > 15
    ids = {compute_image_id(path.read_bytes()) for path in photographs.iterdir()}
    for row in rows:
        assert row["image_id"] in ids
        assert row["image_source"] == photographs.name
        assert row["teacher"] == "gemini:gemini-3.8-flash-double"
        assert 2 <= len(row["turns"]) <= 3
        assert all(len(turn["capabilities"]) == row["k"] for turn in row["turns"])
        assert row["messages"][0]["content"].endswith("Answer the question using a single word or phrase.")
        assert row["images"][0].size


def test_the_accept_rate_shows_in_the_status(clean_run: Path) -> None:
    run_status = status(clean_run)
    verified_count = run_status.requests["verifier"]
    rejected_count = sum(reject.count for reject in run_status.rejects if reject.reason == "needs more capabilities")
    assert run_status.pictures == run_status.finished > 20
    assert 0.15 < rejected_count / verified_count < 0.45
    assert run_status.models == ("gemini:gemini-3.8-flash-double",)
    assert run_status.input_tokens > 258 * sum(run_status.requests.values())


def test_a_finished_run_asks_nothing_more(few: Path, clean_few: Path) -> None:
    with GeminiServer() as server:
        generate(str(few), clean_few, teacher_url=server.url)
    assert server.requests == []


def test_concurrency_leaves_no_trace(few: Path, clean_few: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(few), tmp_path / "run", teacher_url=server.url, concurrency=1)
    assert hash_release(tmp_path / "run") == hash_release(clean_few)


def test_strict_asks_once_more_without_the_picture_and_confirms_answers(few: Path, tmp_path: Path) -> None:
    from compact_hf.testing.gemini import content_response

    # Counted here: the server's number counts the requests of all roles, whose order is different in each run.
    verifications = count()

    def fault(request: ModelRequest, number: int) -> Response | None:
        if request.role != "verifier" or next(verifications) % 4:
            return None
        return content_response('{"capabilities": ["color"], "answer": "something else"}')

    with GeminiServer(fault=fault) as server:
        progress = generate(str(few), tmp_path / "run", teacher_url=server.url, strict=True, ks=(1,))
    blind_requests = [request for request in server.requests if request.role == "blind"]
    assert len(blind_requests) >= progress.accepted > 0
    assert {request.image for request in blind_requests} == {b""}
    reasons = {reject.reason for reject in status(tmp_path / "run").rejects}
    assert "answer not confirmed" in reasons or "needs other capabilities" in reasons
    assert "+strict" in status(tmp_path / "run").identity["preset"]


def test_refusals_are_counted_by_reason(few: Path, tmp_path: Path) -> None:
    def fault(request: ModelRequest, number: int) -> Response | None:
        return content_response(None, finish="SAFETY") if request.role == "teacher" and number % 3 == 0 else None

    with GeminiServer(fault=fault) as server:
        generate(str(few), tmp_path, teacher_url=server.url, limit=6)
    declined = next(reject for reject in status(tmp_path).rejects if reject.reason == "declined")
    assert declined.count > 0
    assert {example.detail for example in declined.examples} == {"finish reason SAFETY"}


def test_the_limit_may_grow_but_the_seed_may_not_change(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        first_progress = generate(str(few), tmp_path, teacher_url=server.url, limit=3)
        request_count = len(server.requests)
        second_progress = generate(str(few), tmp_path, teacher_url=server.url, limit=5)
        assert (first_progress.finished, second_progress.finished) == (3, 5)
        assert len(server.requests) > request_count
        with pytest.raises(UsageError, match="seed was 0, now 1"):
            generate(str(few), tmp_path, teacher_url=server.url, seed=1)


def test_teacher_and_verifier_may_be_two_servers(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as teacher_server, GeminiServer() as verifier_server:
        generate(
            str(few),
            tmp_path,
            teacher_url=teacher_server.url,
            verifier="gemini:judge",
            verifier_url=verifier_server.url,
            limit=2,
        )
    assert {request.role for request in teacher_server.requests} == {"teacher"}
    assert {request.role for request in verifier_server.requests} == {"verifier"}


def test_odd_files_are_rejects_and_the_rest_goes_on(photographs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "mixed"
    directory.mkdir()
    photograph = (photographs / "chelsea.png").read_bytes()
    (directory / "CAT.PNG").write_bytes(photograph)
    (directory / "copy.png").write_bytes(photograph)
    (directory / "cut.png").write_bytes(photograph[: len(photograph) // 2])
    (directory / "empty.jpg").touch()
    (directory / "text.jpg").write_text("no picture")
    with GeminiServer() as server:
        progress = generate(str(directory), tmp_path / "run", teacher_url=server.url)
    assert progress.finished == 1
    reasons = Counter(
        {reject.reason: reject.count for reject in status(tmp_path / "run").rejects if reject.stage == "picture"}
    )
    assert reasons == {"duplicate picture": 1, "corrupt picture": 1, "empty file": 1, "not a picture": 1}


def test_skipped_files_are_reported_before_during_and_after_a_run(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, run = tmp_path / "my photos", tmp_path / "run"
    directory.mkdir()
    image = sorted(few.iterdir())[0]
    shutil.copyfile(image, directory / "a.jfif")
    shutil.copyfile(image, directory / "copy.jpe")
    for name in ("b.heic", "c.heic", "notes.txt"):
        (directory / name).touch()
    skipped = f"3 files in {directory} were skipped: 2 .heic, 1 .txt; convert .heic files first"
    unknown = "images are listed, not read: unusable ones and duplicates count until a run has read them"
    with GeminiServer() as server:
        arguments = ["generate", str(directory), "--out", str(run), "--teacher-url", server.url]
        assert main([*arguments, "--dry-run"]) == 0
        before = capsys.readouterr().out
        assert before.startswith("2 images; ")
        assert f"\n{unknown}\n{skipped}" in before
        assert server.request_count == 0
        assert main(arguments) == 0
        assert f"compact: {skipped}" in capsys.readouterr().err
        assert main(["status", str(run)]) == 0
        assert f"\n{skipped}" in capsys.readouterr().out
        assert main([*arguments, "--dry-run"]) == 0
        # The duplicate does not count any more, because the run has found it.
        assert capsys.readouterr().out.startswith("0 images (1 more is finished); ")


def test_only_unusable_pictures_is_said_as_such(tmp_path: Path) -> None:
    directory = tmp_path / "broken"
    directory.mkdir()
    (directory / "empty.jpg").touch()
    with (
        GeminiServer() as server,
        pytest.raises(SourceError, match="no image can be used, of 1 in the source: run `compact status"),
    ):
        generate(str(directory), tmp_path / "run", teacher_url=server.url)


def test_pictures_that_keep_failing_are_left_for_the_next_time(few: Path, tmp_path: Path) -> None:
    poisoned_image = encode_for_teacher(sorted(few.iterdir())[3].read_bytes())

    def fault(request: ModelRequest, number: int) -> Response | None:
        return error_response(400, "INVALID_ARGUMENT", "cannot process") if request.image == poisoned_image else None

    with GeminiServer(fault=fault) as server, pytest.raises(StoppedEarly, match="1 image could not be finished"):
        generate(str(few), tmp_path, teacher_url=server.url)
    with GeminiServer() as server:
        generate(str(few), tmp_path, teacher_url=server.url)
        assert {request.image for request in server.requests} == {poisoned_image}


def test_generate_works_inside_a_running_event_loop(few: Path, tmp_path: Path) -> None:
    async def cell() -> int:
        with GeminiServer() as server:
            return generate(str(few), tmp_path, teacher_url=server.url, limit=2).finished

    assert asyncio.run(cell()) == 2
