"""Real photographs, from the wheels of scikit-image and scikit-learn, and the key that the local server takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compact_hf.testing.model import KEY


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import skimage
    import sklearn.datasets

    folder = tmp_path_factory.mktemp("photographs")
    for shipped in (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"):
        for file in shipped.iterdir():
            if file.suffix in (".png", ".jpg"):
                shutil.copy(file, folder)
    assert len(list(folder.iterdir())) > 20
    return folder


@pytest.fixture(scope="session")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven lightest of them, for tests that go over them again and again."""
    folder = tmp_path_factory.mktemp("few")
    for file in sorted(photographs.iterdir(), key=lambda path: path.stat().st_size)[-14:-7]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
