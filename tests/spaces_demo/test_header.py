"""The Space's header and requirements agree with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
SPACE = REPOSITORY / "spaces_demo"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_the_header_is_one_that_the_hub_takes() -> None:
    data = SpaceCard.load(SPACE / "README.md").data
    assert data.sdk == "gradio"
    assert (SPACE / data.app_file).is_file()
    assert len(data.title) <= 60
    assert len(data.to_dict()["short_description"]) <= 60


def test_gradio_is_the_version_that_the_package_asks_for() -> None:
    (gradio,) = (
        one for text in PROJECT["optional-dependencies"]["demo"] if (one := Requirement(text)).name == "gradio"
    )
    assert gradio.specifier.contains(SpaceCard.load(SPACE / "README.md").data.sdk_version)


def test_the_requirement_is_this_package_with_the_extra_that_ask_needs() -> None:
    requirement = Requirement((SPACE / "requirements.txt").read_text().strip())
    assert requirement.name == PROJECT["name"]
    assert requirement.specifier.contains(PROJECT["version"])
    assert requirement.extras == {"eval"}
