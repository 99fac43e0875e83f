"""Tests the theme: legible, also in black and white and for color-blind readers; no global settings are changed."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import matplotlib
import pytest

from compact_hf.capabilities import CAPABILITIES, GROUPS
from compact_hf.reports import dataset_charts
from compact_hf.reports.theme import (
    TONES,
    apply_theme,
    css_variables,
    k_style,
    k_tone,
    keep_options_whole,
    make_breakable,
)


def luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.1)."""
    channels = [value / 255 for value in bytes.fromhex(color.removeprefix("#"))]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast_ratio(first: str, second: str) -> float:
    """Return the contrast ratio of two colors, 1 to 21 (WCAG 2.1)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("name", ["ink", "muted", "accent"])
def test_words_stand_out_from_the_paper(name: str, scheme: int) -> None:
    assert contrast_ratio(TONES[name][scheme], TONES["paper"][scheme]) >= 4.5


@pytest.mark.parametrize("scheme", [0, 1])
def test_groups_and_ks_stay_apart_without_color(scheme: int) -> None:
    groups = sorted((TONES[group][scheme] for group in GROUPS), key=luminance)
    ks = [TONES[k_tone(k)][scheme] for k in range(1, 6)]
    assert all(contrast_ratio(current, following) >= 1.4 for current, following in pairwise(groups))
    assert all(contrast_ratio(current, following) >= 1.4 for current, following in pairwise(ks))
    assert [luminance(color) for color in ks] == sorted((luminance(color) for color in ks), reverse=True)


def test_neighboring_ks_differ_in_hatch_too() -> None:
    hatches = [k_style(k)["hatch"] for k in range(1, 6)]
    assert all(current != following for current, following in pairwise(hatches))


def test_no_two_tones_share_a_light_value_because_themes_replace_by_value() -> None:
    assert len({light for light, _ in TONES.values()}) == len(TONES)
    assert apply_theme(f"fill: {TONES['k3'][0]}") == "fill: var(--tone-k3)"
    assert f"--tone-k3: {TONES['k3'][1]};" in css_variables(1)


def test_only_long_words_may_be_broken_and_nothing_becomes_markup() -> None:
    assert make_breakable("scene understanding  of org/a-longer_name, 40 < 70") == (
        "scene understanding  of org/<wbr>a-<wbr>longer_<wbr>name, 40 &lt; 70"
    )
    assert make_breakable("a" * 20) == f"{'a' * 16}<wbr>aaaa"
    assert make_breakable("</script>" * 2) == "&lt;/<wbr>script&gt;&lt;/<wbr>script&gt;"


def test_an_option_of_a_command_is_not_broken() -> None:
    assert keep_options_whole("compact show <RUN> --n 3\n--out a--b") == (
        'compact show &lt;RUN&gt; <span class="option">--n</span> 3\n<span class="option">--out</span> a--b'
    )


def test_drawing_leaves_the_readers_settings_alone() -> None:
    before = matplotlib.rcParams.copy()
    dataset_charts.plot_coverage({(name,): 1 for name in CAPABILITIES}).svg()
    assert matplotlib.rcParams == before


def test_importing_the_report_imports_nothing_heavy() -> None:
    code = (
        "import sys, compact_hf.reports.demo_page; print({'matplotlib', 'PIL', 'jinja2', 'numpy'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "set()"
