"""Tests that assembly decodes each image only once, even after a kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.image_similarity import FILE_NAME, FingerprintCache, FingerprintReader
from compact_hf.errors import JournalError, ReleaseError
from compact_hf.images import codec
from compact_hf.methods.generate import generate

from .samples import contents, make_image, make_item, make_row


def inspect_all(
    cache: FingerprintCache, items: list[str], inspect: Callable[[str], str] = str.upper
) -> list[tuple[str, str | None]]:
    return list(cache.iter_cached(items, lambda item: item or None, inspect))


def test_what_was_seen_is_not_looked_at_again_and_others_are(tmp_path: Path) -> None:
    inspected: list[str] = []

    def inspect(item: str) -> str:
        inspected.append(item)
        return item.upper()

    items = [f"picture {number}" for number in range(100)]
    assert list(FingerprintCache(tmp_path).iter_cached(items, str, lambda item: None)) == [
        (item, None) for item in items
    ]
    expected = [(item, item.upper()) for item in items]
    assert inspect_all(FingerprintCache(tmp_path), items[:50], inspect) == expected[:50]
    assert inspect_all(FingerprintCache(tmp_path), [*items, ""], inspect) == [*expected, ("", None)]
    assert sorted(inspected) == sorted(items)


def test_what_was_seen_before_a_failure_is_kept(tmp_path: Path) -> None:
    def fail_at_60(item: str) -> str:
        if item == "60":
            raise ReleaseError("gone")
        return item

    items = [str(number) for number in range(100)]
    with pytest.raises(ReleaseError):
        inspect_all(FingerprintCache(tmp_path), items, fail_at_60)
    inspected: list[str] = []
    inspect_all(FingerprintCache(tmp_path), items, lambda item: (inspected.append(item), item)[1])
    assert len(inspected) < 60


def test_looks_are_taken_side_by_side() -> None:
    """Two inspections wait for each other: one after the other they would wait forever."""
    barrier = threading.Barrier(2)
    list(
        FingerprintCache().iter_cached(
            [f"{number}" for number in range(16)], str, lambda item: str(barrier.wait(60) if item in "08" else 0)
        )
    )


def test_where_nothing_can_be_written_looks_are_in_memory(tmp_path: Path) -> None:
    assert (
        inspect_all(FingerprintCache(tmp_path / "nowhere"), ["a"])
        == inspect_all(FingerprintCache(), ["a"])
        == [("a", "A")]
    )
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match=r"cannot be used .* or delete this cache file"):
        inspect_all(FingerprintCache(tmp_path), ["a"])


def test_a_picture_that_was_changed_is_not_kept_as_what_it_was(tmp_path: Path) -> None:
    original_row = make_row(1, data=make_image(1))
    changed_row = replace(original_row, read_images=(lambda: make_image(2),))
    with pytest.raises(ReleaseError, match="has changed since it was inspected"):
        list(FingerprintReader(FingerprintCache(tmp_path)).iter_fingerprints([changed_row]))
    ((_, (fingerprint,)),) = FingerprintReader(FingerprintCache(tmp_path)).iter_fingerprints([original_row])
    assert original_row.image_id in fingerprint.ids


def test_assembling_again_decodes_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes both steps that decode images: the instruction part, and the comparison of the splits."""
    generate("scenes:30", tmp_path / "run")
    (tmp_path / "pool").mkdir()
    for number in range(40):
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(make_image(number))
    items = [make_item(number, image=f"{number}.jpg") for number in range(40)]
    (tmp_path / "pool" / "llava.json").write_text(json.dumps(items))

    def assemble_into(out: str) -> dict[str, bytes]:
        options = {"instruction": tmp_path / "pool" / "llava.json", "instruction_fraction": 1.0, "group_similar": 4}
        assemble(tmp_path / "run", tmp_path / out, version="1.0.0", max_similarity=1, **options)  # type: ignore[arg-type]
        return contents(tmp_path / out)

    decoded: list[object] = []
    real_decode = codec.decode
    monkeypatch.setattr(
        "compact_hf.images.inspection.decode",
        lambda *args, **kwargs: (decoded.append(args), real_decode(*args, **kwargs))[1],
    )
    monkeypatch.setattr(
        "compact_hf.images.phash.decode",
        lambda *args, **kwargs: (decoded.append(args), real_decode(*args, **kwargs))[1],
    )
    first = assemble_into("first")
    assert len(decoded) > 60
    decoded.clear()
    assert assemble_into("again") == first
    assert decoded == []
    changed_file = tmp_path / "pool" / "7.jpg"
    changed_file.write_bytes(make_image(1007))
    os.utime(changed_file, ns=(1, 1))
    assert assemble_into("changed") != first
    assert 0 < len(decoded) <= 2
