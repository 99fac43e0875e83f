"""The tab Ask: a picture and a question in, the answers of base and tuned model out, side by side as they grow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gradio as gr
from model import Answering
from validation import LONGEST_QUESTION, Picture, question_of, refusal

from compact_hf.errors import CompactError
from compact_hf.scenes.questions import ask as ask_scene
from compact_hf.scenes.questions import supported
from compact_hf.scenes.scene import scene_of
from compact_hf.scenes.source import reserved, seed_of

EXAMPLES: Final = 6
_ENDED: Final = {
    "": "writing",
    "done": "finished",
    "length": "cut: too long",
    "time": "stopped: it took too long",
}


def tab(answering: Answering, on_load: gr.Blocks) -> None:
    """Lay out the tab; `on_load` is the page, whose visitors are told who answers as soon as that is known."""
    who = gr.Markdown(_introduction(answering, "The models are being loaded …"))
    with gr.Row():
        with gr.Column(min_width=280):
            picture = Picture(label="Picture", sources=["upload", "clipboard"], type="filepath", height=300, buttons=[])
            question = gr.Textbox(
                label="Question", info=f"At most {LONGEST_QUESTION} characters.", max_length=LONGEST_QUESTION, lines=2
            )
            button = gr.Button("Ask both", variant="primary")
        with gr.Column(min_width=280):
            with gr.Row():
                base = gr.Textbox(label="Base, before COMPACT tuning", interactive=False, lines=4, min_width=130)
                tuned = gr.Textbox(label="COMPACT-tuned", interactive=False, lines=4, min_width=130)
            state = gr.Markdown("Choose an example below, or a picture of your own.", elem_classes="state")
    gr.Examples(_examples(), [picture, question], label="Examples: drawn scenes that the shipped student never saw")

    def ask(picture: bytes | None, question: str) -> Iterator[tuple[str, str, str]]:
        if picture is None:
            raise refusal("There is no picture; drop one or choose an example.")
        asked = question_of(question)
        if not answering.ready:
            yield "", "", "The models are still being loaded …"
        try:
            sides = answering.sides()
            for answers in answering.stream(picture, asked):
                said = dict(zip(sides, answers, strict=True))
                told = "; ".join(f"{side}: {_ENDED[answer.ended]}" for side, answer in said.items())
                yield said["base"].text if "base" in said else "", said["tuned"].text, told
        except CompactError as error:
            raise refusal(str(error)) from None

    def tell_who() -> tuple[str, Any]:
        try:
            sides = answering.sides()
        except CompactError as error:
            return f"**{error}**", gr.update()
        return _introduction(answering, ""), gr.update(visible="base" in sides)

    gr.on(
        [button.click, question.submit],
        ask,
        [picture, question],
        [base, tuned, state],
        api_name="ask",
        # One model, one answer at a time.
        concurrency_limit=1,
        trigger_mode="once",
    )
    on_load.load(tell_who, None, [who, base], api_visibility="private", show_progress="hidden", concurrency_limit=8)


def _introduction(answering: Answering, more: str) -> str:
    return (
        f"Here answers {answering.names}: **base** as it was before COMPACT tuning, **tuned** after it. Both are asked "
        "the same, and write a token each in turn. "
        f"Your picture and question stay on this machine and are deleted within two hours. {more}"
    )


def _examples() -> list[list[str]]:
    """Draw scenes, write them to files, as Gradio wants them, and return each with a question about it."""
    import random

    folder = Path(tempfile.mkdtemp(prefix="compact-space-"))
    source = reserved(EXAMPLES)
    examples = []
    for number, ref in enumerate(source.refs()):
        scene, k = scene_of(seed_of(ref)), number % 3 + 1
        rng = random.Random(number)
        found = ask_scene(scene, rng.choice(supported(scene, k)), rng)
        path = folder / f"scene-{number + 1}.png"
        path.write_bytes(source.read(ref))
        if found is not None:
            examples.append([str(path), found.question])
    return examples
