"""Checks that the header of the Space's README and its requirements agree with the package."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compact_hf.records import READABLE_RESULTS_SCHEMAS

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
        requirement
        for text in PROJECT["optional-dependencies"]["demo"]
        if (requirement := Requirement(text)).name == "gradio"
    )
    assert gradio.specifier.contains(SpaceCard.load(SPACE / "README.md").data.sdk_version)


def _parse_requirements(text: str) -> dict[str, Requirement]:
    lines = (line.strip() for line in text.splitlines())
    requirements = (Requirement(line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_the_requirement_is_this_package_with_the_extra_that_ask_needs() -> None:
    package = _parse_requirements((SPACE / "requirements.txt").read_text())[canonicalize_name(PROJECT["name"])]
    assert package.specifier.contains(PROJECT["version"])
    assert package.extras == {"eval"}


def test_what_the_package_needs_is_pinned_to_what_the_tests_pass_with() -> None:
    space_requirements = _parse_requirements((SPACE / "requirements.txt").read_text())
    tested = _parse_requirements((REPOSITORY / "constraints.txt").read_text())
    needed = _parse_requirements("\n".join([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["eval"]]))
    pinned = {
        name: str(requirement.specifier)
        for name, requirement in space_requirements.items()
        if name != canonicalize_name(PROJECT["name"])
    }
    assert pinned == {name: str(tested[name].specifier) for name in needed}


def test_the_shipped_results_are_read_by_the_evaluation_of_this_version() -> None:
    for name, models in (("results.json", ["aligned", "tuned"]), ("swapped.json", ["tuned"])):
        results = json.loads((SPACE / name).read_text())
        assert results["schema"] in READABLE_RESULTS_SCHEMAS
        assert [model["model"] for model in results["models"]] == models
