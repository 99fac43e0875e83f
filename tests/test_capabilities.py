from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES, GROUPS, NEEDED_RULE, canonicalize, describe_capabilities
from compact_hf.errors import UnknownCapabilityError, UsageError

names = st.sampled_from(list(CAPABILITIES))


def test_the_ten_of_the_paper_in_its_groups() -> None:
    groups = {
        group: [name for name, capability in CAPABILITIES.items() if capability.group == group] for group in GROUPS
    }
    assert groups == {
        "attribution": ["color", "shape"],
        "recognition": [
            "object_recognition",
            "action_recognition",
            "text_recognition",
            "spatial_recognition",
            "counting",
        ],
        "relation": ["spatial_relationship", "object_interaction", "scene_understanding"],
    }


def test_what_teachers_are_told_is_golden(golden: Callable[[str, str], None]) -> None:
    """This text is part of every prompt: changing it changes the data, and needs a new preset version."""
    golden("capabilities.txt", f"{describe_capabilities()}\n\n{NEEDED_RULE}\n")


@given(st.lists(names))
def test_canonical_order_depends_on_nothing_but_the_set(some: list[str]) -> None:
    ordered = canonicalize(some)
    assert ordered == canonicalize(reversed(some)) == canonicalize(ordered)
    assert set(ordered) == set(some)
    assert len(ordered) == len(set(some))
    assert ordered == tuple(name for name in CAPABILITIES if name in some)


@given(st.lists(names, unique=True))
def test_described_gives_one_line_each_in_the_order_asked(some: list[str]) -> None:
    lines = describe_capabilities(some).splitlines()
    assert [line.split(":")[0].removeprefix("- ") for line in lines] == some


def test_unknown_names_are_told_with_the_ten() -> None:
    with pytest.raises(
        UnknownCapabilityError, match=r"unknown capability 'colour'; the ten are color, shape, "
    ) as excinfo:
        canonicalize(["color", "colour"])
    assert excinfo.value.name == "colour"
    assert excinfo.value.allowed == tuple(CAPABILITIES)
    assert isinstance(excinfo.value, UsageError)
