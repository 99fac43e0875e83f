"""Tests the functions of the Space through its API, with Gradio's client."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.responses import Response

from compact_hf.answers import same_answer
from compact_hf.dataset.writer import write_dataset
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.scenes.source import SceneSource
from compact_hf.testing.gemini import GeminiServer, error_response
from tests import preforked
from tests.dataset.samples import make_rows
from tests.spaces_demo.conftest import (
    REPOSITORY,
    SPACE,
    VISITORS_KEY,
    Gate,
    RunningSpace,
    page_texts,
    read_error,
    run_space,
)

SCENE, OWN = "A drawn scene", "My own image, with Gemini"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSpace]:
    """The Space with a dataset and a full model, a time limit of 0 seconds, and results that cannot be read."""
    directory = tmp_path_factory.mktemp("furnished")
    write_dataset(make_rows(60), directory / "release", sources=("compact",), version="1.0.0")
    copy_aligned(directory / "model")
    settings = {"DATASET_ID": str(directory / "release"), "MODEL_ID": str(directory / "model")}
    more_settings = {"ANSWER_SECONDS": "0", "RESULTS": str(directory / "nothing.json")}
    with run_space(directory / "running", **settings, **more_settings) as space:
        yield space


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSpace]:
    """The Space with a dataset and models that do not exist, and results with a control of another model."""
    directory = tmp_path_factory.mktemp("misled")
    results = (SPACE / "results.json").read_text()
    (directory / "results.json").write_text(results.replace('"model": "tuned"', '"model": "nothing on nobody"'))
    shutil.copy(SPACE / "swapped.json", directory)
    settings = {"DATASET_ID": str(directory / "nowhere"), "ADAPTER_ID": str(directory / "nothing")}
    more_settings = {"MODEL_ID": str(directory / "nobody"), "RESULTS": str(directory)}
    with run_space(directory / "running", **settings, **more_settings) as space:
        yield space


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    path.write_bytes(SceneSource(0, 4).read("scene:3"))
    return path


def read_answers(page: str) -> list[str]:
    """Return the texts of the answers on a page of the tab Ask."""
    return re.findall(r'<p class="text[^"]*">(.*?)</p>', page)


def test_both_models_are_asked_side_by_side_and_their_answers_grow(space: RunningSpace, picture: Path) -> None:
    *before, last = space.client.submit(handle_file(picture), "What color is the cat?", api_name="/ask")
    assert re.findall("<h3>(.*?)</h3>", last) == ["Before tuning", "After tuning"]
    first_answer, second_answer = read_answers(last)
    assert first_answer != second_answer
    assert "Answered in" in last
    assert any(len(read_answers(page)[0]) < len(first_answer) for page in before)


@pytest.mark.parametrize(
    ("question", "right_answer"),
    [
        # An example, another question about its scene, one that has no single answer, and one of no known form.
        ("What color is the fridge?", "orange"),
        ("What color is the crab in the foreground?", "yellow"),
        ("What color is the penguin?", None),
        ("Is this art?", None),
    ],
)
def test_questions_about_examples_are_marked_if_their_answer_is_known(
    space: RunningSpace, tmp_path: Path, question: str, right_answer: str | None
) -> None:
    path = tmp_path / "fridge.png"
    path.write_bytes(SceneSource(0, 1).read("scene:1000000053"))
    page = space.client.predict(handle_file(path), question, api_name="/ask")
    answers, marks = read_answers(page), re.findall(r"</span> (right|wrong)</p>", page)
    if right_answer is None:
        assert "not known here" in page
        assert not marks
    else:
        assert f"<strong>{right_answer}</strong>" in page
        assert marks == ["right" if same_answer(answer, right_answer) else "wrong" for answer in answers]


def test_the_page_says_who_answers_and_what_becomes_of_pictures(space: RunningSpace) -> None:
    texts = page_texts(space.client)
    assert "the tiny student that ships" in texts
    assert "stay on this machine" in texts


def test_pictures_are_chosen_by_k_and_capability(space: RunningSpace) -> None:
    sheet, summary, *_ = space.client.predict("3", "counting", 1, api_name="/explore")
    matching, total = (int(number) for number in re.findall(r"\d+", summary)[:2])
    assert 0 < matching < total / 3
    assert "Needs 3 capabilities" in sheet
    assert "Needs 1 capability" not in sheet
    cards = sheet.split('class="card"')[1:]
    assert len(cards) == min(matching, 12)
    assert all(' chosen"' in card and ">counting</li>" in card for card in cards)


def test_a_page_beyond_the_last_is_the_last(space: RunningSpace) -> None:
    sheet, summary, upper_number, lower_number = space.client.predict("any", "any", 999, api_name="/explore")
    total, last = (int(re.findall(r"\d+", summary)[index]) for index in (1, 3))
    assert upper_number == lower_number == last == -(-total // 12)
    assert sheet.count('class="card"') == total - 12 * (last - 1)


def test_pages_do_not_repeat_each_other(space: RunningSpace) -> None:
    pages = [space.client.predict("any", "any", number, api_name="/explore")[0] for number in (1, 2)]
    first, second = (set(re.findall(r'href="\?scene=(\d+)"', page)) for page in pages)
    assert len(first) == len(second) == 12
    assert not first & second


def test_a_choice_that_is_not_offered_is_refused(space: RunningSpace) -> None:
    assert "Input should be 'any', '1'" in read_error(space.call("explore", "7", "any", 1))


def test_a_scene_is_asked_about_step_by_step_and_accepted(space: RunningSpace) -> None:
    job = space.client.submit(["color", "counting"], SCENE, 7, False, None, "", api_name="/compose")
    *pages, last = list(job)
    assert all(page.count('<li class="step') == 5 for page in pages)
    assert [len(re.findall(r'class="step (?:done|passed)"', page)) for page in pages] == [0, 1, 2, 3, 4, 5]
    assert [page.count('class="step running"') for page in pages] == [1, 1, 1, 1, 1, 0]
    assert "Accepted" in last
    assert "one that needs 2 capabilities (k = 2)" in last


@pytest.mark.parametrize(
    ("capabilities", "seed"), [(["color", "counting"], 7), (["color"], 0), (["object_recognition", "shape"], 1)]
)
def test_a_planted_mistake_passes_the_filters_and_is_found_by_the_verifier(
    space: RunningSpace, capabilities: list[str], seed: int
) -> None:
    page = space.client.predict(capabilities, SCENE, seed, True, None, "", api_name="/compose")
    assert re.findall(r'class="step (\w+)"', page) == ["done", "passed", "done", "failed", "later"]
    (*needs, (aspect, wrong, right, state)) = re.findall(
        r'<th scope="row">(.+?)</th><td>(.+?)</td><td>(.+?)</td><td>(.+?)</td>', page
    )
    assert [need[1:] for need in needs] == [("yes", "yes", "same")] * len(capabilities)
    assert (aspect, state) == ("answer", "differs")
    assert wrong != right
    assert f"found the planted mistake: the right answer is {right}." in page
    assert "counted as “answer not confirmed”" in page
    assert "scenes" not in page  # the name of the teacher on the command line


def test_what_a_scene_does_not_support_is_declined_with_a_hint(space: RunningSpace) -> None:
    everything = ["object_interaction", "text_recognition", "scene_understanding"]
    pages = (space.client.predict(everything, SCENE, seed, False, None, "", api_name="/compose") for seed in range(30))
    declined = next(page for page in pages if "finds no such question" in page)
    assert "This scene supports, for example" in declined


def test_ones_own_picture_goes_to_gemini_with_ones_own_key(
    space: RunningSpace, gemini: GeminiServer, picture: Path
) -> None:
    request_count = len(gemini.requests)
    page = space.client.predict(["color"], OWN, 0, False, handle_file(picture), VISITORS_KEY, api_name="/compose")
    assert "Written by gemini-3.8-flash-double" in page
    assert len(gemini.requests) == request_count + 3


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (
            error_response(400, "INVALID_ARGUMENT", "API key not valid.", reason="API_KEY_INVALID"),
            "refuses the API key",
        ),
        (error_response(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", quota=("RequestsPerDay", 250)), "daily quota"),
        (error_response(503, "UNAVAILABLE", "The model is overloaded."), "try again in a minute"),
    ],
    ids=["wrong key", "used up for today", "overloaded"],
)
def test_why_gemini_writes_nothing_is_said_in_the_step_and_to_clients(
    space: RunningSpace, gate: Gate, picture: Path, response: Response, said: str
) -> None:
    log_length = len(space.log())
    with gate.answering(response):
        job = space.client.submit(["color"], OWN, 0, False, handle_file(picture), VISITORS_KEY, api_name="/compose")
        with pytest.raises(AppError, match=said):
            job.result()
    assert re.search(rf'class="step failed">.*?{said}', job.outputs()[-1], re.DOTALL)
    assert "Traceback" not in space.log()[log_length:]


def test_a_picture_without_a_key_asks_nobody(space: RunningSpace, gemini: GeminiServer, picture: Path) -> None:
    request_count = len(gemini.requests)
    with pytest.raises(AppError, match="both needed"):
        space.client.predict(["color"], OWN, 0, False, handle_file(picture), "", api_name="/compose")
    assert len(gemini.requests) == request_count


def test_results_show_accuracy_by_k_and_the_papers_table(space: RunningSpace) -> None:
    page = space.client.predict(api_name="/results")
    assert re.search(r"marked by version \d+ of the rule exact", page)
    (before, after), (swapped,) = (
        [model["overall"] for model in json.loads((SPACE / name).read_text())["models"]]
        for name in ("results.json", "swapped.json")
    )
    assert re.findall("<dt>(.*?)</dt><dd>(.*?)%", page) == [
        ("Before tuning", f"{before['accuracy']:.1%}"[:-1]),
        ("After tuning", f"{after['accuracy']:.1%}"[:-1]),
        ("Swapped images", f"{swapped['accuracy']:.1%}"[:-1]),
        ("Majority answer", f"{after['majority']['accuracy']:.1%}"[:-1]),
    ]
    assert "Scores of the paper, not of this Space" in page
    assert page.count("<svg") == 2
    assert "97.1" in page
    assert re.search(r"COMPACT</th>.*100\.2", page)


def test_a_release_is_shown_with_links_to_its_rows(furnished: RunningSpace) -> None:
    sheet, summary, *_ = furnished.client.predict("2", "any", 1, api_name="/explore")
    assert "`release`" in summary
    assert "Question 1 about 1?" in sheet
    assert "answer 1" in sheet
    assert re.search(r'href="\?row=.*>Open this image alone<', sheet)


def test_a_whole_model_answers_alone_and_is_stopped_when_it_takes_too_long(
    furnished: RunningSpace, picture: Path
) -> None:
    page = furnished.client.predict(handle_file(picture), "What color is the cat?", api_name="/ask")
    assert not re.search("before tuning|ask both", page_texts(furnished.client), re.IGNORECASE)
    (answer,) = read_answers(page)
    assert answer
    assert "<h3>The model</h3>" in page
    assert "stopped at the time limit" in page


def test_results_that_cannot_be_read_are_said_and_the_table_stays(furnished: RunningSpace) -> None:
    page = furnished.client.predict(api_name="/results")
    assert "cannot be read" in page
    assert "ICONS" in page
    assert str(furnished.directory.parent) not in page
    assert "nothing.json" in furnished.log()


def test_settings_that_cannot_be_used_are_told_without_paths_and_scenes_are_shown(
    misled: RunningSpace, picture: Path
) -> None:
    texts = page_texts(misled.client)
    assert "dataset of this Space cannot be read" in texts
    assert "images (scenes drawn by this Space)" in texts
    with pytest.raises(AppError, match=r"cannot be loaded \(see the log of the Space\)") as excinfo:
        misled.client.predict(handle_file(picture), "What color is the cat?", api_name="/ask")
    for name in ("nowhere", "nothing"):
        assert str(misled.directory.parent / name) not in texts + str(excinfo.value)
    assert "nowhere" in misled.log()
    assert "nothing" in misled.log()


def test_results_of_other_models_keep_their_names_and_those_on_a_given_base_are_the_adapters(
    misled: RunningSpace,
) -> None:
    page = misled.client.predict(api_name="/results")
    assert re.findall("<dt>(.*?)</dt>", page) == ["Aligned", "After tuning", "Majority answer"]
    assert "the control of RESULTS cannot be used: swapped.json has other models" in misled.log()


READ_SERIES = """
import json, sys
from pathlib import Path
from results import read_series
print(json.dumps([[one.name for one in read_series(Path(path), {})] for path in sys.argv[1:]]))
"""


def test_results_of_other_questions_or_rules_are_not_in_one_chart(tmp_path: Path) -> None:
    # Directory -> the file that is changed, the number of the model, the changed values, and what is shown.
    aligned, tuned, swapped = "aligned", "tuned", "swapped images"
    cases: dict[str, tuple[str, int, dict[str, Any], list[str]]] = {
        "unchanged": ("swapped.json", 0, {}, [aligned, tuned, swapped]),
        "control of version 1": ("swapped.json", 0, {"matching_version": "1"}, [aligned, tuned]),
        "control of another rule": ("swapped.json", 0, {"matching": "relaxed"}, [aligned, tuned]),
        "control of other questions": ("swapped.json", 0, {"by_k": {"1": {"n": 3}}}, [aligned, tuned]),
        "second control of another model": ("swapped.json", 1, {"model": "other"}, [aligned, tuned]),
        "model of another version": ("results.json", 1, {"matching_version": "1"}, []),
        "model of other questions": ("results.json", 1, {"by_k": {"1": {"n": 3}}}, []),
    }
    for directory, (name, number, changes, _) in cases.items():
        (tmp_path / directory).mkdir()
        for file in ("results.json", "swapped.json"):
            results = json.loads((SPACE / file).read_text())
            if file == name:
                results["models"][number:] = [results["models"][-1] | changes]
            (tmp_path / directory / file).write_text(json.dumps(results))
    done = preforked.run(
        [sys.executable, "-c", READ_SERIES, *(str(tmp_path / directory / "results.json") for directory in cases)],
        env={**os.environ, "PYTHONPATH": f"{SPACE}{os.pathsep}{REPOSITORY}"},
    )
    assert done.returncode == 0, done.stderr
    assert dict(zip(cases, json.loads(done.stdout), strict=True)) == {name: case[-1] for name, case in cases.items()}
    assert done.stderr.count("swapped.json has other models, questions or rules than the results.json") == 4
    assert done.stderr.count("the models in results.json answered other questions or were marked by other rules") == 2


def test_a_client_sees_four_calls_and_no_more(space: RunningSpace) -> None:
    named = Client(space.url, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(named) == ["/ask", "/compose", "/explore", "/results"]
