"""The Space as it is pushed: its files alone in a folder, started like the Hub starts them, asked by a real client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from compact_hf.release.write import write
from compact_hf.scenes.source import Scenes
from compact_hf.tuning.tiny import build_tiny
from tests.release.samples import rows

REPOSITORY = Path(__file__).parents[2]
SPACE = REPOSITORY / "spaces_demo"


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Client]:
    """Start a copy of the Space in `folder` and yield a client of it."""
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **settings}
    space = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert space.stdout is not None
        told = []
        for line in space.stdout:
            told.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the Space ended before it served anything:\n" + "".join(told))
        yield Client(found[0], verbose=False)
    finally:
        space.terminate()
        space.communicate(timeout=30)


def words(client: Client) -> str:
    """Return every text that the page shows at its start."""
    return " ".join(str(component["props"].get("value", "")) for component in client.config["components"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The Space with nothing set: no key, no network, no model."""
    with running(tmp_path_factory.mktemp("bare") / "space") as client:
        yield client


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The Space over a release and an untrained tiny model."""
    folder = tmp_path_factory.mktemp("furnished")
    write(rows(60), folder / "release", version="1.0.0")
    build_tiny(folder / "model", ["What color is it?", "red"], seed=1)
    settings = {"DATASET_ID": str(folder / "release"), "MODEL_ID": str(folder / "model")}
    with running(folder / "space", **settings) as client:
        yield client


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    path.write_bytes(Scenes(0, 1).read("scene:0"))
    return path


def test_it_starts_on_scenes_and_says_how_to_set_a_model(bare: Client) -> None:
    told = words(bare)
    assert "No model is set" in told
    assert "MODEL_ID" in told
    assert "pictures of scenes drawn here" in told
    assert told.count('class="card"') == 12
    assert "/ask" not in bare.view_api(return_format="dict")["named_endpoints"]


def test_pictures_are_chosen_by_k_and_capability(bare: Client) -> None:
    sheet, told = bare.predict("3", "counting", 1, api_name="/explore")
    found, every = (int(number) for number in re.findall(r"\d+", told)[:2])
    assert 0 < found < every / 3
    assert "k = 3" in sheet
    assert "k = 1" not in sheet
    cards = sheet.split('class="card"')[1:]
    assert len(cards) == min(found, 12)
    assert all(">counting</li>" in card for card in cards)


def test_a_page_beyond_the_last_is_the_last(bare: Client) -> None:
    sheet, told = bare.predict("any", "any", 999, api_name="/explore")
    every, last = (int(re.findall(r"\d+", told)[place]) for place in (1, 3))
    assert last == -(-every // 12)
    assert sheet.count('class="card"') == every - 12 * (last - 1)


def test_pages_do_not_repeat_each_other(bare: Client) -> None:
    pages = [bare.predict("any", "any", number, api_name="/explore")[0] for number in (1, 2)]
    first, second = (set(re.findall(r"scene:\d+(?=</p>)", page)) for page in pages)
    assert len(first) == len(second) == 12
    assert not first & second


def test_a_choice_that_is_not_offered_is_refused(bare: Client) -> None:
    with pytest.raises(AppError, match="not in the list of choices"):
        bare.predict("7", "any", 1, api_name="/explore")


def test_a_data_set_that_cannot_be_read_is_said_and_scenes_are_shown(tmp_path: Path) -> None:
    with running(
        tmp_path / "space", DATASET_ID=str(tmp_path / "nowhere"), MODEL_ID=str(tmp_path / "nothing")
    ) as client:
        told = words(client)
    assert "DATASET_ID cannot be used" in told
    assert "MODEL_ID cannot be used" in told
    assert "pictures of scenes drawn here" in told


def test_a_release_is_shown(furnished: Client) -> None:
    sheet, told = furnished.predict("2", "any", 1, api_name="/explore")
    assert "`" in told
    assert "Question 1 about 1?" in sheet
    assert "answer 1" in sheet


def test_a_model_answers_about_a_picture(furnished: Client, picture: Path) -> None:
    answer = furnished.predict(handle_file(picture), "What color is it?", api_name="/ask")
    assert isinstance(answer, str)
    assert furnished.predict(handle_file(picture), "What color is it?", api_name="/ask") == answer


@pytest.mark.parametrize(("question", "said"), [("a" * 301, "301 characters"), ("  ", "0 characters")])
def test_the_length_of_a_question_is_checked_by_the_server(
    furnished: Client, picture: Path, question: str, said: str
) -> None:
    with pytest.raises(AppError, match=said):
        furnished.predict(handle_file(picture), question, api_name="/ask")


def test_a_file_that_is_no_picture_is_refused(furnished: Client, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(Scenes(0, 1).read("scene:0")[:2000])
    with pytest.raises(AppError, match=r"picture|image|truncated"):
        furnished.predict(handle_file(path), "What color is it?", api_name="/ask")


def test_a_question_without_a_picture_is_refused(furnished: Client) -> None:
    with pytest.raises(AppError, match="There is no picture"):
        furnished.predict(None, "What color is it?", api_name="/ask")


def test_an_upload_over_the_limit_is_refused_by_the_server(furnished: Client) -> None:
    # The Python client would refuse it itself; anyone else need not.
    answer = httpx.post(f"{furnished.src}gradio_api/upload", files={"files": ("large.png", bytes(6_000_000))})
    assert answer.status_code == 413
