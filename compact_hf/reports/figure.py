"""A plot with all that a reader needs beside it: title, words for those who cannot see it, its numbers.

In: a drawn matplotlib figure. Out: SVG (the same data give the same bytes), PNG, or an SVG to put straight into
a page, with CSS variables in place of colors.
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

_ID: Final = re.compile(r' id="([^"]*)"')
_REFERENCE: Final = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Attributes:
        name (`str`): short and unique on a page: a file's stem, and what the SVG's ids are derived from.
        title (`str`): what it shows, in a few words.
        alt (`str`): the same for those who cannot see it, with the figures that matter.
        table (`Table`): every number that is drawn.
        figure (`matplotlib.figure.Figure`): the drawing.
    """

    name: str
    title: str
    alt: str
    table: Table
    figure: Figure = field(repr=False, compare=False)

    def svg(self) -> str:
        """Return the plot as a standalone SVG file in light tones."""
        from matplotlib import rc_context

        file = io.StringIO()
        with rc_context(rc(self.name)):
            self.figure.savefig(file, format="svg", metadata=_NO_METADATA)
        return file.getvalue()

    def png(self, *, dpi: int = 200, notes: Mapping[str, str] | None = None) -> bytes:
        """Return the plot as a PNG file in light tones; 200 dpi make it 900 pixels wide.

        Args:
            dpi: pixels to the inch; it is 4.5 inches wide.
            notes: keyword -> text that the file carries, such as `Description`.
        """
        from matplotlib import rc_context

        file = io.BytesIO()
        with rc_context(rc(self.name)):
            self.figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None, **(notes or {})})
        return file.getvalue()

    def inline(self) -> str:
        """Return the `<svg>` element alone, for a page that declares `theme.css_variables`.

        Ids that nothing refers to are dropped: matplotlib gives every figure the same ones, and ids are unique
        in a page. Its `<style>` would reach past the figure, and goes too.
        """
        svg = self.svg()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
        used = set(_REFERENCE.findall(svg))
        svg = _ID.sub(lambda match: match[0] if match[1] in used else "", svg)
        return apply_theme(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))
