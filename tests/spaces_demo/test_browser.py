"""Uses each tab as a visitor does, in a real browser: with mouse and keyboard, on a phone, in light and dark mode.

Screenshots are saved in pytest's temporary directory, or in the directory that SPACE_PICTURES names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compact_hf.scenes.source import SceneSource
from tests.spaces_demo.browsing import choose_tab, chromium, get_panel, open_page, read_axe_script
from tests.spaces_demo.conftest import VISITORS_KEY, Gate, RunningSpace

# The desktop's pages are checked in the slow tests.
VISITS = [
    pytest.param("phone", "dark", id="phone-dark"),
    pytest.param("desktop", "light", id="desktop-light", marks=pytest.mark.slow),
    pytest.param("desktop", "dark", id="desktop-dark", marks=pytest.mark.slow),
]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(os.environ.get("SPACE_PICTURES") or tmp_path_factory.mktemp("space-pictures"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def use_ask(page: Any) -> None:
    """Check that the first example is answered and marked, then choose another one, then ask a question of our own."""
    choose_tab(page, "Ask")
    panel = get_panel(page, "Ask")
    panel.get_by_text("when this Space started").wait_for()
    answers = page.get_by_role("region", name="Answers")
    assert answers.locator(".mark").all_inner_texts() == ["✗ wrong", "✓ right"]
    assert answers.get_by_text("every question with a description or with coordinates").is_visible()
    examples = panel.locator("#examples")
    assert page.evaluate("[...document.querySelectorAll('#examples label')].every(e => e.scrollWidth <= e.clientWidth)")
    assert examples.bounding_box()["y"] < answers.bounding_box()["y"]

    page.get_by_role("radio", name="What color is the fridge?").check(force=True)
    answers.get_by_text("What color is the fridge?").wait_for()
    answers.get_by_text("Answered in").wait_for()
    assert answers.get_by_text("Right answer: orange").is_visible()
    assert answers.locator(".mark").count() == 2

    page.get_by_role("textbox", name="Question").fill("Is this art?")
    page.get_by_role("button", name="Ask both").click()
    answers.get_by_text("Is this art?").wait_for()
    answers.get_by_text("Answered in").wait_for()
    assert answers.get_by_text("not known here").is_visible()
    assert answers.locator(".mark").count() == 0
    assert examples.locator("input:checked").count() == 0


def use_explore(page: Any) -> None:
    """Select k = 3, turn pages above and below the cards, and open a scene in Compose."""
    choose_tab(page, "Explore")
    # The second choice comes before the cards of the first one, and counts.
    for k in ("1", "3"):
        page.get_by_role("radio", name=k, exact=True).check()
    page.locator("article.card[aria-label$='needs 1 capability']").first.wait_for(state="detached")
    page.get_by_text(re.compile(r"Page 1 of 2")).wait_for()
    panel = get_panel(page, "Explore")
    for button, number in (("Next →", "2"), ("← Previous", "1")):
        for pager in (0, 1):
            assert panel.get_by_role("button", name="← Previous").nth(pager).is_enabled() == (number == "1")
        panel.get_by_role("button", name=button).nth(int(number == "2")).click()
        page.get_by_text(f"Page {number} of 2").wait_for()
        assert [panel.get_by_label("Page", exact=True).nth(pager).input_value() for pager in (0, 1)] == [number] * 2
    labels = page.locator("article.card").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert labels
    assert all(label.endswith("needs 3 capabilities") for label in labels)
    panel.get_by_role("link", name="Open scene 8 in Compose").click()
    get_panel(page, "Compose").get_by_alt_text("Drawn scene 8").wait_for()
    assert page.get_by_label("Scene, 0 to 9999").input_value() == "8"
    choose_tab(page, "Explore")


def use_compose(page: Any) -> None:
    """Let the teacher write a question about a scene, and then a mistake; old steps disappear when inputs change."""
    choose_tab(page, "Compose")
    page.get_by_label("Scene, 0 to 9999").fill("7")
    page.get_by_alt_text("Drawn scene 7").wait_for()
    page.get_by_role("button", name="Random scene").click()
    page.get_by_alt_text("Drawn scene 7").wait_for(state="detached")
    page.get_by_label("Scene, 0 to 9999").fill("7")
    page.get_by_role("button", name="Write a question").click()
    page.get_by_role("heading", name="Accepted").wait_for()
    for name in ("My own image, with Gemini", "A drawn scene"):
        page.get_by_role("radio", name=name).check()
        page.get_by_role("heading", name="Accepted").wait_for(state="detached")
    page.get_by_label("Plant a mistake").check()
    page.get_by_role("button", name="Write a question").click()
    page.get_by_role("heading", name="Dropped").wait_for()
    assert page.get_by_role("heading", name="4. Both are compared failed").is_visible()


def use_results(page: Any) -> None:
    """Check that the plots fill their cards, and that a table that can be scrolled says so."""
    choose_tab(page, "Results")
    page.get_by_role("heading", name="The paper's table").wait_for()
    for name in ("Before tuning", "After tuning", "Swapped images"):
        assert page.get_by_role("term").filter(has_text=name).is_visible()
    gaps = page.locator(".plot:has(figure)").evaluate_all(
        "all => all.map(one => one.clientWidth - one.querySelector('svg').getBoundingClientRect().width)"
    )
    assert len(gaps) == 2
    assert all(0 <= gap <= 40 for gap in gaps)
    # axe looks at the tables only if they are shown.
    for summary in get_panel(page, "Results").locator("summary").all():
        summary.click()
    can_scroll = page.locator(".paper .scroll").evaluate("one => one.scrollWidth > one.clientWidth")
    assert page.get_by_text("scroll it sideways").is_visible() == can_scroll


USES = {"Ask": use_ask, "Explore": use_explore, "Compose": use_compose, "Results": use_results}


def assert_accessible(page: Any) -> None:
    """Run axe on each tab after it was used, and check that it reports no serious problem."""
    page.evaluate(read_axe_script())
    messages = []
    for name in USES:
        choose_tab(page, name)
        axe_result = page.evaluate("rules => axe.run(document, rules)", RULES)
        assert len(axe_result["passes"]) > 20, "axe checked almost nothing"
        messages += [
            f"{name}: {violation['id']} at {' '.join(map(str, node['target']))}: {node['failureSummary'][:300]}"
            for violation in axe_result["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
    assert not messages, "\n".join(messages)


@pytest.mark.parametrize(("size", "scheme"), VISITS)
def test_a_visitor_uses_every_tab(space: RunningSpace, browser: Any, pictures: Path, size: str, scheme: str) -> None:
    page = open_page(browser, space.url, size=size, scheme=scheme)
    for name, use in USES.items():
        use(page)
        page.screenshot(path=pictures / f"space-{name.lower()}-{size}-{scheme}.png", full_page=True)
        # Nothing is cut off at the side: a phone scrolls only vertically.
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), name
    assert page.hosts == {space.url.removeprefix("http://")}
    assert_accessible(page)
    page.context.close()


@pytest.mark.slow
def test_tabs_that_do_not_fit_are_in_a_menu(space: RunningSpace, browser: Any) -> None:
    page = open_page(browser, space.url, size="watch", scheme="light")
    assert page.get_by_role("button", name="More tabs").is_visible()
    for name in USES:
        choose_tab(page, name)
        assert get_panel(page, name).is_visible()
    page.context.close()


def test_everything_can_be_done_with_the_keyboard(space: RunningSpace, browser: Any) -> None:
    page = open_page(browser, space.url, size="desktop", scheme="light")
    page.get_by_role("tab", name="Ask", exact=True).focus()
    for _ in range(4):
        if page.evaluate("document.activeElement.innerText.trim()") == "Compose":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    # Gradio loads the components of a tab when it is opened; before that, there is nothing to focus.
    in_order = ("color", "scene understanding", "Write a question")
    for name in in_order:
        get_panel(page, "Compose").get_by_text(name, exact=True).first.wait_for()
    focused = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate(
                "(document.activeElement.labels?.[0]?.innerText || document.activeElement.innerText || '').trim()"
            )
        )
        if focused[-1] == in_order[-1]:
            break
    # The focus moves in reading order: capabilities, image, button.
    order = [focused.index(name) for name in in_order]
    assert order == sorted(order)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Accepted").wait_for()
    page.context.close()


@pytest.mark.slow
def test_a_question_that_is_being_written_is_given_up_when_the_teacher_is_switched(
    space: RunningSpace, browser: Any, gate: Gate
) -> None:
    page = open_page(browser, space.url, size="phone", scheme="light")
    choose_tab(page, "Compose")
    page.get_by_role("radio", name="My own image, with Gemini").check()
    scene = {"name": "scene.png", "mimeType": "image/png", "buffer": SceneSource(0, 4).read("scene:3")}
    get_panel(page, "Compose").locator("input[type=file]").set_input_files(scene)
    page.get_by_role("button", name="Remove Image").wait_for()
    page.get_by_label("Gemini API key").fill(VISITORS_KEY)
    running = page.locator(".step.running")
    with gate.closed():
        page.get_by_role("button", name="Write a question").click()
        running.wait_for()
        # Gradio ignores clicks until it knows that the call is cancelled.
        with page.expect_response("**/cancel"):
            page.get_by_role("radio", name="A drawn scene").check()
        running.wait_for(state="detached")
    # The reply of Gemini comes now.
    page.get_by_role("button", name="Write a question").click()
    page.get_by_role("heading", name="Accepted").wait_for()
    assert page.get_by_text("Written by the built-in teacher").is_visible()
    page.context.close()


@pytest.mark.slow
def test_a_link_to_a_row_shows_that_row_alone(space: RunningSpace, browser: Any) -> None:
    page = open_page(browser, space.url + "/?row=scene%3A7", size="desktop", scheme="light")
    page.get_by_text("The linked image, one of").wait_for()
    assert get_panel(page, "Explore").is_visible()
    assert page.locator("article.card").count() == 1
    # A link of the card, as it is shared or opened in a new window.
    page.goto(space.url + "/" + page.locator("article.card a").get_attribute("href"))
    get_panel(page, "Compose").get_by_alt_text("Drawn scene 7").wait_for()
    page.context.close()
