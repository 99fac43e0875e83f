"""Opens every page in a browser: on a phone nothing is cut off or scrolls sideways, and axe finds no problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest

from compact_hf.reports.ablation_page import render_ablation
from compact_hf.reports.analysis_page import Findings, render_analysis
from compact_hf.reports.contact_sheet import render_page
from compact_hf.reports.demo_page import DemoReport, render_demo
from compact_hf.reports.evaluation_page import render_evaluation
from compact_hf.reports.page_parts import Example
from tests.spaces_demo.browsing import SIZES, chromium, read_axe_script

from .samples import LONG, make_evaluation, make_sheet_item
from .test_ablation_page import REPORT as ABLATION
from .test_analysis_page import FIRST, SECOND, make_page

WIDTH, HEIGHT = SIZES["phone"]
NAMES: Final = ("evaluation", "many models", "demo", "analysis", "ablation", "contact sheet")
# The elements that are wider than their box, whose text is cut off or has to be scrolled.
CUT_OFF: Final = "[...document.querySelectorAll('pre, h1, li, .card')].filter(one => one.scrollWidth > one.clientWidth)"


@pytest.fixture(scope="module")
def texts(report: DemoReport) -> dict[str, str]:
    """Return the pages by name, with long texts without spaces."""
    command = Example(LONG, f"compact analyze {LONG} --out {LONG}", LONG)
    analysis = replace(make_page(FIRST, SECOND), title=LONG, lead=LONG, command=command)
    findings = tuple(Findings(LONG, (LONG,)) for _ in range(2))
    pages = (
        render_evaluation(replace(make_evaluation(2, text=LONG), command=command)),
        render_evaluation(make_evaluation(7)),
        render_demo(replace(report, title=LONG, images=report.images[:6], next_steps=(command,))),
        render_analysis(replace(analysis, findings=findings)),
        render_ablation(replace(ABLATION, dataset=LONG, base=LONG)),
        render_page([make_sheet_item(1, 2, question=LONG)], title=LONG, summary=[LONG]),
    )
    return dict(zip(NAMES, pages, strict=True))


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_not_wider_than_a_phone(page: Any, texts: dict[str, str], name: str) -> None:
    page.set_content(texts[name])
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTH
    assert page.evaluate(f"{CUT_OFF}.map(one => one.outerHTML.slice(0, 200))") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_no_serious_problem(page: Any, texts: dict[str, str], name: str) -> None:
    page.set_content(texts[name])
    page.evaluate(read_axe_script())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        result = page.evaluate("axe.run(document)")
        assert len(result["passes"]) > 15, "axe checked almost nothing"
        assert [violation for violation in result["violations"] if violation["impact"] in ("serious", "critical")] == []


def test_what_is_folded_is_printed(page: Any, texts: dict[str, str]) -> None:
    page.set_content(texts["demo"])
    heights = "[...document.querySelectorAll('details')].map(one => one.getBoundingClientRect().height)"
    page.emulate_media(media="print")
    printed = page.evaluate(heights)
    page.emulate_media(media="screen")
    assert printed
    assert all(height > 2 * folded for height, folded in zip(printed, page.evaluate(heights), strict=True))
