"""Workflows have no more rights than they need, only a tag publishes, and the issue forms are complete."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from tests.readme import ROOT

FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
WORKFLOWS = {path.name: path for path in (ROOT / ".github" / "workflows").iterdir()}


def read(name: str) -> dict[str, Any]:
    # GitHub reads YAML 1.2, in which `on` is no truth value.
    workflow: dict[str, Any] = yaml.load(WORKFLOWS[name].read_text(encoding="utf-8"), yaml.BaseLoader)
    return workflow


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_reads_the_repository_and_knows_no_secret(name: str) -> None:
    assert read(name)["permissions"] == {"contents": "read"}
    assert not re.search(r"\$\{\{[^}]*(secrets|github\.token)", WORKFLOWS[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_every_action_has_a_version(name: str) -> None:
    actions = [step["uses"] for step in steps(name) if "uses" in step]
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@((release/)?v\d+(\.\d+)*|[0-9a-f]{40})", action), action


def test_the_tests_run_on_every_python_that_the_package_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert read("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
    assert project["requires-python"] == f">={declared[0]}"


def test_nothing_but_the_tag_of_a_version_publishes() -> None:
    assert read("publish.yml")["on"] == {"push": {"tags": ["v*"]}}


def test_the_release_check_builds_what_is_published() -> None:
    jobs = read("publish.yml")["jobs"]
    commands = [shlex.split(step["run"]) for step in jobs["build"]["steps"] if "run" in step]
    assert commands[-1] == ["python", ".ci/release_check.py"]
    (upload,) = (step["with"] for step in jobs["build"]["steps"] if "upload-artifact" in step.get("uses", ""))
    download, publish = jobs["publish"]["steps"]
    assert jobs["publish"]["needs"] == "build"
    assert download["uses"].startswith("actions/download-artifact@")
    assert (download["with"]["name"], download["with"]["path"]) == (upload["name"], upload["path"])
    assert publish["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in publish  # no password, and attestations as they are by default


def test_the_upload_is_by_a_trusted_publisher() -> None:
    jobs = read("publish.yml")["jobs"]
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in jobs["build"]


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_has_what_github_needs_to_show_it(name: str) -> None:
    form = yaml.safe_load((FORMS / name).read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert all(item["attributes"]["label"] for item in fields)
    assert len({item["id"] for item in fields}) == len(fields) > 0


def test_vulnerabilities_are_reported_in_private() -> None:
    (link,) = yaml.safe_load((FORMS / "config.yml").read_text(encoding="utf-8"))["contact_links"]
    assert f"({link['url']})" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_a_version_is_published_only_after_the_tests() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("test", "build")
