"""Holds a matplotlib figure with its title, its alternative text and a table of its numbers, and exports it.

Exports are an SVG file, a PNG file, or an `<svg>` element for an HTML page with CSS variables instead of colors. The
same data gives the same SVG, byte for byte.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from compact_hf.reports.table import Table
from compact_hf.reports.theme import apply_theme, rc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An id attribute, and a reference to one: url(#ID) or href="#ID".
_ID: Final = re.compile(r' id="([^"]*)"')
_REFERENCE: Final = re.compile(r'(?:url\(#|href="#)([^)"]+)')
# None removes an entry: a date or the version of matplotlib would change the bytes.
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with everything that a page shows about it.

    Attributes:
        name (`str`): short name, unique on a page; the stem of file names and the source of ids in the SVG.
        title (`str`): title of the plot.
        alt (`str`): alternative text for readers who cannot see the plot, with the most important numbers.
        table (`Table`): all numbers in the plot.
        figure (`matplotlib.figure.Figure`): the drawing.
    """

    name: str
    title: str
    alt: str
    table: Table
    figure: Figure = field(repr=False, compare=False)

    def svg(self) -> str:
        """Return the plot as a standalone SVG file in the light theme."""
        from matplotlib import rc_context

        file = io.StringIO()
        # Saving reads the settings again: fonts, and the salt of the ids.
        with rc_context(rc(self.name)):
            self.figure.savefig(file, format="svg", metadata=_NO_METADATA)
        return file.getvalue()

    def png(self, *, dpi: int = 200, notes: Mapping[str, str] | None = None) -> bytes:
        """Return the plot as a PNG file in the light theme.

        Args:
            dpi (`int`, *optional*, defaults to 200): resolution in pixels per inch; the plot is 4.5 inches wide, so 200
                gives 900 pixels.
            notes (`Mapping[str, str]`, *optional*): text chunks of the file by keyword, such as `Description`.
        """
        from matplotlib import rc_context

        file = io.BytesIO()
        with rc_context(rc(self.name)):
            self.figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None, **(notes or {})})
        return file.getvalue()

    def inline(self) -> str:
        """Return only the `<svg>` element, for a page that declares `theme.css_variables`.

        Ids without references are removed, because matplotlib uses the same ids in every figure and ids must be unique
        on a page. The `<style>` element is removed too, because it would apply to the whole page.
        """
        svg = self.svg()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
        used = set(_REFERENCE.findall(svg))
        svg = _ID.sub(lambda match: match[0] if match[1] in used else "", svg)
        return apply_theme(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))
