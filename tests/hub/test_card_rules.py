"""Tests that the headers of cards keep the Hub's rules."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from compact_hf.hub import card_rules
from compact_hf.hub.card_rules import read_license_fields, to_identifier
from tests.doubles.hub.card_rules import LICENSES, find_problems

PAGE = "https://huggingface.co/org/base/blob/main"
OWN = {"license": "other", "license_name": "own"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"license": "mit"}, {"license": "mit"}),
        ({"license": ["mit"]}, {"license": "mit"}),
        ({"license": "mit", "license_name": "MIT", "license_link": "LICENSE"}, {"license": "mit"}),
        ({"license": "MIT"}, {"license": "mit"}),
        (
            {"license": "Apache 2"},
            {"license": "other", "license_name": "apache-2", "license_link": f"{PAGE}/README.md"},
        ),
        ({}, {}),
        ({**OWN, "license_link": "LICENSE"}, {**OWN, "license_link": f"{PAGE}/LICENSE"}),
        ({**OWN, "license_link": "https://a.org/terms"}, {**OWN, "license_link": "https://a.org/terms"}),
        (OWN, {**OWN, "license_link": f"{PAGE}/README.md"}),
        (
            {"license": "other", "license_name": "Meta's License/v2 (2026)"},
            {"license": "other", "license_name": "meta-s-license-v2-2026", "license_link": f"{PAGE}/README.md"},
        ),
        (
            {"license": "other"},
            {"license": "other", "license_name": "license-of-the-base-model", "license_link": f"{PAGE}/README.md"},
        ),
        (
            {"license": ["mit", "apache-2.0"]},
            {"license": "other", "license_name": "mit-or-apache-2.0", "license_link": f"{PAGE}/README.md"},
        ),
    ],
)
def test_the_license_of_a_base_has_the_form_that_the_hub_demands(
    header: dict[str, Any], expected: dict[str, str]
) -> None:
    fields = read_license_fields(header, page=PAGE)
    assert fields == expected
    assert find_problems(f"---\n{yaml.safe_dump(fields)}---\n", "model") == []


def test_the_identifiers_of_licenses_are_those_of_the_hub() -> None:
    assert card_rules.LICENSES == LICENSES


def test_a_link_to_a_file_that_stays_at_home_is_left_out() -> None:
    assert read_license_fields({**OWN, "license_link": "LICENSE"}) == OWN


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("org/name", "org/name"),
        ("60 reserved scenes", "60-reserved-scenes"),
        ("Exact match", "exact-match"),
        ("图", ""),
    ],
)
def test_an_identifier_has_no_spaces(text: str, identifier: str) -> None:
    assert to_identifier(text) == identifier


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        ("dataset", "license: own"),
        ("dataset", "license: other"),
        ("dataset", "license: other\nlicense_name: My License"),
        ("dataset", "license: other\nlicense_name: own\nlicense_link: terms.txt"),
        ("dataset", "size_categories: n>10M"),
        ("model", "a: ["),
        ("model", "- a"),
        (
            "model",
            "model-index: [{name: a, results: [{task: {type: a}, dataset: {type: my data, name: b}, metrics: []}]}]",
        ),
        ("space", "sdk: gardio"),
        ("space", "colorFrom: crimson"),
        ("space", f"short_description: {'long ' * 13}"),
    ],
)
def test_the_double_rejects_what_the_hub_rejects(kind: str, header: str) -> None:
    assert len(find_problems(f"---\n{header}\n---\n", kind)) == 1
