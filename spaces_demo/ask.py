"""Builds the tab Ask, which shows the answers of base and tuned model side by side while they are generated."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gradio as gr
from model import SpaceModels
from validation import MAX_QUESTION_CHARS, ImageInput, check_question, input_error

from compact_hf.errors import CompactError
from compact_hf.scenes.questions import make_question as ask_scene
from compact_hf.scenes.questions import supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import parse_seed, reserved_scenes

EXAMPLE_COUNT: Final = 6
# Finish reason -> text; the reason is empty while the model is writing.
_STATUS_TEXT: Final = {
    "": "writing",
    "done": "finished",
    "length": "stopped: maximum length",
    "time": "stopped: time limit",
}


def build_tab(models: SpaceModels, page: gr.Blocks) -> None:
    """Lay out the tab.

    Args:
        models (`SpaceModels`): the models that answer.
        page (`gr.Blocks`): the page; when a visitor opens it, the introduction is updated with the state of the models.
    """
    introduction = gr.Markdown(_introduction(models, "The models are loading …"))
    with gr.Row():
        with gr.Column(min_width=280):
            image = ImageInput(label="Image", sources=["upload", "clipboard"], type="filepath", height=300, buttons=[])
            question = gr.Textbox(
                label="Question",
                info=f"At most {MAX_QUESTION_CHARS} characters.",
                max_length=MAX_QUESTION_CHARS,
                lines=2,
            )
            button = gr.Button("Ask both", variant="primary")
        with gr.Column(min_width=280):
            with gr.Row():
                base = gr.Textbox(label="Base, before COMPACT tuning", interactive=False, lines=4, min_width=130)
                tuned = gr.Textbox(label="COMPACT-tuned", interactive=False, lines=4, min_width=130)
            status = gr.Markdown("Choose an example below, or upload your own image.", elem_classes="state")
    gr.Examples(
        _write_examples(), [image, question], label="Examples: drawn scenes that the shipped student was not trained on"
    )

    def ask(picture: bytes | None, question: str) -> Iterator[tuple[str, str, str]]:
        if picture is None:
            raise input_error("There is no image: upload one or choose an example.")
        checked_question = check_question(question)
        if not models.is_ready:
            yield "", "", "The models are still loading …"
        try:
            # Waits until the models are loaded.
            sides = models.sides()
            for answers in models.stream(picture, checked_question):
                # A full model without an adapter has only the side `tuned`.
                answer_by_side = dict(zip(sides, answers, strict=True))
                status_text = "; ".join(
                    f"{side}: {_STATUS_TEXT[answer.finish_reason]}" for side, answer in answer_by_side.items()
                )
                yield (
                    answer_by_side["base"].text if "base" in answer_by_side else "",
                    answer_by_side["tuned"].text,
                    status_text,
                )
        except CompactError as error:
            raise input_error(str(error)) from None

    def show_introduction() -> tuple[str, Any]:
        try:
            # Runs when a visitor opens the page; the introduction changes when loading has ended.
            sides = models.sides()
        except CompactError as error:
            return f"**{error}**", gr.update()
        return _introduction(models, ""), gr.update(visible="base" in sides)

    gr.on(
        [button.click, question.submit],
        ask,
        [image, question],
        [base, tuned, status],
        api_name="ask",
        # There is one model in memory, which answers one question at a time.
        concurrency_limit=1,
        trigger_mode="once",
    )
    page.load(
        show_introduction,
        None,
        [introduction, base],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=8,
    )


def _introduction(models: SpaceModels, note: str) -> str:
    """Return the text at the top of the tab: which model answers, and what happens to the visitor's data."""
    return (
        f"The model is {models.description}. **Base** is the model before COMPACT tuning, **tuned** after it. "
        "Both get the same question, and take turns writing a token. "
        f"Your image and question stay on this machine; the image is deleted within two hours. {note}"
    )


def _write_examples() -> list[list[str]]:
    """Draw scenes, write them to files as Gradio's examples need them, and return each path with a question."""
    import random

    directory = Path(tempfile.mkdtemp(prefix="compact-space-"))
    source = reserved_scenes(EXAMPLE_COUNT)
    examples = []
    for number, ref in enumerate(source.refs()):
        # The examples have k = 1, 2 and 3 in turn.
        scene, k = build_scene(parse_seed(ref)), number % 3 + 1
        rng = random.Random(number)
        question = ask_scene(scene, rng.choice(supported_combinations(scene, k)), rng)
        path = directory / f"scene-{number + 1}.png"
        path.write_bytes(source.read(ref))
        if question is not None:
            examples.append([str(path), question.question])
    return examples
