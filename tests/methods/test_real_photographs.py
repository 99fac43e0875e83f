"""The main job on real input: photographs, the real google-genai client over HTTP, a release, `load_dataset`."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from starlette.responses import Response

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import SourceError, StoppedEarly, UsageError
from compact_hf.images.codec import encode_for_teacher
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.generate import generate
from compact_hf.methods.compact.status import status
from compact_hf.testing.gemini import GeminiServer, content_response, error_response
from compact_hf.testing.scripted_model import KEY, ModelRequest
from tests.methods.runs import released


def run_over(folder: Path, run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch, GeminiServer(accept_rate=0.7) as server:
        patch.setenv("GEMINI_API_KEY", KEY)
        standing = generate(str(folder), run, teacher_url=server.url, concurrency=8)
    assert standing.finished == standing.images
    return run


@pytest.fixture(scope="module")
def clean_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All photographs, from start to end without any trouble."""
    return run_over(photographs, tmp_path_factory.mktemp("clean") / "run")


@pytest.fixture(scope="module")
def clean_few(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of them, likewise: what runs with trouble are compared with."""
    return run_over(few, tmp_path_factory.mktemp("clean-few") / "run")


def test_photographs_become_a_valid_release_that_load_dataset_reads(photographs: Path, clean_run: Path) -> None:
    from datasets import load_dataset

    out = clean_run.parent / "release"
    facts = assemble([clean_run], out, version="1.0.0")
    assert validate(out).problems == ()
    data = load_dataset(str(out))
    rows = [row for split in data.values() for row in split]
    assert len(rows) == facts.rows() > 15
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
    found = status(clean_run)
    asked = found.requests["verifier"]
    refused = sum(one.count for one in found.rejects if one.reason == "needs more capabilities")
    assert found.pictures == found.finished > 20
    assert 0.15 < refused / asked < 0.45
    assert found.models == ("gemini:gemini-3.8-flash-double",)
    assert found.input_tokens > 258 * sum(found.requests.values())


def test_a_finished_run_asks_nothing_more(few: Path, clean_few: Path) -> None:
    with GeminiServer() as server:
        generate(str(few), clean_few, teacher_url=server.url)
    assert server.requests == []


def test_concurrency_leaves_no_trace(few: Path, clean_few: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(few), tmp_path / "run", teacher_url=server.url, concurrency=1)
    assert released(tmp_path / "run") == released(clean_few)


def test_strict_asks_once_more_without_the_picture_and_confirms_answers(few: Path, tmp_path: Path) -> None:
    from compact_hf.testing.gemini import content_response

    def fault(asked: ModelRequest, number: int) -> Response | None:
        if asked.role != "verifier" or number % 4:
            return None
        return content_response('{"capabilities": ["color"], "answer": "something else"}')

    with GeminiServer(fault=fault) as server:
        standing = generate(str(few), tmp_path / "run", teacher_url=server.url, strict=True, ks=(1,))
    blind = [asked for asked in server.requests if asked.role == "blind"]
    assert len(blind) >= standing.accepted > 0
    assert {asked.image for asked in blind} == {b""}
    rejects = {one.reason for one in status(tmp_path / "run").rejects}
    assert "answer not confirmed" in rejects or "needs other capabilities" in rejects
    assert "+strict" in status(tmp_path / "run").identity["preset"]


def test_refusals_are_counted_by_reason(few: Path, tmp_path: Path) -> None:
    def fault(asked: ModelRequest, number: int) -> Response | None:
        return content_response(None, finish="SAFETY") if asked.role == "teacher" and number % 3 == 0 else None

    with GeminiServer(fault=fault) as server:
        generate(str(few), tmp_path, teacher_url=server.url, limit=6)
    declined = next(one for one in status(tmp_path).rejects if one.reason == "declined")
    assert declined.count > 0
    assert {example.detail for example in declined.examples} == {"finish reason SAFETY"}


def test_the_limit_may_grow_but_the_seed_may_not_change(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        first = generate(str(few), tmp_path, teacher_url=server.url, limit=3)
        asked = len(server.requests)
        more = generate(str(few), tmp_path, teacher_url=server.url, limit=5)
        assert (first.finished, more.finished) == (3, 5)
        assert len(server.requests) > asked
        with pytest.raises(UsageError, match="seed was 0, now 1"):
            generate(str(few), tmp_path, teacher_url=server.url, seed=1)


def test_teacher_and_verifier_may_be_two_servers(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as writing, GeminiServer() as judging:
        generate(
            str(few),
            tmp_path,
            teacher_url=writing.url,
            verifier="gemini:judge",
            verifier_url=judging.url,
            limit=2,
        )
    assert {asked.role for asked in writing.requests} == {"teacher"}
    assert {asked.role for asked in judging.requests} == {"verifier"}


def test_odd_files_are_rejects_and_the_rest_goes_on(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    photograph = (photographs / "chelsea.png").read_bytes()
    (folder / "CAT.PNG").write_bytes(photograph)
    (folder / "copy.png").write_bytes(photograph)
    (folder / "cut.png").write_bytes(photograph[: len(photograph) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    with GeminiServer() as server:
        standing = generate(str(folder), tmp_path / "run", teacher_url=server.url)
    assert standing.finished == 1
    reasons = Counter({one.reason: one.count for one in status(tmp_path / "run").rejects if one.stage == "picture"})
    assert reasons == {"duplicate picture": 1, "corrupt picture": 1, "empty file": 1, "not a picture": 1}


def test_only_unusable_pictures_is_said_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "empty.jpg").touch()
    with GeminiServer() as server, pytest.raises(SourceError, match="none of the 1 pictures can be used"):
        generate(str(folder), tmp_path / "run", teacher_url=server.url)


def test_pictures_that_keep_failing_are_left_for_the_next_time(few: Path, tmp_path: Path) -> None:
    poisoned = encode_for_teacher(sorted(few.iterdir())[3].read_bytes())

    def fault(asked: ModelRequest, number: int) -> Response | None:
        return error_response(400, "INVALID_ARGUMENT", "cannot process") if asked.image == poisoned else None

    with GeminiServer(fault=fault) as server, pytest.raises(StoppedEarly, match="1 pictures are unfinished"):
        generate(str(few), tmp_path, teacher_url=server.url)
    with GeminiServer() as server:
        generate(str(few), tmp_path, teacher_url=server.url)
        assert {asked.image for asked in server.requests} == {poisoned}


def test_generate_works_inside_a_running_event_loop(few: Path, tmp_path: Path) -> None:
    async def cell() -> int:
        with GeminiServer() as server:
            return generate(str(few), tmp_path, teacher_url=server.url, limit=2).finished

    assert asyncio.run(cell()) == 2
