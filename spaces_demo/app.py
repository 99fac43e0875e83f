"""Serves the Space: ask a model before and after COMPACT tuning, explore data, compose a question, see the results.

    python app.py

It runs without API key, GPU or network access. The environment variables in README.md select other models and data.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ask
import compose
import examples
import explore
import gallery
import gradio as gr
import model  # on ZeroGPU, this has to be imported before torch
import results
from call_check import CallCheck
from gradio.utils import get_upload_folder
from page import css, theme
from request_guard import RequestGuard
from starlette.middleware import Middleware
from validation import MAX_BYTES

from compact_hf.errors import CompactError
from compact_hf.escaping import escape_line

SCENE_COUNT: Final = 60
ROWS_PER_K: Final = 60
TITLE: Final = "COMPACT, question by question"
# Seconds: how often uploaded images are cleaned up, and the age from which they are deleted.
CACHE_CLEANUP_S: Final = (1800, 5400)
MAX_QUEUE_SIZE: Final = 32
MAX_SESSIONS: Final = 200
"""Number of visitors whose sessions Gradio keeps in memory, 0.3 MB each; the page stores nothing in them."""

INTRODUCTION: Final = f"""# {TITLE}
Every question here was made to need exactly **k** of ten visual capabilities at once
([the paper](https://arxiv.org/abs/2504.21850)). Ask a model before and after tuning on such questions, explore the
questions, follow how one is made, and see the results.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the Space, made by its owner. Each string may be empty.

    Attributes:
        model (`str`): the model of the tab Ask: a directory or a Hub repository.
        adapter (`str`): its adapter, likewise.
        dataset (`str`): the dataset of the tab Explore, likewise.
        results (`str`): the file or directory of the tab Results.
        gemini_url (`str`): URL of a server to use instead of Google's, for the tab Compose.
        answer_seconds (`float`): time limit of an answer, in seconds.
    """

    model: str = ""
    adapter: str = ""
    dataset: str = ""
    results: str = ""
    gemini_url: str = ""
    answer_seconds: float = 60.0

    @classmethod
    def from_environment(cls) -> Settings:
        """Return the settings in the environment variables."""
        get_env = os.environ.get
        seconds = get_env("ANSWER_SECONDS", "60")
        # `float` would also accept negative numbers, inf and nan.
        if not re.fullmatch(r"\d{1,4}(\.\d+)?", seconds):
            sys.exit(f"ANSWER_SECONDS is {seconds!r}: set it to a number of seconds, such as 60")
        return cls(
            model=get_env("MODEL_ID", ""),
            adapter=get_env("ADAPTER_ID", ""),
            dataset=get_env("DATASET_ID", ""),
            results=get_env("RESULTS", ""),
            gemini_url=get_env("GEMINI_URL", ""),
            answer_seconds=float(seconds),
        )


def build(settings: Settings) -> gr.Blocks:
    """Return the page with its four tabs."""
    # Read the data before loading the model: `datasets` inspects transformers, which the loading thread imports.
    image_gallery, error_message = _open_gallery(settings.dataset)
    first = examples.draw_examples()[0]
    models = model.SpaceModels(
        settings.model,
        settings.adapter,
        seconds=settings.answer_seconds,
        first_question=(first.image, first.question),
    )
    with gr.Blocks(title=TITLE, delete_cache=CACHE_CLEANUP_S, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        if error_message:
            gr.Markdown(error_message)
        with gr.Tabs() as tabs:
            with gr.Tab("Ask", id="ask", elem_id="ask"):
                ask.build_tab(models, page)
            with gr.Tab("Explore", id="explore", elem_id="explore"):
                sheet = explore.build_tab(image_gallery, page, tabs)
            with gr.Tab("Compose", id="compose", elem_id="compose"):
                compose.build_tab(settings.gemini_url or None, page, tabs, sheet)
            with gr.Tab("Results", id="results", elem_id="results") as results_tab:
                results.build_tab(settings.results, models.names, results_tab)
    return page


def _open_gallery(dataset: str) -> tuple[gallery.Gallery, str]:
    """Return the rows for the tab Explore, and a message for visitors if the dataset cannot be read."""
    if not dataset:
        return gallery.draw_scenes(SCENE_COUNT), ""
    try:
        return gallery.read_dataset(dataset, per_k=ROWS_PER_K), ""
    except CompactError as error:
        # The reason may name a directory of this machine, so it is written to the log and not shown to visitors.
        logging.getLogger(__name__).error("DATASET_ID cannot be used: %s", escape_line(str(error)))
        error_message = (
            "**The dataset of this Space cannot be read (see the log of the Space).** Drawn scenes are shown instead."
        )
        return gallery.draw_scenes(SCENE_COUNT), error_message


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve the page, with all of Gradio's features disabled that it does not use.

    Args:
        page (`gr.Blocks`): the page.
        **options (`Any`): passed to Gradio's `launch`.

    Returns:
        `Any`: what Gradio's `launch` returns.
    """
    # All calls go through the queue, so that its length limits the number of waiting calls.
    page.queue(max_size=MAX_QUEUE_SIZE, default_concurrency_limit=8, api_open=False)
    return page.launch(
        css=f"{css()}\n{ask.css()}",
        theme=theme(),
        max_file_size=MAX_BYTES,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs={
            "middleware": [
                Middleware(RequestGuard, calls=CallCheck(page.fns), upload_directory=Path(get_upload_folder()))
            ]
        },
        # Server-side rendering would start a Node server.
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        # Otherwise Gradio stores the inputs of every call in the browser, including a visitor's API key.
        run_history=False,
        footer_links=["api", "gradio", "settings"],
        **options,
    )


if __name__ == "__main__":
    launch(build(Settings.from_environment()))
