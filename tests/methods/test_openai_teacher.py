"""Tests the way from photographs to a valid release with OpenAI-compatible servers, alone and together with Gemini."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from datasets import load_dataset
from starlette.responses import Response

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import TeacherError
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer, content_response, error_response
from compact_hf.testing.scripted_model import KEY, ModelRequest


@pytest.fixture(autouse=True)
def openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def clean_run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a few photographs without failures."""
    run = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch, OpenAIServer(accept_rate=0.7) as server:
        patch.setenv("OPENAI_API_KEY", KEY)
        generate(str(few), run, teacher="openai:double", teacher_url=server.url)
    return run


def assemble_release(run: Path) -> Path:
    out = run.parent / f"{run.name}-release"
    assemble([run], out, version="1.0.0")
    assert validate(out).problems == ()
    return out


def hash_parquet_files(release: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.rglob("*.parquet")}


def test_photographs_become_a_valid_release_that_names_the_model(few: Path, clean_run: Path) -> None:
    rows = [row for split in load_dataset(str(assemble_release(clean_run))).values() for row in split]
    assert len(rows) > 3
    for row in rows:
        assert (row["teacher"], row["verifier"]) == ("openai:double-2026-11-21",) * 2
        assert all(len(turn["capabilities"]) == row["k"] for turn in row["turns"])
    run_status = status(clean_run)
    assert run_status.finished == len(list(few.iterdir()))
    assert run_status.input_tokens > 765 * sum(run_status.requests.values())


def test_gemini_may_write_what_an_openai_server_judges(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as teacher_server, OpenAIServer() as verifier_server:
        generate(
            str(few),
            tmp_path / "run",
            teacher="gemini",
            teacher_url=teacher_server.url,
            verifier="openai:judge",
            verifier_url=verifier_server.url,
            strict=True,
        )
    assert {request.role for request in teacher_server.requests} == {"teacher"}
    assert {request.role for request in verifier_server.requests} == {"verifier", "blind"}
    assert {request.body["model"] for request in verifier_server.requests} == {"judge"}
    rows = [row for split in load_dataset(str(assemble_release(tmp_path / "run"))).values() for row in split]
    assert {(row["teacher"], row["verifier"]) for row in rows} == {
        ("gemini:gemini-3.8-flash-double", "openai:double-2026-11-21")
    }


def test_trouble_on_the_way_leaves_no_trace(few: Path, clean_run: Path, tmp_path: Path) -> None:
    faults = [
        error_response(429, "slow down", code="rate_limit_exceeded", retry_after_s=0.1),
        error_response(500, "oops"),
        error_response(503, "loading"),
        Response('{"choices": [{"message": {"content": "{\\"que', media_type="application/json"),
        Response("<html>a page</html>", media_type="text/html"),
    ]

    def fault(request: ModelRequest, number: int) -> Response | None:
        return faults[number // 9 % len(faults)] if number % 9 == 3 else None

    with OpenAIServer(accept_rate=0.7, fault=fault) as server:
        generate(str(few), tmp_path / "run", teacher="openai:double", teacher_url=server.url)
        assert len(server.requests) > 9 * len(faults)
    assert hash_parquet_files(assemble_release(tmp_path / "run")) == hash_parquet_files(assemble_release(clean_run))


def test_fenced_json_is_worth_as_much_as_bare_json(few: Path, clean_run: Path, tmp_path: Path) -> None:
    def answer_fenced(request: ModelRequest, number: int) -> Response:
        text = json.dumps(server.make_reply(request), indent=2)
        return content_response(f"```json\n{text}\n```", model="double-2026-11-21")

    with OpenAIServer(accept_rate=0.7, fault=answer_fenced) as server:
        generate(str(few), tmp_path / "run", teacher="openai:double", teacher_url=server.url)
    assert hash_parquet_files(assemble_release(tmp_path / "run")) == hash_parquet_files(assemble_release(clean_run))


def test_a_key_that_is_revoked_half_way_stops_the_run_and_shows_nowhere(
    few: Path, clean_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-very-secret-indeed"
    monkeypatch.setenv("OPENAI_API_KEY", secret)

    def revoke(request: ModelRequest, number: int) -> Response | None:
        return error_response(401, f"key {secret} was revoked") if number > 15 else None

    with OpenAIServer(key=secret, accept_rate=0.7, fault=revoke) as server, pytest.raises(TeacherError) as excinfo:
        generate(str(few), tmp_path / "run", teacher="openai:double", teacher_url=server.url)
    assert secret not in str(excinfo.value)
    for file in (tmp_path / "run").iterdir():
        assert secret.encode() not in file.read_bytes()
    with OpenAIServer(key=secret, accept_rate=0.7) as server:
        generate(str(few), tmp_path / "run", teacher="openai:double", teacher_url=server.url)
    assert hash_parquet_files(assemble_release(tmp_path / "run")) == hash_parquet_files(assemble_release(clean_run))
