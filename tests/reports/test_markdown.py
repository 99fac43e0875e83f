"""Tests that text from outside is shown as text in cards, by reading them as a Markdown renderer does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from compact_hf.dataset.changelog import published_changelog
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.reports.markdown import (
    escape_markdown,
    format_code,
    format_table,
    iter_live_markup,
    make_environment,
    unescape_markdown,
)
from compact_hf.training.model_card import write_card_files
from compact_hf.training.training_record import TrainingRecord
from tests.dataset.samples import make_row

IMAGE = "![x](https://evil.example/pixel.png)"
HOSTILE = (
    IMAGE,
    "[free tokens](https://evil.example)",
    r"\[free tokens](https://evil.example)",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<!-- hidden -->",
    "<https://evil.example>",
    "[a][b]",
    "`code`",
    "**bold** _it_ ~~gone~~ $x^2$",
    "a | b",
    "&lt;b&gt;",
    "line\n\n# heading\n| cell |",
)


class Reader(HTMLParser):
    """Collects the tags and the text of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"{tag} {dict(attrs).get('src') or dict(attrs).get('href') or ''}".strip())

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


def render(text: str) -> Reader:
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Reader(markdown.render(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)))


# Characters that HTML itself does not keep.
TEXTS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=("Cs",)))


@given(TEXTS)
@example("".join(HOSTILE))
@example("https://evil.example www.evil.example mail@evil.example HTTPS://evil.example")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    page = render(f"| a | b |\n|---|---|\n| {escape_markdown(text)} | end |")
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert page.text.split()[2:] == [*text.split(), "end"]
    assert unescape_markdown(escape_markdown(text)).split() == text.split()


@given(TEXTS)
def test_no_address_becomes_a_link(text: str) -> None:
    escaped = escape_markdown(f"{text} https://{text} www.{text}.org name@{text}.org")
    assert not re.search(r"https?://|www\.|\w@\w+\.\w", escaped, re.IGNORECASE)


@given(st.text("`|a \n"))
def test_code_shows_a_text_and_ends_with_it(text: str) -> None:
    page = render(f"| a | b |\n|---|---|\n| {format_code(text)} | end |")
    assert page.text.split()[2:] == [*text.split(), "end"]


@pytest.mark.parametrize(
    "name", ["gemini-3.8-flash", "my_images", "cc-by-4.0", "coco (2017)", "org/model@0123abc", "用图"]
)
def test_usual_names_are_written_as_they_are(name: str) -> None:
    assert escape_markdown(name) == name
    assert format_code(name) == f"`{name}`"


def test_a_template_escapes_what_it_is_not_told_to_leave() -> None:
    template = make_environment().from_string(
        "{{ a }} {{ a | safe }} {{ a | code }} {{ [a, 1] | row }}\n{{ b | fenced('yaml') }}"
    )
    assert template.render(a="<b>", b="a: |\n  ```\n  ![x](y)") == (
        "&lt;b> <b> `<b>` | &lt;b> | 1 |\n````yaml\na: |\n  ```\n  ![x](y)\n````"
    )
    assert format_table(["a", "b"], [["x|y", 2]], is_numeric=True) == "| a | b |\n| --- | ---: |\n| x\\|y | 2 |\n"


def write_release(directory: Path, texts: Sequence[str]) -> str:
    """Write a release with a row for each text, which is in all its fields, and return its card."""

    def make(number: int, text: str) -> QuestionRow:
        row = make_row(number)
        turns = tuple(replace(turn, question=f"{text} {turn.question}", answer=text) for turn in row.turns)
        names = {"image_source": text, "image_license": text, "teacher": text, "verifier": text}
        return replace(row, turns=turns, preset_version=text, **names)

    rows = [make(number, text) for number, text in enumerate(texts)]
    write_dataset(rows, directory, sources=("compact",), version="1.0.0")
    return (directory / "README.md").read_text(encoding="utf-8")


def test_nothing_from_outside_is_markup_in_the_card_and_changelog_of_a_dataset(tmp_path: Path) -> None:
    harmless = render(write_release(tmp_path / "harmless", [f"name {number}" for number in range(len(HOSTILE))]))
    page = render(write_release(tmp_path / "hostile", HOSTILE))
    assert page.tags == harmless.tags
    shown = " ".join(page.text.split())
    assert [text for text in HOSTILE if " ".join(text.split()) not in shown] == []
    changelog = render((tmp_path / "hostile" / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert set(changelog.tags) <= {"h1", "h2", "ul", "li"}
    assert not any("card" in check for check in validate(tmp_path / "hostile").counts)


@pytest.mark.parametrize("markup", [IMAGE, "[a](https://evil.example)", "<img src=x>", "</td>", "a\\\\[b](c)"])
def test_validation_finds_markup_that_was_put_into_a_table(markup: str, tmp_path: Path) -> None:
    write_dataset([make_row(1)], tmp_path / "release", sources=("compact",), version="1.0.0")
    assert validate(tmp_path / "release").is_valid
    card = tmp_path / "release" / "README.md"
    card.write_text(card.read_text().replace("| CC0-1.0 | scenes |", f"| CC0-1.0 | scenes {markup} |"))
    report = validate(tmp_path / "release")
    assert report.counts["card has a link, an image or HTML in a table"] == 1
    assert markup in report.problems[0].detail


def test_markup_in_code_and_after_a_backslash_is_none() -> None:
    assert list(iter_live_markup("| `[a](b)` | \\[a](b) | &lt;b> | 1 < 2 |\n[a](b)\n<img src='x'>")) == []


def test_nothing_from_outside_is_markup_in_the_card_of_a_model(tmp_path: Path) -> None:
    def write(text: str, name: str) -> Any:
        (tmp_path / name).mkdir()
        record = TrainingRecord(
            base=f"/models/{text.replace('/', '-')}",
            base_revision=text,
            dataset=f"/data/{text.replace('/', '-')}",
            dataset_config=text,
            dataset_version=text,
            dataset_revision=text,
            settings={"run_name": f"{text}\n```\n{text}"},
            train=text,
            rows=3,
            dropped={text: 1},
            hardware=text,
            seconds=1.0,
            versions={text: text},
        )
        license = {"license": "other", "license_name": text}
        path = write_card_files(tmp_path / name, record, name=text, license=license)
        return render(path.read_text(encoding="utf-8"))

    harmless = write("harmless", "harmless")
    for number, text in enumerate((IMAGE, "<img src=x onerror=alert(1)>", "a|b` [c](d) **e**")):
        page = write(text, str(number))
        assert [tag for tag in page.tags if tag != "code"] == [tag for tag in harmless.tags if tag != "code"]


def test_a_changelog_keeps_what_an_earlier_version_wrote() -> None:
    remote = "# Changelog\n\n## 1.0.0 (2026-01-01)\n\n- teacher: a_b\n"
    assert "- teacher: a_b" in published_changelog("", remote, version="1.1.0", date="2026-02-02", difference=None)
