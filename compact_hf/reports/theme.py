"""Defines the theme of plots and pages: colors, fonts, sizes, and the matplotlib figures that all plots are drawn on.

Groups, values of k and models have colors, hatches and markers that differ for color-blind readers and in black and
white: the colors of a family differ in lightness, and text, hatches or markers repeat what they show. `new_figure` does
not change the user's rcParams.

Each tone has a light and a dark value. Plots are drawn with the light values. `apply_theme` replaces them in an SVG by
CSS variables, which `css_variables` declares, so that the same SVG works in both themes of a web page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from compact_hf.capabilities import CAPABILITIES, GROUPS

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def jinja_environment() -> Environment:
    """Return the Jinja environment of the templates in this directory.

    Autoescape is on for all templates, because questions and answers come from models and are untrusted. An undefined
    variable in a template is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("compact_hf.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(
        css_variables=css_variables,
        definitions={name: atom.definition for name, atom in CAPABILITIES.items()},
        groups=GROUPS,
        group_of=group_of,
        k_tone=k_tone,
    )
    env.filters["spoken"] = get_label
    env.filters["breakable"] = make_breakable
    env.filters["whole_options"] = keep_options_whole
    return env


TONES: Final[dict[str, tuple[str, str]]] = {
    "paper": ("#ffffff", "#171a21"),
    "ground": ("#f5f6f9", "#0e1014"),
    "ink": ("#1f2430", "#e7e9ef"),
    "muted": ("#596273", "#a3abba"),
    "rule": ("#d8dce4", "#383e4b"),
    "accent": ("#6b3fa0", "#c6a5ea"),
    # Hues of Okabe and Ito, changed to differ in lightness: orange is the lightest, green the darkest.
    "attribution": ("#e39c12", "#f7cc70"),
    "recognition": ("#3a86c4", "#5ca5df"),
    "relation": ("#0c6650", "#2c8a6e"),
    # For k = 1 to 5: one hue that becomes darker (in the dark theme: deeper) with each step.
    "k1": ("#d3bfe6", "#eadff6"),
    "k2": ("#a37cc8", "#bd9be0"),
    "k3": ("#6f3fa3", "#8d61c0"),
    "k4": ("#45206f", "#683d9c"),
    "k5": ("#220b3d", "#4b2778"),
}
"""Name -> (value in the light theme, value in the dark theme). Values are unique: `apply_theme` replaces by value."""

# (marker, tone, whether it is filled), one per model
_MARKERS: Final = (
    ("o", "ink", False),
    ("D", "accent", True),
    ("s", "ink", True),
    ("^", "accent", False),
    ("v", "ink", False),
    ("p", "accent", True),
)

MAX_MODELS: Final = len(_MARKERS)
"""Largest number of models in one plot."""

_K_HATCHES: Final = ("", "///", "", "---", "")
_WIDTH_INCHES: Final = 4.5
_FONT_SIZE: Final = 11.0
_MAX_WORD: Final = 16  # characters


def tone(name: str) -> str:
    """Return the light value of a tone as `#rrggbb`.

    Args:
        name (`str`): one of `TONES`.
    """
    return TONES[name][0]


def group_of(capability: str) -> str:
    """Return the group of a capability, which determines its color.

    Args:
        capability (`str`): name of the capability.
    """
    return CAPABILITIES[capability].group


def k_tone(k: int) -> str:
    """Return the name of the tone for questions of `k` capabilities.

    Args:
        k (`int`): number of capabilities; 5 and more share a tone.
    """
    return f"k{min(max(k, 1), 5)}"


def k_style(k: int) -> dict[str, Any]:
    """Return the face color and hatch of bars for `k` as keyword arguments for matplotlib.

    Args:
        k (`int`): number of capabilities.
    """
    return {"facecolor": tone(k_tone(k)), "hatch": _K_HATCHES[min(max(k, 1), 5) - 1]}


def model_style(index: int) -> dict[str, Any]:
    """Return the marker and color of a model as keyword arguments for matplotlib.

    Neighboring models differ in shape, in color, and in being filled or hollow.

    Args:
        index (`int`): index of the model in the plot, below `MAX_MODELS`.
    """
    marker, name, is_filled = _MARKERS[index]
    return {"marker": marker, "color": tone(name), "markerfacecolor": tone(name if is_filled else "paper")}


def get_label(capability: str) -> str:
    """Return the display name of a capability: "text recognition" for `text_recognition`.

    Args:
        capability (`str`): name of the capability, or any other text.
    """
    return capability.replace("_", " ")


def make_breakable(text: object) -> Markup:
    """Return a text as HTML in which long words may be broken, such as paths and names of models.

    A browser breaks a word only where it would leave its box, and never to make the columns of a table narrower. Words
    of up to 16 characters stay whole; longer ones may be broken after a separator or after 16 letters or digits.

    Args:
        text (`object`): the text, or a value to convert to text.
    """

    def break_word(word: str) -> Markup:
        pieces = re.findall(r"[^\W_]{1,16}[\W_]*|[\W_]+", word) if len(word) > _MAX_WORD else [word]
        return Markup("<wbr>").join(pieces)

    return Markup(" ").join(map(break_word, str(text).split(" ")))


def keep_options_whole(code: str) -> Markup:
    """Return a command as HTML in which an option such as `--out` is not broken after its hyphens.

    Args:
        code (`str`): the command, or other code.
    """
    # Every second part is an option.
    parts = re.split(r"((?<!\S)--[\w-]+)", code)
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def css_variables(scheme: int) -> str:
    """Return the CSS declarations `--tone-NAME: VALUE;` of a theme.

    Args:
        scheme (`int`): 0 for the light theme, 1 for the dark one.
    """
    return " ".join(f"--tone-{name}: {values[scheme]};" for name, values in TONES.items())


def apply_theme(svg: str) -> str:
    """Replace the light tones in an SVG by CSS variables, for a page that declares `css_variables`.

    Args:
        svg (`str`): an SVG in the light theme.
    """
    for name, (light, _) in TONES.items():
        svg = svg.replace(light, f"var(--tone-{name})")
    return svg


def rc(salt: str = "") -> dict[str, Any]:
    """Return the matplotlib settings of all plots, for an `rc_context`.

    Args:
        salt (`str`, *optional*): salt for the ids in an SVG. It makes the file reproducible, and the ids of plots on
            the same page different.
    """
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": _FONT_SIZE,
        "axes.labelsize": _FONT_SIZE,
        "axes.labelcolor": tone("ink"),
        "axes.edgecolor": tone("muted"),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "figure.facecolor": tone("paper"),
        "axes.facecolor": tone("paper"),
        "grid.color": tone("rule"),
        "grid.linewidth": 0.8,
        "hatch.color": tone("paper"),
        "hatch.linewidth": 0.9,
        "legend.frameon": False,
        "legend.fontsize": _FONT_SIZE - 1,
        "legend.handlelength": 1.4,
        "patch.edgecolor": tone("paper"),
        "patch.force_edgecolor": True,
        # Text stays text, which can be selected and searched; each page or viewer needs the font or a substitute.
        "svg.fonttype": "none",
        "svg.hashsalt": salt or "compact_hf",
        "text.color": tone("ink"),
        # Reasons may contain the character $, which does not start a formula there.
        "text.parse_math": False,
        "xtick.color": tone("muted"),
        "xtick.labelcolor": tone("ink"),
        "ytick.color": tone("muted"),
        "ytick.labelcolor": tone("ink"),
    }


@contextmanager
def new_figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of 4.5 inches width, and its axes, inside the settings of `rc`.

    The width suits a phone, which shows the figure at about its own size, so that the text is legible.

    Args:
        height (`float`): height in inches.
    """
    # Without pyplot there is no global state, no display is needed, and the figure need not be closed.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(rc()):
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        yield figure, figure.subplots()


LABEL_ABOVE: Final[dict[str, Any]] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
"""Keyword arguments that annotate a bar with its number above it."""

LABEL_RIGHT: Final[dict[str, Any]] = {"xytext": (4, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
"""Keyword arguments that annotate a bar with its number to the right of it."""


def shorten(name: str, max_chars: int = 28) -> str:
    """Shorten a model's name for a plot in its middle; two thirds are kept of its end, which identifies it best.

    Args:
        name (`str`): the name.
        max_chars (`int`, *optional*, defaults to 28): largest number of characters.
    """
    if len(name) <= max_chars:
        return name
    end = max_chars * 2 // 3
    return f"{name[: max_chars - end - 1]}…{name[-end:]}"


def legend_layout(labels: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of columns and lines of a legend that is not wider than the figure.

    Args:
        labels (`Sequence[str]`): labels of the entries.
    """
    # Approximate widths in points: 32 for the handle and gaps, 6 per character.
    widths = [32 + 6 * len(label) for label in labels]
    available_width = 72 * _WIDTH_INCHES
    columns = len(labels) if sum(widths) <= available_width else max(1, int(available_width // max(widths)))
    return columns, -(-len(labels) // columns)


def hide_axis(axes: Axes, which: str) -> None:
    """Hide an axis that is not needed because every bar is annotated with its number.

    Args:
        axes (`Axes`): the axes of the plot.
        which (`str`): `x` or `y`.
    """
    axes.get_xaxis().set_visible(False) if which == "x" else axes.get_yaxis().set_visible(False)
    axes.spines["bottom" if which == "x" else "left"].set_visible(False)


def label_capabilities(axes: Axes, names: Sequence[str], labels: Sequence[str] | None = None) -> None:
    """Label the y axis with names from top to bottom; each capability gets a mark in the color of its group.

    Args:
        axes (`Axes`): the axes of the plot.
        names (`Sequence[str]`): capabilities, or other names, which get no mark.
        labels (`Sequence[str]`, *optional*): texts to show instead of the names.
    """
    axes.set_yticks(range(len(names)), labels or [get_label(name) for name in names])
    axes.tick_params(axis="y", length=0, pad=14)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for position, name in enumerate(names):
        if name in CAPABILITIES:
            axes.add_artist(_swatch(axes, position, tone(group_of(name))))


def _swatch(axes: Axes, position: float, color: str) -> Any:
    from matplotlib.patches import Rectangle

    # x in fractions of the axes, y in data coordinates: the mark is between the labels and the bars.
    transform = axes.get_yaxis_transform()
    return Rectangle((-0.035, position - 0.28), 0.02, 0.56, transform=transform, clip_on=False, facecolor=color)
