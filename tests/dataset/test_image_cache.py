"""What assembly decodes it decodes once, whatever comes between."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.image_similarity import FILE_NAME, FingerprintReader, ImageCache
from compact_hf.errors import JournalError, ReleaseError
from compact_hf.images import codec
from compact_hf.methods.compact.generate import generate

from .samples import contents, item, picture, row


def seen_of(seen: ImageCache, items: list[str], look: Callable[[str], str] = str.upper) -> list[tuple[str, str | None]]:
    return list(seen.iter_inspected(items, lambda one: one or None, look))


def test_what_was_seen_is_not_looked_at_again_and_others_are(tmp_path: Path) -> None:
    looked: list[str] = []

    def look(one: str) -> str:
        looked.append(one)
        return one.upper()

    items = [f"picture {number}" for number in range(100)]
    assert list(ImageCache(tmp_path).iter_inspected(items, str, lambda one: None)) == [(one, None) for one in items]
    expected = [(one, one.upper()) for one in items]
    assert seen_of(ImageCache(tmp_path), items[:50], look) == expected[:50]
    assert seen_of(ImageCache(tmp_path), [*items, ""], look) == [*expected, ("", None)]
    assert sorted(looked) == sorted(items)


def test_what_was_seen_before_a_failure_is_kept(tmp_path: Path) -> None:
    def fail_at_60(one: str) -> str:
        if one == "60":
            raise ReleaseError("gone")
        return one

    items = [str(number) for number in range(100)]
    with pytest.raises(ReleaseError):
        seen_of(ImageCache(tmp_path), items, fail_at_60)
    looked: list[str] = []
    seen_of(ImageCache(tmp_path), items, lambda one: (looked.append(one), one)[1])
    assert len(looked) < 60


def test_looks_are_taken_side_by_side() -> None:
    """Two wait for each other: one after the other they would wait for ever."""
    both = threading.Barrier(2)
    list(
        ImageCache().iter_inspected(
            [f"{number}" for number in range(16)], str, lambda one: str(both.wait(60) if one in "08" else 0)
        )
    )


def test_where_nothing_can_be_written_looks_are_in_memory(tmp_path: Path) -> None:
    assert seen_of(ImageCache(tmp_path / "nowhere"), ["a"]) == seen_of(ImageCache(), ["a"]) == [("a", "A")]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match=r"cannot be used .* delete it: it only saves time"):
        seen_of(ImageCache(tmp_path), ["a"])


def test_a_picture_that_was_changed_is_not_kept_as_what_it_was(tmp_path: Path) -> None:
    changed = row(1, data=picture(1))
    other = replace(changed, read_image=lambda: picture(2))
    with pytest.raises(ReleaseError, match="has changed since it was asked about"):
        list(FingerprintReader(ImageCache(tmp_path)).iter_fingerprints([other]))
    ((_, look),) = FingerprintReader(ImageCache(tmp_path)).iter_fingerprints([changed])
    assert look is not None
    assert changed.image_id in look.ids


def test_assembling_again_decodes_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that needs pictures decoded: the instruction part, and the comparison of the splits."""
    generate("scenes:30", tmp_path / "run")
    (tmp_path / "pool").mkdir()
    for number in range(40):
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(picture(number))
    items = [item(number, image=f"{number}.jpg") for number in range(40)]
    (tmp_path / "pool" / "llava.json").write_text(json.dumps(items))

    def assembled(out: str) -> dict[str, bytes]:
        options = {"instruction": tmp_path / "pool" / "llava.json", "instruction_fraction": 1.0, "group_similar": 4}
        assemble(tmp_path / "run", tmp_path / out, version="1.0.0", max_similarity=1, **options)  # type: ignore[arg-type]
        return contents(tmp_path / out)

    decoded: list[object] = []
    loaded = codec.decode
    monkeypatch.setattr("compact_hf.images.inspection.decode", lambda *a, **o: (decoded.append(a), loaded(*a, **o))[1])
    monkeypatch.setattr("compact_hf.images.phash.decode", lambda *a, **o: (decoded.append(a), loaded(*a, **o))[1])
    first = assembled("first")
    assert len(decoded) > 60
    decoded.clear()
    assert assembled("again") == first
    assert decoded == []
    touched = tmp_path / "pool" / "7.jpg"
    touched.write_bytes(picture(1007))
    os.utime(touched, ns=(1, 1))
    assert assembled("changed") != first
    assert 0 < len(decoded) <= 2
