"""Builds the tab Explore, which shows the rows of a gallery in pages, filtered by k and capability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import gallery
import gradio as gr
from gallery import Gallery, GalleryRow
from page import render_template

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.theme import get_label

PAGE_SIZE: Final = 12
ANY: Final = "any"
# A click on the link to a scene selects the tab Compose without loading the page again, unless it opens a new window.
_FOLLOW_LINKS: Final = """
element.addEventListener('click', event => {
    const link = event.target.closest('a[href^="?scene="]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    scrollTo(0, 0);
    document.getElementById('explore').dataset.scene = link.getAttribute('href').slice('?scene='.length);
    trigger('click');
});
"""
GET_CLICKED_SCENE: Final = "() => [Number(document.getElementById('explore').dataset.scene)]"
"""JavaScript that returns the number of the scene whose link was clicked, as the input of a function."""
# The pages are long: after the buttons below the cards, the next page is shown from its beginning.
_SCROLL_UP: Final = "(...inputs) => { document.getElementById('explore').scrollIntoView(); return inputs; }"


@dataclass(frozen=True, slots=True)
class _Pager:
    """The controls that turn pages.

    Attributes:
        previous_button (`gr.Button`): shows the previous page.
        number (`gr.Number`): number of the page, from 1.
        next_button (`gr.Button`): shows the next page.
    """

    previous_button: gr.Button
    number: gr.Number
    next_button: gr.Button

    @property
    def outputs(self) -> list[gr.Button | gr.Number]:
        """The components, in the order of the values of `_update_pager`."""
        return [self.previous_button, self.number, self.next_button]


def build_tab(image_gallery: Gallery, blocks: gr.Blocks, tabs: gr.Tabs) -> gr.HTML:
    """Lay out the tab. For visitors who open the Space with `?row=NAME`, it shows that row only.

    Args:
        image_gallery (`Gallery`): the rows to show.
        blocks (`gr.Blocks`): the page.
        tabs (`gr.Tabs`): the tabs of the page, to select this one.

    Returns:
        `gr.HTML`: the cards; they are clicked when a visitor follows the link to a drawn scene (`GET_CLICKED_SCENE`).
    """
    ks = sorted({row.item.k for row in image_gallery.rows})

    def look(k: str, capability: str, page: float | None) -> tuple[Any, ...]:
        rows = gallery.filter_rows(
            image_gallery.rows, None if k == ANY else int(k), None if capability == ANY else capability
        )
        page_count = max(-(-len(rows) // PAGE_SIZE), 1)
        # A number after the last page shows the last page, and the number fields are corrected, too.
        number = min(max(int(page or 1), 1), page_count)
        summary = (
            f"{len(rows)} of {len(image_gallery.rows)} images ({image_gallery.origin}). Page {number} of {page_count}."
        )
        html = _render_cards(rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE], capability)
        return html, summary, *_update_pager(number, page_count), *_update_pager(number, page_count)

    with gr.Row():
        k = gr.Radio(
            [ANY, *map(str, ks)],
            value=ANY,
            label="Capabilities that each question needs (k)",
            min_width=280,
        )
        capability = gr.Dropdown(
            [("any capability", ANY), *((get_label(name), name) for name in CAPABILITIES)],
            value=ANY,
            label="Show images with a question that needs",
            filterable=False,
            min_width=280,
        )
    html, text, *_ = look(ANY, ANY, 1)
    page_count = -(-len(image_gallery.rows) // PAGE_SIZE)
    with gr.Row(elem_classes="sheet-head"):
        summary = gr.Markdown(text)
        upper_pager = _build_pager(page_count)
    sheet = gr.HTML(html, padding=False, js_on_load=_FOLLOW_LINKS)
    lower_pager = _build_pager(page_count)
    outputs = [sheet, summary, *upper_pager.outputs, *lower_pager.outputs]
    for pager, js in ((upper_pager, None), (lower_pager, _SCROLL_UP)):
        inputs = [k, capability, pager.number]
        # The call of the upper one is that of the API.
        name: dict[str, Any] = {"api_name": "explore"} if pager is upper_pager else {"api_visibility": "private"}
        pager.number.submit(look, inputs, outputs, js=js, show_progress="minimal", **name)
        for button, offset in ((pager.previous_button, -1), (pager.next_button, 1)):
            button.click(
                lambda k, capability, page, offset=offset: look(k, capability, (page or 1) + offset),
                inputs,
                outputs,
                js=js,
                show_progress="minimal",
                api_visibility="private",
            )
    gr.on(
        [k.input, capability.input],
        lambda k, capability: look(k, capability, 1),
        [k, capability],
        outputs,
        show_progress="minimal",
        # A choice that is made while the cards of the previous one are on their way counts, too.
        trigger_mode="always_last",
        api_visibility="private",
    )

    def open_linked_row(request: gr.Request) -> tuple[Any, Any, Any]:
        name = str(request.query_params.get("row", ""))
        # Opened without a link to a row: nothing changes.
        if not name:
            return gr.skip(), gr.skip(), gr.skip()
        rows = [row for row in image_gallery.rows if row.name == name]
        if not rows:
            return gr.update(selected="explore"), gr.skip(), "This image was not found. Here are all others."
        text = (
            f"The linked image, one of {len(image_gallery.rows)} ({image_gallery.origin}). "
            "To see the others, choose a filter or a page."
        )
        return gr.update(selected="explore"), _render_cards(rows, ANY), text

    blocks.load(open_linked_row, None, [tabs, sheet, summary], api_visibility="private", show_progress="hidden")
    return sheet


def _build_pager(page_count: int) -> _Pager:
    """Lay out the controls that turn pages, on page 1 of `page_count`."""
    with gr.Row(elem_classes="pager"):
        previous_button = gr.Button("← Previous", interactive=False)
        number = gr.Number(1, label="Page", precision=0, minimum=1)
        next_button = gr.Button("Next →", interactive=page_count > 1)
    return _Pager(previous_button, number, next_button)


def _update_pager(number: int, page_count: int) -> tuple[Any, Any, Any]:
    """Return the updates of the components of a pager that show page `number`."""
    return (
        gr.update(interactive=number > 1),
        number,
        gr.update(interactive=number < page_count),
    )


def _render_cards(rows: tuple[GalleryRow, ...] | list[GalleryRow], capability: str) -> str:
    return render_template("cards.html.jinja", rows=rows, chosen=capability)
