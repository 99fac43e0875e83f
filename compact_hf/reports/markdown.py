r"""Renders Markdown in which text from outside stays text: cards, changelogs and tables.

    environment = make_environment(number="{:,}".format)
    environment.from_string("| {{ name }} |").render(name="![x](https://example.org)")  # | !\[x\](https&#58;...) |

Every value that a template writes is escaped, unless it is `Markup`, as the filter `safe` returns it. Nothing else in
the package escapes Markdown. HTML pages are escaped by Jinja (theme.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import unescape
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

# Characters that start markup or end the cell of a table; underscores inside words and single characters of addresses
# do so only in some places.
_SPECIAL: Final = re.compile(
    r"[\\`*\[\]&|~$]|<(?=[a-z/!?]|\Z)|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.|(?<=[\w.+-])@(?=[\w-]+\.\w)",
    re.IGNORECASE,
)
# GitHub and the Hub make links of addresses: a backslash does not prevent that, a character reference does.
_REFERENCES: Final = {"<": "&lt;", "&": "&amp;", ":": "&#58;", ".": "&#46;", "@": "&#64;"}
_LINE_ENDS: Final = re.compile(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*")
_BACKSLASH_ESCAPE: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
# An image, a link or an HTML tag. A bracket after a backslash starts none.
_LIVE_MARKUP: Final = re.compile(r"(?<!\\)(?:\\\\)*(?:\[(?:[^\]\\]|\\.)*\](?:\(|\[)|<[a-zA-Z/!?])")
_CODE_SPAN: Final = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")


def escape_markdown(text: str) -> Markup:
    """Return Markdown, on one line, that shows a text as it is: without links, images, HTML, emphasis or formulas.

    Args:
        text (`str`): any text; `Markup` is returned unchanged.
    """
    if isinstance(text, Markup):
        return text
    line = _LINE_ENDS.sub(" ", text)
    return Markup(_SPECIAL.sub(lambda match: _REFERENCES.get(match[0], f"\\{match[0]}"), line))


def unescape_markdown(text: str) -> str:
    """Return the text that Markdown from `escape_markdown` shows.

    Args:
        text (`str`): a line of Markdown.
    """
    return unescape(_BACKSLASH_ESCAPE.sub(r"\1", text))


def format_code(text: str) -> Markup:
    """Return Markdown that shows a text as code; a text that would end the code is escaped and shown as text.

    Args:
        text (`str`): any text.
    """
    return escape_markdown(text) if re.search(r"[`|\s]{2}|[`|\n\r]", text) or not text else Markup(f"`{text}`")


def format_row(cells: Iterable[object]) -> Markup:
    """Return a line of a Markdown table.

    Args:
        cells (`Iterable[object]`): values, which are escaped unless they are `Markup`.
    """
    return Markup(f"| {' | '.join(map(str, map(_finalize, cells)))} |")


def format_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, is_numeric: bool = False) -> str:
    """Return a Markdown table, with a line end after each line.

    Args:
        head (`Sequence[str]`): names of the columns.
        rows (`Iterable[Sequence[object]]`): the rows, each with one cell per column.
        is_numeric (`bool`, *optional*, defaults to False): right-align all columns except the first.
    """
    rules = ["---", *[Markup("---:" if is_numeric else "---")] * (len(head) - 1)]
    return "".join(f"{format_row(cells)}\n" for cells in (head, rules, *rows))


def iter_live_markup(text: str) -> Iterator[str]:
    """Yield the lines of tables in a card that have a link, an image or HTML, which this package never writes there.

    Args:
        text (`str`): the card.
    """
    for line in text.splitlines():
        if line.startswith("|") and _LIVE_MARKUP.search(_CODE_SPAN.sub("", line)):
            yield line


def make_environment(**filters: Callable[..., object]) -> Environment:
    """Return a Jinja environment for Markdown templates; an undefined variable is an error.

    Its filters are `code` (see `format_code`), `row` (see `format_row`), `python` (a string literal for a code block),
    `fenced` (a code block), and Jinja's own, among them `safe`.

    Args:
        **filters (`Callable`): additional filters by name.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = {"code": format_code, "row": format_row, "python": _format_literal, "fenced": _format_block}
    environment.filters |= own | filters
    return environment


def _finalize(value: Any) -> Any:
    return escape_markdown(value) if isinstance(value, str) else value


def _format_literal(text: str) -> Markup:
    return Markup(json.dumps(text))


def _format_block(text: str, language: str) -> Markup:
    """Return a code block whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return Markup(f"{fence}{language}\n{text}\n{fence}")
