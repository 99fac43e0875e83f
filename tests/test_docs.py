"""Checks the documentation site: its build refuses mistakes, and the reference lists every public name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import compact_hf
from docs.build_site import build, format_columns, format_commands

ROOT = Path(__file__).parents[1]

CONFIG = """
[project]
site_name = "toy"
[project.plugins.mkdocstrings.handlers.python.options]
docstring_style = "google"
show_source = false
extensions = ["hf_docstrings.py"]
"""
FUNCTION = '''
def resize(image: bytes, edge: int = 1024) -> bytes:
    """Resize an image.

    Args:
        image (`bytes`): a JPEG file.
        edge (`int`, *optional*, defaults to 1024): pixels of the longer side.

    Returns:
        `bytes`: a JPEG file.
    """
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with one page about one function, both without mistakes."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "zensical.toml").write_text(CONFIG)
    shutil.copy(ROOT / "docs" / "hf_docstrings.py", tmp_path)
    (tmp_path / "toy_images.py").write_text(FUNCTION)
    (tmp_path / "docs" / "index.md").write_text("# Toy\n\nSee [resize][toy_images.resize].\n\n::: toy_images.resize\n")
    return tmp_path


@pytest.mark.slow  # `make docs` in CI shows the same of our own site
def test_a_site_without_mistakes_is_built_and_shows_types_and_defaults(site: Path) -> None:
    assert build(site) == ""
    page = (site / "site" / "index.html").read_text()
    assert re.search(r"<code>edge</code>.*?<code>.*?int.*?</code>.*?pixels of the longer side.*?1024", page, re.DOTALL)
    assert "*optional*" not in page


@pytest.mark.slow
def test_every_kind_of_mistake_fails_the_build(site: Path) -> None:
    replace(site / "docs" / "index.md", "# Toy", "# Toy\n\n[more](more.md)")
    replace(site / "docs" / "index.md", "[toy_images.resize]", "[toy_images.scale]")
    replace(site / "toy_images.py", "edge (`int`", "width (`int`")
    problems = build(site)
    for problem in ("page does not exist", "unresolved autoref", "Parameter 'width' does not appear"):
        assert problem in problems


def test_a_wrong_docstring_alone_fails_the_build(site: Path) -> None:
    replace(site / "toy_images.py", "edge (`int`", "width (`int`")
    assert "Parameter 'width' does not appear" in build(site)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: compact_hf\.(\w+)$", page, re.MULTILINE)
    assert sorted(names) == sorted(compact_hf.__all__)


def test_the_commands_and_columns_are_those_of_the_code() -> None:
    assert "| `--max-cost USD` |" in format_commands()
    assert "## compact base\n" in format_commands()
    assert "### compact base assemble\n" in format_commands()
    assert "| `messages` | list of {`role`: string, `content`: string} |" in format_columns()
    assert "## Rows of `compact`" in format_columns()
