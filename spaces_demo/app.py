"""The Space: look through COMPACT data by k and capability, and ask a tuned model about a picture.

    python app.py

Settings, all by environment variable and all optional: DATASET_ID, a release's folder or Hub repository to look
through (without it: scenes drawn at the start); MODEL_ID, a model's or an adapter's folder or Hub repository to ask.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import gallery
import gradio as gr
from PIL import Image

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import CompactError
from compact_hf.images.decode import PictureError
from compact_hf.pictures.contact_sheet import Shown, fragment, stylesheet
from compact_hf.pictures.style import css_variables, spoken

SCENES = 60
ROWS_PER_K = 60
PAGE = 12
LONGEST_QUESTION = 300
LONGEST_ANSWER = 32
ANY = "any"

INTRODUCTION = """# COMPACT, question by question
Every question here was made to need exactly **k** of ten visual capabilities at once
([the paper](https://arxiv.org/abs/2504.21850)). Look at what that means, or ask a model that was tuned on such
questions.
"""
NO_MODEL = """### No model is set
Set the variable `MODEL_ID` of this Space (Settings, Variables) to a vision-language model or to an adapter that
`compact tune` made, as a Hub repository such as `ORG/NAME` or as a folder, and start it again. A model of 7 billion
parameters needs a GPU with 24 GB.
"""


def explore_tab(shown: Sequence[Shown], origin: str) -> None:
    """Lay out the tab that filters and pages through `shown`."""

    def look(k: str, capability: str, page: float) -> tuple[str, str]:
        found = gallery.chosen(shown, None if k == ANY else int(k), None if capability == ANY else capability)
        pages = max(-(-len(found) // PAGE), 1)
        here = min(max(int(page or 1), 1), pages)
        told = f"{len(found)} of {len(shown)} pictures of {origin}. Page {here} of {pages}."
        return fragment(found[(here - 1) * PAGE : here * PAGE]), told

    def look_anew(k: str, capability: str) -> tuple[int, str, str]:
        return 1, *look(k, capability, 1)

    with gr.Row(equal_height=True):
        k = gr.Radio([ANY, *(str(k) for k in sorted({one.k for one in shown}))], value=ANY, label="k")
        capability = gr.Dropdown(
            [(ANY, ANY), *((spoken(name), name) for name in CAPABILITIES)], value=ANY, label="capability"
        )
        page = gr.Number(1, label="page", precision=0, minimum=1)
    first, where = look(ANY, ANY, 1)
    told = gr.Markdown(where)
    sheet = gr.HTML(first, padding=False)
    page.input(look, [k, capability, page], [sheet, told], api_name="explore")
    gr.on([k.input, capability.input], look_anew, [k, capability], [page, sheet, told], api_visibility="private")


def ask_tab(model: str, shown: Sequence[Shown]) -> None:
    """Lay out the tab that asks `model`; without one it says what to set."""
    if not model:
        gr.Markdown(NO_MODEL)
        return
    from compact_hf.evaluation.student import Student

    try:
        student = Student(model)
    except CompactError as error:
        gr.Markdown(f"### MODEL_ID cannot be used\n{error}")
        return

    def ask(picture: str | None, question: str) -> str:
        question = (question or "").strip()
        if picture is None:
            raise gr.Error("There is no picture; drop one or choose an example.", print_exception=False)
        # The browser's own limit does not bind those who call the API.
        if not 1 <= len(question) <= LONGEST_QUESTION:
            raise gr.Error(
                f"The question has {len(question)} characters; 1 to {LONGEST_QUESTION} are allowed.",
                print_exception=False,
            )
        try:
            (answer,) = student.answer([(Path(picture).read_bytes(), question)], max_new_tokens=LONGEST_ANSWER)
        except PictureError as error:
            raise gr.Error(f"The picture cannot be read: {error}", print_exception=False) from error
        return answer

    gr.Markdown(f"Answers come from `{model}`. Pictures are deleted within two hours.")
    with gr.Row():
        picture = gr.Image(type="filepath", label="picture", sources=["upload", "clipboard"], height=336)
        with gr.Column():
            question = gr.Textbox(label="question", max_length=LONGEST_QUESTION, lines=2)
            button = gr.Button("Ask", variant="primary")
            answer = gr.Textbox(label="answer", interactive=False)
    gr.Examples(_examples(shown[:6]), [picture, question])
    gr.on([button.click, question.submit], ask, [picture, question], answer, api_name="ask")


def _examples(shown: Sequence[Shown]) -> list[list[str]]:
    """Write pictures to files, as Gradio wants them, and return each with its first question."""
    folder = Path(tempfile.mkdtemp(prefix="compact-space-"))
    examples = []
    for number, one in enumerate(shown):
        with Image.open(BytesIO(one.picture)) as opened:
            path = folder / f"{number}.{(opened.format or 'png').lower()}"
        path.write_bytes(one.picture)
        examples.append([str(path), one.turns[0].question])
    return examples


def build(dataset: str, model: str) -> gr.Blocks:
    """Return the page for a data set and a model; either may be empty."""
    trouble = ""
    try:
        shown = gallery.of_dataset(dataset, per_k=ROWS_PER_K) if dataset else ()
    except CompactError as error:
        shown, trouble = (), f"**DATASET_ID cannot be used:** {error} Drawn scenes are shown instead."
    origin = f"`{dataset}`" if shown else "scenes drawn here, with the questions that the scenes teacher asks"
    shown = shown or gallery.of_scenes(SCENES)
    with gr.Blocks(title="COMPACT, question by question", delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        if trouble:
            gr.Markdown(trouble)
        with gr.Tab("Explore"):
            explore_tab(shown, origin)
        with gr.Tab("Ask"):
            ask_tab(model, shown)
    return page


def css() -> str:
    """Return the page's style: the package's tones and contact sheet under Gradio's light and dark, and our own."""
    own = Path(__file__).with_name("app.css").read_text(encoding="utf-8")
    return f":root {{ {css_variables(0)} }}\n.dark {{ {css_variables(1)} }}\n{stylesheet()}\n{own}"


if __name__ == "__main__":
    space = build(os.environ.get("DATASET_ID", ""), os.environ.get("MODEL_ID", ""))
    space.queue(max_size=32, default_concurrency_limit=1).launch(
        css=css(), theme=gr.themes.Soft(primary_hue="purple"), max_file_size="5mb", ssr_mode=False
    )
