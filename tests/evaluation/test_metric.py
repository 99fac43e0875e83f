"""Tests the `evaluate` metric and its Space: same scores as the package, and loading without the package installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

import compact_hf
from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.scoring import SHORT_ANSWER_RULES, Score
from compact_hf.evaluation.tasks.compact.records import CompactPrediction as Prediction
from compact_hf.records import to_json
from tests import preforked
from tests.doubles.hub.server import HubServer
from tests.evaluation.samples import score
from tests.hub.clients import run_source

METRIC: Final = Path(compact_hf.__file__).parent / "evaluation" / "compact_accuracy"
CLIENT: Final = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("org/compact_accuracy", repo_type="space", space_sdk="gradio")
api.upload_folder(repo_id="org/compact_accuracy", folder_path=sys.argv[1], repo_type="space")
sys.modules["compact_hf"] = None  # importing it fails from now on, as if it were not installed
import evaluate, io, re
from contextlib import redirect_stdout
card = open(sys.argv[1] + "/README.md").read()
snippet = re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1]
with redirect_stdout(io.StringIO()) as printed:
    exec(snippet)
told = {"printed": printed.getvalue(), "promised": re.findall(r"# (.*)", snippet)}
told["doc"] = metric.inputs_description
"""
QUESTIONS: Final = {
    "predictions": ["Red.", "two", "left"],
    "references": ["red", ["two", "pair"], "right"],
    "k": [1, 2, 3],
    "capabilities": [["color"], ["color", "counting"], ["color", "shape", "spatial_relationship"]],
}
ANSWERS: Final = st.sampled_from(("red", "Red.", "two", "2", "left", "a dog", "dogs", "", "red ball"))


@pytest.fixture(scope="module")
def metric() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        if "transformers" not in sys.modules:
            # `evaluate` would import transformers and torch for pipelines, which metrics do not need.
            patch.setitem(sys.modules, "transformers", None)
        import evaluate
    return evaluate.load(str(METRIC), keep_in_memory=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a directory for PYTHONPATH that hides packages which are not installed together with `evaluate`."""
    directory = tmp_path_factory.mktemp("hidden")
    for name in ("compact_hf", "transformers"):
        (directory / f"{name}.py").write_text("raise ImportError('not here')")
    return str(directory)


def make_prediction(k: int, names: tuple[str, ...], answers: tuple[str, ...], prediction: str) -> Prediction:
    return Prediction(
        id="id",
        picture="picture",
        k=k,
        capabilities=names,
        question="Which?",
        answers=answers,
        prediction=prediction,
        right=SHORT_ANSWER_RULES["exact"].is_right(prediction, answers),
    )


predictions = st.lists(
    st.builds(
        make_prediction,
        st.integers(1, 10),
        st.lists(st.sampled_from(sorted(CAPABILITIES)), max_size=4).map(tuple),
        st.lists(ANSWERS, min_size=1, max_size=3).map(tuple),
        ANSWERS,
    ),
    min_size=1,
    max_size=30,
)


def score_dict(result: Score) -> dict[str, Any]:
    return {"accuracy": result.accuracy, "n": result.n, "low": result.low, "high": result.high}


@settings(max_examples=25)
@given(made=predictions)
def test_its_numbers_are_the_librarys(metric: Any, made: list[Prediction]) -> None:
    results = score(made, model="m", dataset="d")
    output = metric.compute(
        predictions=[prediction.prediction for prediction in made],
        references=[
            prediction.answers if len(prediction.answers) > 1 else prediction.answers[0] for prediction in made
        ],
        k=[prediction.k for prediction in made],
        capabilities=[prediction.capabilities for prediction in made],
    )
    assert output == {
        **score_dict(results.overall),
        "by_k": {k: score_dict(k_score) for k, k_score in results.by_k.items()},
        "by_capability": {name: score_dict(name_score) for name, name_score in results.by_capability.items()},
        "answer_rules": ANSWER_RULES_VERSION,
    }
    assert list(output["by_capability"]) == list(results.by_capability)


def test_what_is_copied_is_the_same() -> None:
    source = Path(compact_hf.__file__).parent / "answers.py"
    assert (METRIC / "answers.py").read_bytes() == source.read_bytes(), f"copy it again: cp {source} {METRIC}"
    readme = (METRIC / "README.md").read_text(encoding="utf-8")
    assert f"now `{ANSWER_RULES_VERSION}`" in readme
    assert f"rules of version {ANSWER_RULES_VERSION}" in readme
    match = re.search(r"^CAPABILITIES = \((.*?)\)", (METRIC / "compact_accuracy.py").read_text(), re.DOTALL | re.M)
    assert match is not None
    assert re.findall(r'"(\w+)"', match[1]) == list(CAPABILITIES)


def test_it_takes_questions_one_by_one_and_in_batches(metric: Any) -> None:
    whole = metric.compute(**QUESTIONS)
    first = {name: column[0] for name, column in QUESTIONS.items() if name not in ("predictions", "references")}
    metric.add(prediction="Red.", reference="red", **first)
    metric.add_batch(**{name: column[1:] for name, column in QUESTIONS.items()})
    assert metric.compute() == whole
    assert (whole["accuracy"], whole["n"], list(whole["by_k"])) == (pytest.approx(2 / 3), 3, [1, 2, 3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"k": [1, 2]},
            "got 3 predictions, 3 references, 2 k, 3 capabilities; give one entry per question in each of them",
        ),
        ({"predictions": None}, "missing: predictions; give"),
        ({"k": None, "capabilities": None}, "missing: k, capabilities; give"),
        ({name: [] for name in QUESTIONS}, "got no questions"),
        ({"k": [1, 2, 11]}, r"k\[2\] is 11; give the number of capabilities .* 1 to 10"),
        ({"k": [0, 2, 3]}, r"k\[0\] is 0;"),
        ({"k": [1, True, 3]}, r"k\[1\] is True;"),
        ({"k": [1, 2, 3.0]}, r"k\[2\] is 3.0;"),
        ({"k": [1, 2, None]}, r"k\[2\] is None;"),
        (
            {"capabilities": [["colour"], [], []]},
            r"capabilities\[0\] has the unknown name 'colour'; give names from color, .*mean color\?",
        ),
        ({"capabilities": ["color"] * 3}, r"capabilities\[0\] is 'color'; give a list of capability names"),
        ({"predictions": ["red", 2, "left"]}, r"predictions\[1\] is 2; give a string"),
        ({"predictions": "red"}, "predictions is 'red'; give a list"),
        ({"references": ["red", [], "right"]}, r"references\[1\] is \[\]; give a right answer as a string, or"),
        ({"references": ["red", [None], "right"]}, r"references\[1\]\[0\] is None; give a string"),
    ],
)
def test_bad_input_is_told_in_one_line_and_not_kept(metric: Any, wrong: dict[str, Any], message: str) -> None:
    inputs = {**QUESTIONS, **wrong}
    with pytest.raises(ValueError, match=message) as excinfo:
        metric.add_batch(**inputs)
    assert "\n" not in str(excinfo.value)
    if inputs["k"] is not None:
        with pytest.raises(ValueError, match=message):
            metric.compute(**inputs)
    assert metric.compute(**QUESTIONS)["n"] == 3


def test_the_evaluate_library_loads_it_from_the_hub_where_our_package_is_not(tmp_path: Path, bare: str) -> None:
    with HubServer() as server:
        # `evaluate` reports downloads to another server than the Hub.
        settings = {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "PYTHONPATH": bare}
        result = run_source(server, CLIENT, METRIC, home=tmp_path, popen=subprocess.Popen, **settings)
        paths = [
            request.path
            for request in server.requests
            if "/resolve/" in request.path and request.path.startswith("/spaces/")
        ]
    assert result["printed"].splitlines() == result["promised"]
    assert "references (`list[str | list[str]]`)" in result["doc"]
    prefix = "/spaces/org/compact_accuracy/resolve/main/"
    assert {prefix + "compact_accuracy.py", prefix + "answers.py"} <= set(paths)


def test_the_header_is_one_that_the_hub_and_its_list_of_metrics_take() -> None:
    data = SpaceCard.load(METRIC / "README.md").data
    assert (data.sdk, data.sdk_version, data.tags) == ("gradio", "6.31.0", ["evaluate", "metric"])
    assert (METRIC / data.app_file).is_file()
    assert len(data.to_dict()["short_description"]) <= 60
    requirements = {
        Requirement(line).name: Requirement(line) for line in (METRIC / "requirements.txt").read_text().split()
    }
    assert set(requirements) == {"datasets", "evaluate"}
    assert all(requirement.specifier.contains(version(name)) for name, requirement in requirements.items())


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, bare: str) -> Iterator[Client]:
    """Start the Space as the Hub does: from a copy of its directory, without compact_hf installed."""
    directory = tmp_path_factory.mktemp("space")
    for path in METRIC.iterdir():
        if path.is_file():
            (directory / path.name).write_bytes(path.read_bytes())
    process = preforked.Popen(
        [sys.executable, "app.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": bare, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the Space ended before it served anything:\n" + "".join(output))
        yield Client(match[0], verbose=False)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def read_example(client: Client) -> str:
    """Return the initial contents of the text box."""
    (textbox,) = (component for component in client.config["components"] if component["type"] == "textbox")
    return str(textbox["props"]["value"])


def test_the_page_scores_its_own_example(space: Client) -> None:
    table = space.predict(read_example(space), None, api_name="/score")
    assert table["headers"] == ["questions", "n", "accuracy", "95% interval"]
    assert table["data"][0] == ["all", 4, "0.750", "0.301 to 0.954"]
    assert [row[0] for row in table["data"]][1:4] == ["k = 1", "k = 2", "k = 3"]
    texts = [str(component["props"].get("value", "")) for component in space.config["components"]]
    assert any(f"version {ANSWER_RULES_VERSION} of the rules" in " ".join(text.split()) for text in texts)


def test_the_page_takes_the_predictions_that_compact_evaluate_writes(space: Client, tmp_path: Path) -> None:
    predictions = [
        make_prediction(k, ("color",), ("red", "crimson"), "Crimson" if k % 2 else "blue") for k in (1, 1, 2)
    ]
    path = tmp_path / "predictions.jsonl"
    # With a byte order mark, and a line separator within a string, which does not end a line.
    lines = "".join(f"{to_json(replace(prediction, question=chr(0x2028)))}\n" for prediction in predictions)
    path.write_text(lines, encoding="utf-8-sig")
    table = space.predict("", handle_file(path), api_name="/score")
    assert [row[:3] for row in table["data"]] == [
        ["all", 3, "0.667"],
        ["k = 1", 2, "1.000"],
        ["k = 2", 1, "0.000"],
        ["color", 3, "0.667"],
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "got no questions"),
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 is not a JSON object; every line needs prediction, answers, k, capabilities"),
        ('\n{"prediction": "red", "k": 1}', "line 2 lacks answers, capabilities"),
        (json.dumps({"prediction": "a", "answers": ["a"], "k": 12, "capabilities": []}), "k[0] is 12"),
    ],
)
def test_the_page_says_what_is_wrong_and_goes_on(space: Client, lines: str, message: str) -> None:
    with pytest.raises(AppError, match=re.escape(message)):
        space.predict(lines, None, api_name="/score")
    assert space.predict(read_example(space), None, api_name="/score")["data"]
