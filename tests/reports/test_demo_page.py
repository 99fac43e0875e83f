"""Tests the demo page: self-contained, with a section for all data that exists, safe, and small."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from compact_hf.reports.demo_page import DemoReport, render_demo

from .pages import ParsedPage


@pytest.fixture(scope="module")
def text(report: DemoReport) -> str:
    return render_demo(report)


@pytest.fixture(scope="module")
def page(text: str) -> ParsedPage:
    return ParsedPage(text)


def test_it_needs_no_network_and_no_script(page: ParsedPage, text: str) -> None:
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(link.startswith("#") for link in (*page.values("href"), *page.values("xlink:href")))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_two_hundred_pictures_stay_under_three_megabytes(text: str) -> None:
    assert len(text.encode()) < 3_000_000


def test_the_same_report_gives_the_same_page(report: DemoReport, text: str) -> None:
    assert render_demo(report) == text


def test_tags_are_closed_and_links_lead_somewhere(page: ParsedPage) -> None:
    assert page.open_tags == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = page.values("href") + page.values("xlink:href")
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_headings_step_down_one_by_one(page: ParsedPage) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_pictures_and_plots_have_words_for_those_who_cannot_see_them(page: ParsedPage) -> None:
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    plots = [attrs for tag, attrs in page.tags if tag == "figure"]
    assert len(images) == 8 + 12, "the examples, and the images with their questions"
    assert all(attrs["alt"] for attrs in images)
    assert len(plots) == 7
    assert all(attrs["aria-label"] for attrs in plots)
    assert [tag for tag, _ in page.tags].count("table") == 7


def test_the_accuracy_comes_first_then_eight_examples_then_the_rest(text: str, page: ParsedPage) -> None:
    anchors = ["accuracy", "examples", "capabilities", "made", "pictures", "dropped", "release", "training", "next"]
    assert [name for name in page.values("id") if name in anchors] == anchors
    assert text.split('id="examples"')[1].split("<h2")[0].count("<article") == 8
    # The images with their training questions are folded.
    assert page.tags.count(("details", {"id": "pictures", "class": "more"})) == 1


def test_nothing_that_was_passed_in_becomes_markup(text: str) -> None:
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20


def test_light_and_dark_come_from_the_readers_setting(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert text.count("--tone-ink:") == 2


@pytest.mark.parametrize(
    ("missing", "anchor"),
    [
        ({"release": None}, "release"),
        ({"training": None}, "training"),
        ({"accuracy": None}, "accuracy"),
        ({"rejects": ()}, "dropped"),
        ({"images": ()}, "pictures"),
        ({"next_steps": ()}, "next"),
    ],
)
def test_a_part_without_figures_is_left_out_with_its_link(
    report: DemoReport, text: str, missing: dict[str, Any], anchor: str
) -> None:
    small = replace(replace(report, images=report.images[:2]), **missing)
    without = ParsedPage(render_demo(small))
    assert f'id="{anchor}"' in text
    assert anchor not in without.values("id")
    assert f"#{anchor}" not in without.values("href")


def test_an_empty_run_still_gives_a_page() -> None:
    assert ParsedPage(render_demo(DemoReport("Nothing yet", "No image was kept.", (), (), {}))).values("id")
