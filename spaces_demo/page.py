"""Renders the HTML templates of this directory, with all values escaped, and defines theme and CSS of the page.

The CSS combines the colors and the contact sheet of `compact_hf.reports` with Gradio's light and dark modes.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.theme import css_variables, jinja_environment

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent


def render_template(template: str, **values: Any) -> str:
    """Render a template of this directory.

    Args:
        template (`str`): the file name.
        **values (`Any`): the variables of the template; they are escaped.

    Returns:
        `str`: HTML.
    """
    return _templates().get_template(template).render(thumbnail=thumbnail, **values)


def theme() -> gr.Theme:
    """Return Gradio's default theme in the package's purple, with enough contrast between text and background."""
    # Use fonts of the visitor's machine: those of the default theme would be downloaded from another server.
    base_theme = gr.themes.Default(
        primary_hue="purple",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base_theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        # Used by Gradio for tabs and focus rings.
        color_accent="*primary_700",
        color_accent_soft="*primary_100",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
    )


def css() -> str:
    """Return the CSS of the page."""
    cards_css = files("compact_hf.reports").joinpath("templates/contact_sheet.css").read_text(encoding="utf-8")
    page_css = (_HERE / "app.css").read_text(encoding="utf-8")
    # Scheme 0 is light; scheme 1 is dark, which Gradio marks by the class `dark`.
    return f":root {{ {css_variables(0)} }}\n.dark {{ {css_variables(1)} }}\n{cards_css}\n{page_css}"


@cache
def _templates() -> Environment:
    from jinja2 import ChoiceLoader, FileSystemLoader

    # The filters, colors, escaping and macros of the package, for the templates in this directory.
    package_environment = jinja_environment()
    return package_environment.overlay(loader=ChoiceLoader([FileSystemLoader(_HERE), package_environment.loader]))
