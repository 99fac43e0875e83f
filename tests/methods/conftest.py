"""Fixtures: real and tiny images, the result of a run without failures on the tiny ones, and the key of the servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compact_hf.methods.generate import generate
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.methods.runs import PRESETS, hash_release
from tests.teachers.asking import photograph


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import skimage
    import sklearn.datasets

    directory = tmp_path_factory.mktemp("photographs")
    for source_directory in (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"):
        for file in source_directory.iterdir():
            if file.suffix in (".png", ".jpg"):
                shutil.copy(file, directory)
    assert len(list(directory.iterdir())) > 20
    return directory


@pytest.fixture(scope="session")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven of the smallest photographs, for tests that process them many times."""
    directory = tmp_path_factory.mktemp("few")
    for file in sorted(photographs.iterdir(), key=lambda path: path.stat().st_size)[-14:-7]:
        shutil.copy(file, directory)
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tiny images that cost almost no time, for tests of something other than images."""
    directory = tmp_path_factory.mktemp("tiny")
    for number in range(8):
        (directory / f"{number}.jpg").write_bytes(photograph(64 + number))
    return directory


@pytest.fixture(scope="session")
def clean(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The `hash_release` of a run without failures on the tiny images, by preset.

    The verifier refuses three questions in ten, so that there are several rounds. It is to be compared with runs on
    servers with the same `accept_rate`, whatever failures these have.
    """
    directory = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch, GeminiServer(accept_rate=0.7) as server:
        patch.setenv("GEMINI_API_KEY", KEY)
        for preset in PRESETS:
            generate(str(tiny), directory / preset, teacher_url=server.url, preset=preset)
    return {preset: hash_release(directory / preset) for preset in PRESETS}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
