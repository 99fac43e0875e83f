"""The tab Explore: what gallery.py found in, a page of it by k and capability out; each picture links to its row."""

from __future__ import annotations

from typing import Any

import gallery
import gradio as gr
from gallery import Gallery
from page import rendered

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.theme import spoken

PAGE = 12
ANY = "any"


def tab(found: Gallery, page_of_blocks: gr.Blocks, tabs: gr.Tabs) -> None:
    """Lay out the tab. A visitor who comes with `?row=NAME` is shown that row alone."""
    ks = sorted({row.shown.k for row in found.rows})

    def look(k: str, capability: str, page: float | None) -> tuple[str, str]:
        chosen = gallery.chosen(found.rows, None if k == ANY else int(k), None if capability == ANY else capability)
        pages = max(-(-len(chosen) // PAGE), 1)
        here = _within(page, pages)
        told = f"{len(chosen)} of {len(found.rows)} pictures of {found.origin}. Page {here} of {pages}."
        return rendered("cards.html.jinja", shown=chosen[(here - 1) * PAGE : here * PAGE]), told

    def turn(by: int) -> Any:
        def turned(k: str, capability: str, page: float | None) -> tuple[int, str, str]:
            # A page too far shows the last one; the number has to say so too.
            most = len(
                gallery.chosen(found.rows, None if k == ANY else int(k), None if capability == ANY else capability)
            )
            here = _within((page or 1) + by, max(-(-most // PAGE), 1))
            return here, *look(k, capability, here)

        return turned

    with gr.Row(equal_height=True):
        k = gr.Radio([ANY, *map(str, ks)], value=ANY, label="Complexity k", info="Capabilities that a question needs.")
        capability = gr.Dropdown(
            [(ANY, ANY), *((spoken(name), name) for name in CAPABILITIES)],
            value=ANY,
            label="Capability",
            filterable=False,
        )
    first, where = look(ANY, ANY, 1)
    told = gr.Markdown(where)
    sheet = gr.HTML(first, padding=False)
    with gr.Row(elem_classes="pages"):
        before = gr.Button("Previous page", min_width=120)
        number = gr.Number(1, label="Page", precision=0, minimum=1, min_width=100)
        after = gr.Button("Next page", min_width=120)
    choice = [k, capability, number]
    number.submit(look, choice, [sheet, told], api_name="explore")
    before.click(turn(-1), choice, [number, sheet, told], api_visibility="private")
    after.click(turn(1), choice, [number, sheet, told], api_visibility="private")
    gr.on(
        [k.input, capability.input],
        lambda k, capability: (1, *look(k, capability, 1)),
        [k, capability],
        [number, sheet, told],
        api_visibility="private",
    )

    def arrive(request: gr.Request) -> tuple[Any, Any, Any]:
        name = str(request.query_params.get("row", ""))
        if not name:
            return gr.update(), gr.update(), gr.update()
        rows = [row for row in found.rows if row.name == name]
        told = f"One row of {found.origin}." if rows else "There is no such row here."
        return gr.update(selected="explore"), rendered("cards.html.jinja", shown=rows), told

    page_of_blocks.load(arrive, None, [tabs, sheet, told], api_visibility="private", show_progress="hidden")


def _within(page: float | None, pages: int) -> int:
    return min(max(int(page or 1), 1), pages)
