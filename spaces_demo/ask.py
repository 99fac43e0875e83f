"""Builds the tab Ask, which shows the answers before and after tuning side by side while they are generated.

It opens with an example that the models have answered. Questions about the examples have a known right answer, so both
answers are marked as right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr
from examples import draw_examples, find_right_answer
from model import AFTER, ALONE, BEFORE, Answers, SpaceModels
from page import render_template
from validation import MAX_QUESTION_CHARS, ImageInput, check_question, input_error

from compact_hf.answers import same_answer
from compact_hf.errors import CompactError
from compact_hf.reports.contact_sheet import thumbnail

# Finish reason -> text; the reason is empty while the model is writing.
_STATUS_TEXT: Final = {
    "": "writing …",
    "done": "",
    "length": "stopped at the maximum length",
    "time": "stopped at the time limit",
}
_LOADING: Final = "The models are loading …"
_NO_ANSWERS: Final = Answers({}, 0.0)


@dataclass(frozen=True, slots=True)
class AnswerCard:
    """An answer as it is shown.

    Attributes:
        model (`str`): which model answers.
        text (`str`, *optional*, defaults to ""): the text so far.
        status (`str`, *optional*, defaults to ""): how it ended, if not by itself; or that it has not ended.
        mark (`str`, *optional*, defaults to ""): `right` or `wrong`; empty if that is unknown.
    """

    model: str
    text: str = ""
    status: str = ""
    mark: str = ""


def build_tab(models: SpaceModels, page: gr.Blocks) -> None:
    """Lay out the tab.

    Args:
        models (`SpaceModels`): the models that answer. Their first question is that of the first example.
        page (`gr.Blocks`): the page; when a visitor opens it, the first example is shown with its answers.
    """
    examples = draw_examples()
    first = examples[0]
    gr.Markdown(
        f"The model is {models.description}. "
        + ("It gets each question twice: **before tuning** on COMPACT data and **after tuning**. " * bool(models.names))
        + "Your image and question stay on this machine; the image is deleted within two hours."
    )
    chosen = gr.Radio(
        [(example.question, number) for number, example in enumerate(examples)],
        value=0,
        label="Examples",
        info="Drawn scenes that the shipped student was not trained on, with known right answers.",
        elem_id="examples",
    )
    with gr.Row():
        with gr.Column(min_width=280, scale=4):
            image = ImageInput(
                str(first.path),
                label="Image",
                sources=["upload", "clipboard"],
                type="filepath",
                height=420,
                buttons=[],
                elem_id="asked-image",
            )
        with gr.Column(min_width=280, scale=5):
            answers_html = gr.HTML(
                _render(models, first.image, first.question, None, _LOADING), elem_classes="ours-html"
            )
            question = gr.Textbox(
                first.question,
                label="Question",
                info=f"Change it, or upload your own image. At most {MAX_QUESTION_CHARS} characters.",
                max_length=MAX_QUESTION_CHARS,
                lines=2,
            )
            button = gr.Button("Ask both" if models.names else "Ask", variant="primary")

    def ask(image: bytes | None, question: str) -> Iterator[str]:
        if image is None:
            raise input_error("There is no image: upload one or choose an example.")
        yield from _iter_answers(models, image, check_question(question))

    def ask_example(number: int) -> Iterator[tuple[Any, Any, str]]:
        example = examples[number]
        inputs: tuple[Any, Any] = str(example.path), example.question
        for html in _iter_answers(models, example.image, example.question):
            yield *inputs, html
            inputs = gr.skip(), gr.skip()

    def show_first_answers() -> str:
        try:
            answers = models.first_answers()
        except CompactError as error:
            return _render(models, first.image, first.question, _NO_ANSWERS, str(error))
        note = (
            f"Answered in {answers.seconds:.1f} s, when this Space started."
            if answers
            else "Press the button to get the answers."
        )
        return _render(models, first.image, first.question, answers or _NO_ANSWERS, note)

    queue: dict[str, Any] = {
        # There is one model in memory, which answers one question at a time.
        "concurrency_limit": 1,
        "concurrency_id": "models",
        "show_progress": "minimal",
        "show_progress_on": answers_html,
    }
    gr.on(
        [button.click, question.submit],
        ask,
        [image, question],
        answers_html,
        api_name="ask",
        trigger_mode="once",
        **queue,
    )
    chosen.input(
        ask_example,
        chosen,
        [image, question, answers_html],
        api_visibility="private",
        # While an example is answered, only the last one of those that are chosen is kept.
        trigger_mode="always_last",
        **queue,
    )
    # The form no longer shows an example, so that all of them can be chosen again.
    gr.on([image.input, question.input, button.click, question.submit], None, None, chosen, js="() => [null]")
    page.load(
        show_first_answers,
        None,
        answers_html,
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=8,
    )


def css() -> str:
    """Return the CSS that shows the scene of each example beside its question."""
    rules = (
        f'#examples label:nth-child({number}) {{ background-image: url("{thumbnail(example.image)["url"]}"); }}'
        for number, example in enumerate(draw_examples(), 1)
    )
    return "\n".join(rules)


def _iter_answers(models: SpaceModels, image: bytes, question: str) -> Iterator[str]:
    """Yield the answers as HTML after every new token."""
    yield _render(models, image, question, None, "Writing …" if models.is_ready else _LOADING)
    try:
        for answers in models.stream(image, question):
            is_finished = all(answer.finish_reason for answer in answers.by_model.values())
            note = f"Answered in {answers.seconds:.1f} s." if is_finished else "Writing …"
            yield _render(models, image, question, answers, note)
    except CompactError as error:
        raise input_error(str(error)) from None


def _render(models: SpaceModels, image: bytes, question: str, answers: Answers | None, note: str) -> str:
    """Return the question with the answers so far, marked if the right answer is known."""
    known = find_right_answer(image, question)
    reason = (
        "Before tuning, the student was trained only to describe images and to mark things in them, never on "
        "questions. So it answers every question with a description or with coordinates."
        if models.is_shipped
        else ""
    )
    if answers:
        cards = _make_cards(answers, known.answer if known else "")
    else:
        cards = [AnswerCard(name) for name in ((BEFORE, AFTER) if models.names else (ALONE,))]
    return render_template("answers.html.jinja", question=question, known=known, cards=cards, reason=reason, note=note)


def _make_cards(answers: Answers, right_answer: str) -> list[AnswerCard]:
    cards = []
    for model, answer in answers.by_model.items():
        text = answer.text or ("(empty)" if answer.finish_reason else "")
        # An answer that ran out of time is neither right nor wrong.
        is_complete = answer.finish_reason in ("done", "length")
        mark = ("right" if same_answer(answer.text, right_answer) else "wrong") if right_answer and is_complete else ""
        cards.append(AnswerCard(model, text, _STATUS_TEXT[answer.finish_reason], mark))
    return cards
