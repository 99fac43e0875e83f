"""Tests that each command that reads from the Hub reports offline mode, without mentioning publishing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compact_hf import diff, export, show, validate
from compact_hf.errors import HubError


@pytest.mark.parametrize(
    "read",
    [
        lambda out: diff("org/compact", "org/compact@v1.0.0"),
        lambda out: export("org/compact", out, format="llava"),
        lambda out: show("org/compact", out),
        lambda out: validate("org/compact"),
    ],
    ids=["diff", "export", "show", "validate"],
)
def test_a_repository_wants_the_hub(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(
        HubError, match=r"^org/compact(@main)? is not in the cache, and HF_HUB_OFFLINE is set: unset it"
    ):
        read(tmp_path / "out")
    assert not (tmp_path / "out").exists()
