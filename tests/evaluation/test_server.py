"""Tests models on a server: same prompts as for local models, retries, and no question is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.cli.main import main
from compact_hf.errors import StoppedEarly, TeacherError, UsageError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.plan import plan_evaluation
from compact_hf.evaluation.predict import read_predictions
from compact_hf.testing.openai import OpenAIServer, content_response, error_response
from compact_hf.testing.scripted_model import ModelRequest
from tests.evaluation.samples import load_questions
from tests.training.samples import write_release

MODEL = "openai:double"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_release(tmp_path_factory.mktemp("release") / "drawn", rows=12))


@pytest.fixture(autouse=True)
def _no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def count_prompts(server: OpenAIServer) -> Counter[str]:
    return Counter(request.prompt for request in server.requests)


def test_every_question_is_one_request_in_the_words_that_models_here_get(dataset: str, tmp_path: Path) -> None:
    with OpenAIServer(key=None) as server:
        evaluation = evaluate(MODEL, dataset, tmp_path / "out", split="train", url=server.url)
    questions = load_questions(dataset, split="train").questions
    expected = Counter(f"{question.question}\n{SHORT_ANSWER_INSTRUCTION}" for question in questions)
    assert count_prompts(server) == expected
    settings: Any = [
        (request.body["temperature"], request.body["max_tokens"], request.image[:2]) for request in server.requests
    ]
    assert set(settings) == {(0.0, 16, b"\xff\xd8")}
    assert evaluation.results[0].model == MODEL
    assert evaluation.slugs == ("openai-double",)
    predictions = read_predictions(tmp_path / "out" / "openai-double")
    assert [prediction.id for prediction in predictions] == [question.id for question in questions]
    assert all(prediction.prediction for prediction in predictions)


def test_an_answer_that_was_cut_counts_as_it_stands_and_a_refused_one_as_none(dataset: str, tmp_path: Path) -> None:
    def fault(request: ModelRequest, _: int) -> Response | None:
        if request.prompt.startswith("How many"):
            return content_response(None, refusal="I would rather not")
        return content_response("red and so", finish="length")

    with OpenAIServer(key=None, fault=fault) as server:
        evaluate(MODEL, dataset, tmp_path / "out", split="train", url=server.url)
    for prediction in read_predictions(tmp_path / "out" / "openai-double"):
        assert prediction.prediction == ("" if prediction.question.startswith("How many") else "red and so")
        assert not prediction.right


def test_overload_and_failures_are_waited_out(dataset: str, tmp_path: Path) -> None:
    def fault(request: ModelRequest, number: int) -> Response | None:
        return {
            2: error_response(429, "slow down", retry_after_s=0.01),
            5: error_response(500, "oh"),
        }.get(number)

    failures: list[str] = []
    with OpenAIServer(key=None, fault=fault) as server:
        evaluate(MODEL, dataset, tmp_path / "out", split="train", url=server.url, on_failure=failures.append)
    assert all(prediction.prediction for prediction in read_predictions(tmp_path / "out" / "openai-double"))
    assert {failure[:3] for failure in failures} == {"429", "500"}


def test_what_was_answered_is_not_asked_again(dataset: str, tmp_path: Path) -> None:
    out, total = tmp_path / "out", len(load_questions(dataset, split="train").questions)
    arguments: dict[str, Any] = {"split": "train", "concurrency": 2}
    with OpenAIServer(key=None) as server:
        with pytest.raises(StoppedEarly, match="budget of 5 requests is used up"):
            evaluate(MODEL, dataset, out, url=server.url, max_requests=5, **arguments)
        assert server.request_count == 5
        assert (
            0
            < plan_evaluation(MODEL, dataset, out, split="train", batch_size=4, url=server.url).models[0].answered
            <= 5
        )
        steps: list[int] = []
        evaluate(
            MODEL, dataset, out, url=server.url, on_progress=lambda answered, _: steps.append(answered), **arguments
        )
        assert server.request_count == total
        assert steps[-1] == total
        evaluate(MODEL, dataset, out, url=server.url, **arguments)
        assert server.request_count == total


def test_the_plan_counts_requests_and_asks_nothing(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "openai:gpt-4o-mini", "openai:my-own", dataset, "--out", str(tmp_path / "out")]
    assert main([*command, "--split", "train", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    total = len(load_questions(dataset, split="train").questions)
    priced, unpriced = plan["models"]
    assert plan["questions"] == priced["requests"] == unpriced["requests"] == total
    assert 0 < priced["cost"] < 0.1
    assert unpriced["cost"] is None
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_not_taken_and_one_that_is_missing_are_told_in_one_line(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        evaluate(MODEL, dataset, tmp_path / "out", split="train")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-secret")
    with OpenAIServer() as server, pytest.raises(TeacherError, match="needs a valid key") as excinfo:
        evaluate(MODEL, dataset, tmp_path / "out", split="train", url=server.url)
    assert "secret" not in str(excinfo.value)
    output = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"secret" not in output


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"url": "http://localhost:1/v1"}, "--url"),
        ({"url": "http://localhost:1/v1", "rpm": 5.0}, "--url and --rpm"),
        ({"concurrency": 4}, "--concurrency"),
        ({"max_cost": 1.0}, "--max-cost"),
        ({"price_in": 0.0}, "--price-in"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_only_a_server_understands_is_refused_for_a_model_that_runs_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], flags: str, dry_run: bool
) -> None:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["evaluate", "a-model", "scenes:1", "--out", str(tmp_path / "out"), *words, *["--dry-run"] * dry_run]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{flags} can only be used with a model on a server, but a-model would run locally: omit it" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["openai:", "openai: "])
def test_a_server_without_a_models_name_is_refused_before_anything_is_written(tmp_path: Path, model: str) -> None:
    with pytest.raises(UsageError, match="openai: has no model name; give openai:NAME"):
        evaluate(model, "scenes:1", tmp_path / "out", url="http://localhost:1/v1")
    assert not (tmp_path / "out").exists()
