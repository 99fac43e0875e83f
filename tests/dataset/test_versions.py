"""Tests parsing and ordering versions, and finding the lowest one that may follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.dataset.diff import Step, Version, highest_version, next_version, parse_version

numbers = st.integers(min_value=0, max_value=99)
versions = st.builds(Version, numbers, numbers, numbers)
STEPS: tuple[Step, ...] = ("patch", "minor", "major")


@given(versions)
def test_what_is_written_is_read_with_and_without_a_v(version: Version) -> None:
    assert parse_version(str(version)) == parse_version(version.tag) == version


@pytest.mark.parametrize("text", ["", "1.0", "1.0.0.0", "1.0.0-rc1", "01.0.0", "vv1.0.0", "1.0.x", " 1.0.0"])
def test_other_texts_are_no_versions(text: str) -> None:
    assert parse_version(text) is None


@given(versions, st.sampled_from(STEPS))
def test_the_lowest_is_above_and_nothing_of_its_step_is_between(version: Version, step: Step) -> None:
    lowest = next_version(version, step)
    assert lowest > version
    index = ("major", "minor", "patch").index(step)
    assert lowest[index] == version[index] + 1
    assert lowest[:index] == version[:index]
    assert set(lowest[index + 1 :]) <= {0}


@given(versions)
def test_a_larger_step_goes_further(version: Version) -> None:
    patch, minor, major = (next_version(version, step) for step in STEPS)
    assert version < patch < minor < major


def test_the_highest_is_by_number_and_of_our_tags_only() -> None:
    assert highest_version(["v1.2.0", "v1.10.0", "2.0.0", "v3", "latest"]) == Version(1, 10, 0)
    assert highest_version(["latest", "2.0.0"]) is None
