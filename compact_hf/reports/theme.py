"""One look for everything that people look at: tones, type, sizes, and the canvas every plot is drawn on.

In: names (a group, a k, the number of a model). Out: colors, hatches and markers that stay apart for
color-blind eyes and in black and white (each family of tones is a ladder of lightness; words, hatches or
markers say the same again), and `new_figure`, a matplotlib figure that leaves the reader's own rcParams alone.

Each tone has a light and a dark value. Plots are drawn in the light ones; `css_variables` and `apply_theme` let a
web page swap them, so that one SVG serves both schemes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from compact_hf.capabilities import CAPABILITIES, GROUPS

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def jinja_environment() -> Environment:
    """Return the Jinja environment of this folder's templates.

    Autoescape is on for every template: questions and answers come from teachers, which read images from
    anywhere. A name that a template misses is an error, not an empty place.
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
    return env


TONES: Final[dict[str, tuple[str, str]]] = {
    "paper": ("#ffffff", "#171a21"),
    "ground": ("#f5f6f9", "#0e1014"),
    "ink": ("#1f2430", "#e7e9ef"),
    "muted": ("#596273", "#a3abba"),
    "rule": ("#d8dce4", "#383e4b"),
    "accent": ("#6b3fa0", "#c6a5ea"),
    # Okabe and Ito's hues, moved apart in lightness: orange is the lightest, green the darkest.
    "attribution": ("#e39c12", "#f7cc70"),
    "recognition": ("#3a86c4", "#5ca5df"),
    "relation": ("#0c6650", "#2c8a6e"),
    # The ladder of k: one hue, darker (on dark paper: deeper) with each step.
    "k1": ("#d3bfe6", "#eadff6"),
    "k2": ("#a37cc8", "#bd9be0"),
    "k3": ("#6f3fa3", "#8d61c0"),
    "k4": ("#45206f", "#683d9c"),
    "k5": ("#220b3d", "#4b2778"),
}
"""Name -> (value on light paper, value on dark paper). No value is used twice: `apply_theme` replaces by value."""

_MARKERS: Final = (
    ("o", "ink", False),
    ("D", "accent", True),
    ("s", "ink", True),
    ("^", "accent", False),
    ("v", "ink", False),
    ("p", "accent", True),
)

MAX_MODELS: Final = len(_MARKERS)
"""How many models one plot keeps apart."""

_K_HATCHES: Final = ("", "///", "", "---", "")
_WIDTH_INCHES: Final = 4.5
_FONT_SIZE: Final = 11.0


def tone(name: str) -> str:
    """Return the light value of a tone, `#rrggbb`."""
    return TONES[name][0]


def group_of(capability: str) -> str:
    """Return the group that a capability is colored by."""
    return CAPABILITIES[capability].group


def k_tone(k: int) -> str:
    """Return the name of the tone for questions of `k` capabilities; 5 and more share the last step."""
    return f"k{min(max(k, 1), 5)}"


def k_style(k: int) -> dict[str, Any]:
    """Return face color and hatch of the bars for `k`, as matplotlib's keywords."""
    return {"facecolor": tone(k_tone(k)), "hatch": _K_HATCHES[min(max(k, 1), 5) - 1]}


def model_style(index: int) -> dict[str, Any]:
    """Return marker and color of a plot's model number `index`, below `MAX_MODELS`, as matplotlib's keywords.

    Neighbors differ in shape, in color and in being filled or hollow.
    """
    marker, name, is_filled = _MARKERS[index]
    return {"marker": marker, "color": tone(name), "markerfacecolor": tone(name if is_filled else "paper")}


def get_label(capability: str) -> str:
    """Return a capability's name as people write it: `text_recognition` is "text recognition"."""
    return capability.replace("_", " ")


def css_variables(scheme: int) -> str:
    """Return the declarations `--tone-NAME: VALUE;` for one scheme: 0 is light, 1 is dark."""
    return " ".join(f"--tone-{name}: {values[scheme]};" for name, values in TONES.items())


def apply_theme(svg: str) -> str:
    """Return an SVG whose light tones have become CSS variables, for a page that declares `css_variables`."""
    for name, (light, _) in TONES.items():
        svg = svg.replace(light, f"var(--tone-{name})")
    return svg


def rc(salt: str = "") -> dict[str, Any]:
    """Return the matplotlib settings of every plot, for an `rc_context`.

    Args:
        salt (`str`): what an SVG's ids are derived from, so that the same plot gives the same file and two
            plots on one page do not share ids.
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
        "svg.fonttype": "none",
        "svg.hashsalt": salt or "compact_hf",
        "text.color": tone("ink"),
        # A dollar in a reason is a dollar, not mathematics.
        "text.parse_math": False,
        "xtick.color": tone("muted"),
        "xtick.labelcolor": tone("ink"),
        "ytick.color": tone("muted"),
        "ytick.labelcolor": tone("ink"),
    }


@contextmanager
def new_figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure 4.5 inches wide and `height` inches high, and its axes, under the settings of `rc`.

    Narrow on purpose: on a phone it is shown at about its own size, so the type stays legible.
    """
    # Figure without pyplot: no global state, no display, nothing to close.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(rc()):
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        yield figure, figure.subplots()


LABEL_ABOVE: Final[dict[str, Any]] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
"""How a bar's number is annotated over it."""

LABEL_RIGHT: Final[dict[str, Any]] = {"xytext": (4, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
"""How a bar's number is annotated to the right of it."""


def shorten(name: str, max_chars: int = 28) -> str:
    """Return a model's name as it fits a plot: its end, which tells it apart, kept longer than its beginning."""
    if len(name) <= max_chars:
        return name
    end = max_chars * 2 // 3
    return f"{name[: max_chars - end - 1]}…{name[-end:]}"


def legend_layout(labels: Sequence[str]) -> tuple[int, int]:
    """Return how many columns and lines a legend takes so that it is no wider than the figure."""
    # Handle, gaps and letters at the legend's size, in points.
    widths = [32 + 6 * len(label) for label in labels]
    available_width = 72 * _WIDTH_INCHES
    columns = len(labels) if sum(widths) <= available_width else max(1, int(available_width // max(widths)))
    return columns, -(-len(labels) // columns)


def hide_axis(axes: Axes, which: str) -> None:
    """Hide the `x` or the `y` axis, where every bar carries its number."""
    axes.get_xaxis().set_visible(False) if which == "x" else axes.get_yaxis().set_visible(False)
    axes.spines["bottom" if which == "x" else "left"].set_visible(False)


def label_capabilities(axes: Axes, names: Sequence[str], labels: Sequence[str] | None = None) -> None:
    """Write names down the left side, from top to bottom, each capability with a mark of its group.

    Args:
        names: capabilities or anything else, which gets no mark.
        labels: what to write in their place.
    """
    axes.set_yticks(range(len(names)), labels or [get_label(name) for name in names])
    axes.tick_params(axis="y", length=0, pad=14)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for position, name in enumerate(names):
        if name in CAPABILITIES:
            axes.add_artist(_swatch(axes, position, tone(group_of(name))))


def _swatch(axes: Axes, position: float, color: str) -> Any:
    from matplotlib.patches import Rectangle

    # x in parts of the axes, y in data: it stays in the gap between the words and the bars.
    transform = axes.get_yaxis_transform()
    return Rectangle((-0.035, position - 0.28), 0.02, 0.56, transform=transform, clip_on=False, facecolor=color)
