"""Tests the contact sheet: even over k, small, and safe against markup in texts of teachers."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compact_hf.records import Reject, Turn
from compact_hf.reports.contact_sheet import QuestionItem, pick, render_fragment, render_page, thumbnail

from .samples import HOSTILE, make_image, make_sheet_item


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(0, 30))
def test_pick_is_even_over_k_and_keeps_the_order(ks: list[int], count: int) -> None:
    items = [QuestionItem(b"", k, (), str(index)) for index, k in enumerate(ks)]
    picked = pick(items, count)
    available_counts, picked_counts = Counter(ks), Counter(item.k for item in picked)
    assert len(picked) == min(count, len(ks))
    assert list(picked) == sorted(picked, key=lambda item: (item.k, int(item.caption)))
    for k in available_counts:
        max_picked = max((picked_counts[other_k] for other_k in available_counts), default=0)
        assert picked_counts[k] == available_counts[k] or picked_counts[k] >= max_picked - 1
        assert [item for item in picked if item.k == k] == [item for item in items if item.k == k][: picked_counts[k]]


def test_what_a_teacher_wrote_is_never_markup() -> None:
    page = render_fragment([make_sheet_item(1, 2, question=HOSTILE)])
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_every_capability_of_a_question_is_named() -> None:
    page = render_fragment([make_sheet_item(1, 3)])
    for name in ("color", "shape", "object recognition"):
        assert f">{name}</li>" in page


def test_a_large_picture_is_made_small_and_keeps_its_shape() -> None:
    small = thumbnail(make_image(1, (1600, 800)))
    assert (small["width"], small["height"]) == (400, 200)
    head, data = small["url"].split(",", 1)
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (400, 200)


def test_pictures_of_any_mode_are_shown() -> None:
    for mode in ("L", "P", "RGBA", "1"):
        buffer = io.BytesIO()
        Image.new(mode, (30, 20)).save(buffer, format="PNG")
        assert thumbnail(buffer.getvalue())["width"] == 30


REQUESTED = ("color", "counting")
DROPPED = Reject("verification", "needs fewer capabilities", f"Is it {HOSTILE}?", HOSTILE, REQUESTED)


def test_what_was_dropped_is_told_with_its_reason_and_no_markup_of_a_teacher() -> None:
    text = render_fragment([QuestionItem(make_image(1), 2, (), "a.png", (DROPPED,))])
    assert "rejected: needs fewer capabilities</strong>" in text
    assert text.count("&lt;script&gt;") == 2
    assert "<script" not in text
    assert ">counting</li>" in text


def test_capabilities_that_the_verifier_found_are_told_where_they_are_others() -> None:
    same = Turn("Which?", "red", REQUESTED, REQUESTED[::-1], 90)
    other = Turn("Which?", "red", REQUESTED, ("object_recognition",), 90)
    none = Turn("Which?", "red", REQUESTED, (), 90)
    notes = [entry.note for entry in QuestionItem(b"", 2, (same, other, none)).entries()]
    assert notes == ["", "the verifier found object recognition", "the verifier found nothing"]


def test_a_page_needs_nothing_beside_it() -> None:
    text = render_page(
        [make_sheet_item(1, 1), make_sheet_item(2, 2)], title=f"run {HOSTILE}", summary=["Two images.", HOSTILE]
    )
    assert text.count("data:image/webp;base64,") == 2
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert '<meta name="viewport"' in text


def test_a_picture_is_shown_the_right_way_up_and_on_white_paper() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: rotated by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, format="JPEG", exif=exif)
    assert (thumbnail(buffer.getvalue())["width"], thumbnail(buffer.getvalue())["height"]) == (20, 40)
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(buffer, format="PNG")
    data = thumbnail(buffer.getvalue())["url"].split(",", 1)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert sum(image.convert("L").histogram()[:251]) == 0
