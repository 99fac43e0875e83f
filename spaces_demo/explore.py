"""Builds the tab Explore, which shows the rows of a gallery in pages, filtered by k and capability."""

from __future__ import annotations

from typing import Any

import gallery
import gradio as gr
from gallery import Gallery
from page import render_template

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.theme import get_label

PAGE_SIZE = 12
ANY = "any"


def build_tab(image_gallery: Gallery, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
    """Lay out the tab. For visitors who open the Space with `?row=NAME`, it shows that row only.

    Args:
        image_gallery (`Gallery`): the rows to show.
        blocks (`gr.Blocks`): the page.
        tabs (`gr.Tabs`): the tabs of the page, to select this one.
    """
    ks = sorted({row.item.k for row in image_gallery.rows})

    def look(k: str, capability: str, page: float | None) -> tuple[str, str]:
        matching_rows = gallery.filter_rows(
            image_gallery.rows, None if k == ANY else int(k), None if capability == ANY else capability
        )
        page_count = max(-(-len(matching_rows) // PAGE_SIZE), 1)
        current_page = _clamp_page(page, page_count)
        text = (
            f"{len(matching_rows)} of {len(image_gallery.rows)} images from {image_gallery.origin}. "
            f"Page {current_page} of {page_count}."
        )
        rows = matching_rows[(current_page - 1) * PAGE_SIZE : current_page * PAGE_SIZE]
        return render_template("cards.html.jinja", rows=rows), text

    def make_pager(offset: int) -> Any:
        def turn_page(k: str, capability: str, page: float | None) -> tuple[int, str, str]:
            # A number after the last page shows the last page, so the number field is corrected, too.
            row_count = len(
                gallery.filter_rows(
                    image_gallery.rows, None if k == ANY else int(k), None if capability == ANY else capability
                )
            )
            current_page = _clamp_page((page or 1) + offset, max(-(-row_count // PAGE_SIZE), 1))
            return current_page, *look(k, capability, current_page)

        return turn_page

    with gr.Row(equal_height=True):
        k = gr.Radio(
            [ANY, *map(str, ks)], value=ANY, label="Complexity k", info="Number of capabilities that a question needs."
        )
        capability = gr.Dropdown(
            [(ANY, ANY), *((get_label(name), name) for name in CAPABILITIES)],
            value=ANY,
            label="Capability",
            filterable=False,
        )
    first_page, first_summary = look(ANY, ANY, 1)
    summary = gr.Markdown(first_summary)
    sheet = gr.HTML(first_page, padding=False)
    with gr.Row(elem_classes="pages"):
        previous_button = gr.Button("Previous page", min_width=120)
        page_number = gr.Number(1, label="Page", precision=0, minimum=1, min_width=100)
        next_button = gr.Button("Next page", min_width=120)
    inputs = [k, capability, page_number]
    page_number.submit(look, inputs, [sheet, summary], api_name="explore")
    previous_button.click(make_pager(-1), inputs, [page_number, sheet, summary], api_visibility="private")
    next_button.click(make_pager(1), inputs, [page_number, sheet, summary], api_visibility="private")
    gr.on(
        [k.input, capability.input],
        lambda k, capability: (1, *look(k, capability, 1)),
        [k, capability],
        [page_number, sheet, summary],
        api_visibility="private",
    )

    def open_linked_row(request: gr.Request) -> tuple[Any, Any, Any]:
        name = str(request.query_params.get("row", ""))
        # Opened without a link to a row: nothing changes.
        if not name:
            return gr.update(), gr.update(), gr.update()
        rows = [row for row in image_gallery.rows if row.name == name]
        text = f"One row of {image_gallery.origin}." if rows else "This row was not found."
        return gr.update(selected="explore"), render_template("cards.html.jinja", rows=rows), text

    blocks.load(open_linked_row, None, [tabs, sheet, summary], api_visibility="private", show_progress="hidden")


def _clamp_page(page: float | None, pages: int) -> int:
    return min(max(int(page or 1), 1), pages)
