"""The Space: ask a model before and after COMPACT tuning, look through the data, compose a question, see the results.

    python app.py

It starts as it stands: no key, no GPU, no network. README.md beside it says which variables give it more.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, Final

import ask
import compose
import explore
import gallery
import gradio as gr
import model  # first: on ZeroGPU it has to come before torch
import results
from page import css, theme
from request_guard import RequestGuard
from starlette.middleware import Middleware
from validation import MAX_BYTES

from compact_hf.errors import CompactError

SCENE_COUNT: Final = 60
ROWS_PER_K: Final = 60
TITLE: Final = "COMPACT, question by question"
# Seconds: images older than the second are looked for as often as the first says, and deleted.
CACHE_CLEANUP_S: Final = (1800, 5400)
MAX_QUEUE_SIZE: Final = 32

INTRODUCTION: Final = f"""# {TITLE}
Every question here was made to need exactly **k** of ten visual capabilities at once
([the paper](https://arxiv.org/abs/2504.21850)). Ask a model before and after tuning on such questions, look through
them, watch one being made, and see what it brings.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the owner of the Space has set; every one may be empty.

    Attributes:
        model, adapter (`str`): asked on Ask.
        dataset (`str`): shown on Explore.
        results (`str`): shown on Results.
        gemini_url (`str`): another server than Google's, for Compose.
        answer_seconds (`float`): after which an answer is stopped.
    """

    model: str = ""
    adapter: str = ""
    dataset: str = ""
    results: str = ""
    gemini_url: str = ""
    answer_seconds: float = 60.0

    @classmethod
    def from_environment(cls) -> Settings:
        """Return what the environment says."""
        get_env = os.environ.get
        seconds = get_env("ANSWER_SECONDS", "60")
        if not re.fullmatch(r"\d{1,4}(\.\d+)?", seconds):
            sys.exit(f"ANSWER_SECONDS is {seconds!r}; give a number of seconds, such as 60")
        return cls(
            model=get_env("MODEL_ID", ""),
            adapter=get_env("ADAPTER_ID", ""),
            dataset=get_env("DATASET_ID", ""),
            results=get_env("RESULTS", ""),
            gemini_url=get_env("GEMINI_URL", ""),
            answer_seconds=float(seconds),
        )


def build(settings: Settings) -> gr.Blocks:
    """Return the page."""
    # First the data: `datasets` looks into transformers, which loading the model imports beside it.
    image_gallery, error_message = _open_gallery(settings.dataset)
    models = model.SpaceModels(settings.model, settings.adapter, seconds=settings.answer_seconds)
    with gr.Blocks(title=TITLE, delete_cache=CACHE_CLEANUP_S, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        if error_message:
            gr.Markdown(error_message)
        with gr.Tabs() as tabs:
            with gr.Tab("Ask", id="ask", elem_id="ask"):
                ask.build_tab(models, page)
            with gr.Tab("Explore", id="explore", elem_id="explore"):
                explore.build_tab(image_gallery, page, tabs)
            with gr.Tab("Compose", id="compose", elem_id="compose"):
                compose.build_tab(settings.gemini_url or None)
            with gr.Tab("Results", id="results", elem_id="results") as results_tab:
                results.build_tab(settings.results, results_tab)
    return page


def _open_gallery(dataset: str) -> tuple[gallery.Gallery, str]:
    if not dataset:
        return gallery.draw_scenes(SCENE_COUNT), ""
    try:
        return gallery.read_dataset(dataset, per_k=ROWS_PER_K), ""
    except CompactError as error:
        # The reason may name a folder of this machine: it is the owner's to read.
        logging.getLogger(__name__).error("DATASET_ID cannot be used: %s", error)
        error_message = (
            "**The data set of this Space cannot be read; its log says why.** Drawn scenes are shown instead."
        )
        return gallery.draw_scenes(SCENE_COUNT), error_message


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve the page, with every door closed that it does not need; `options` is for Gradio's `launch`."""
    # Nothing past the queue: its length is the bound on what is waiting.
    page.queue(max_size=MAX_QUEUE_SIZE, default_concurrency_limit=8, api_open=False)
    return page.launch(
        css=css(),
        theme=theme(),
        max_file_size=MAX_BYTES,
        app_kwargs={"middleware": [Middleware(RequestGuard)]},
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        # Gradio would keep every call's inputs in the browser, a visitor's key among them.
        run_history=False,
        footer_links=["api", "gradio", "settings"],
        **options,
    )


if __name__ == "__main__":
    launch(build(Settings.from_environment()))
