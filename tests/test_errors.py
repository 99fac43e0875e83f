from __future__ import annotations

import inspect
import re

import pytest

from compact_hf import errors
from compact_hf.errors import CompactError, SettingsMismatchError, StoppedEarly, UsageError

TREE = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


def test_the_drawn_tree_is_the_real_one() -> None:
    documented: dict[str, str] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │├└─]*)([A-Z]\w+)(?=\s{2,}|$)", line)
        if match:
            depth = (len(match[1]) - 4) // 4
            ancestors[depth:] = [match[2]]
            documented[match[2]] = ancestors[depth - 1] if depth else "Exception"
    assert documented == {name: kind.__bases__[0].__name__ for name, kind in TREE.items()}


@pytest.mark.parametrize("name", TREE)
def test_exit_statuses_are_those_of_the_command_line(name: str) -> None:
    kind = TREE[name]
    expected = 2 if issubclass(kind, UsageError) else 3 if issubclass(kind, StoppedEarly) else 1
    assert kind.exit_status == expected


def test_another_run_is_told_in_one_line_with_what_differs() -> None:
    error = SettingsMismatchError("runs/one", {"seed": (1, 2), "preset": ("paper", "efficient")})
    assert "seed was 1, now 2; preset was 'paper', now 'efficient'" in str(error)
    assert "runs/one" in str(error)
    assert "\n" not in str(error)
    assert error.differences["seed"] == (1, 2)
    assert isinstance(error, CompactError)
