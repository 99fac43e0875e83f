"""Builds the tab Compose, which shows step by step how a question about an image is written and verified.

Visitors choose up to three capabilities, and an image. Questions about drawn scenes are written by the embedded
teacher, which needs neither API key nor network. A visitor's own image is sent to Gemini with the visitor's own key,
which is kept only for the duration of the request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import gradio as gr
from page import render_template
from step_trace import Step, iter_steps
from validation import ImageInput, KeyTextbox, input_error

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import TeacherError, TeacherUnavailableError
from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.theme import get_label
from compact_hf.scenes.questions import supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import SceneSource
from compact_hf.teachers.base import Teacher

MAX_CAPABILITIES: Final = 3
SCENE_COUNT: Final = 10_000
# Seconds for one of the up to three requests.
GEMINI_TIMEOUT_S: Final = 30.0
_SCENE_MODE, _UPLOAD_MODE = "A drawn scene and the embedded teacher", "My own image and Gemini"
_DEFAULT_CAPABILITIES: Final = ("color", "counting")


def build_tab(gemini_url: str | None) -> None:
    """Lay out the tab; `gemini_url` is a server to use instead of Google's, and can only be set by the owner."""
    gr.Markdown(
        "How a question is made: a teacher writes a question that needs the capabilities you choose. Filters check it. "
        "A verifier, who does not see your choice, lists the capabilities that the question needs. Code compares the "
        "two lists. Only questions that pass all steps become part of the dataset."
    )
    with gr.Row():
        with gr.Column(min_width=280):
            capabilities = gr.CheckboxGroup(
                [(get_label(name), name) for name in CAPABILITIES],
                value=list(_DEFAULT_CAPABILITIES),
                label="Capabilities",
                info=f"Choose 1 to {MAX_CAPABILITIES}.",
            )
            mode = gr.Radio([_SCENE_MODE, _UPLOAD_MODE], value=_SCENE_MODE, label="Image and teacher")
            scene_group, scene_number, fault = _build_scene_inputs()
            upload_group, image, key_textbox = _build_upload_inputs()
            button = gr.Button("Write a question", variant="primary")
        with gr.Column(min_width=280):
            steps_html = gr.HTML(render_template("steps.html.jinja", steps=()), elem_classes=["told", "ours-html"])

    async def compose(
        wanted: list[str], way: str, number: float | None, fault: bool, picture: bytes | None, key: str
    ) -> AsyncIterator[str]:
        if not 1 <= len(wanted) <= MAX_CAPABILITIES:
            raise input_error(f"{len(wanted)} capabilities are selected: select 1 to {MAX_CAPABILITIES}.")
        combination = canonicalize(wanted)
        if way == _SCENE_MODE:
            seed = _check_seed(number)
            ref = f"scene:{seed}"
            pages = _iter_pages(_scenes_teacher(fault, seed), SceneSource(seed, seed + 1).read(ref), ref, combination)
        elif picture is None or not key:
            raise input_error(
                "An image and a Gemini API key are both needed. To try it without them, use drawn scenes."
            )
        else:
            pages = _iter_pages(_gemini_teacher(key, gemini_url), picture, "picture", combination)
        # Each page replaces the previous one, with one more step.
        async for html in pages:
            yield html

    mode.input(
        lambda value: (gr.update(visible=value == _SCENE_MODE), gr.update(visible=value == _UPLOAD_MODE)),
        mode,
        [scene_group, upload_group],
        api_visibility="private",
        show_progress="hidden",
    )
    button.click(
        compose,
        [capabilities, mode, scene_number, fault, image, key_textbox],
        steps_html,
        api_name="compose",
        concurrency_limit=4,
        # Clicks while a question is being written are ignored.
        trigger_mode="once",
    )


def _build_scene_inputs() -> tuple[gr.Group, gr.Number, gr.Checkbox]:
    """Lay out the selection of a drawn scene, with its preview."""
    with gr.Group(visible=True) as group:
        number = gr.Number(7, label=f"Scene, 0 to {SCENE_COUNT - 1}", precision=0, minimum=0, maximum=SCENE_COUNT - 1)
        preview = gr.HTML(_render_scene(7), elem_classes="scene")
        fault = gr.Checkbox(label="Make the teacher write a faulty question, to see how verification finds the fault")
    number.input(
        # The field is empty while a visitor types a new number.
        lambda value: gr.skip() if value is None else _render_scene(_check_seed(value)),
        number,
        preview,
        api_visibility="private",
        show_progress="hidden",
        # While a scene is drawn, only the last of the numbers that are typed is kept.
        trigger_mode="always_last",
    )
    return group, number, fault


def _build_upload_inputs() -> tuple[gr.Group, ImageInput, KeyTextbox]:
    """Lay out the upload of an image and the field for an API key; hidden until this mode is selected."""
    with gr.Group(visible=False) as group:
        image = ImageInput(label="Your image", sources=["upload", "clipboard"], type="filepath", height=260, buttons=[])
        key_textbox = KeyTextbox(
            label="Gemini API key",
            info="Sent to Google with this request; neither stored nor logged.",
            type="password",
            max_length=200,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
        gr.Markdown(
            "Your image (as a JPEG of at most 1024 pixels, without metadata), the prompts and your key are sent to "
            "Google's Gemini API, in up to three requests, at your cost.",
            elem_classes="note",
        )
    return group, image, key_textbox


async def _iter_pages(teacher: Teacher, data: bytes, ref: str, combination: tuple[str, ...]) -> AsyncIterator[str]:
    """Yield the page after each step. Messages of the teacher's server are never shown unchanged."""
    finished_steps: list[Step] = []
    try:
        async for step in iter_steps(teacher, data, ref, combination):
            finished_steps.append(step)
            yield render_template(
                "steps.html.jinja", steps=finished_steps, hint=_hint(finished_steps[0], ref, len(combination))
            )
    except TeacherUnavailableError as error:
        raise input_error(f"The teacher did not answer ({error}): try again later.") from None
    except TeacherError:
        # Its message is meant for users of the command line, and quotes the server.
        raise input_error(
            "Gemini refuses the API key or the request: check the key, and that it has access to the model."
        ) from None
    finally:
        # Also after an error: the HTTP client holds the visitor's key.
        await teacher.close()


def _scenes_teacher(fault: bool, seed: int) -> Teacher:
    from compact_hf.teachers.scenes import ScenesTeacher

    return ScenesTeacher(fault_rate=1.0 if fault else 0.0, seed=seed)


def _gemini_teacher(key: str, url: str | None) -> Teacher:
    from compact_hf.teachers.gemini import Gemini

    return Gemini(url=url, timeout_s=GEMINI_TIMEOUT_S, key=key)


def _check_seed(number: Any) -> int:
    if not isinstance(number, int | float) or not 0 <= number < SCENE_COUNT:
        raise input_error(f"Scenes are numbered 0 to {SCENE_COUNT - 1}.")
    return int(number)


def _render_scene(seed: int) -> str:
    preview = thumbnail(SceneSource(seed, seed + 1).read(f"scene:{seed}"))
    return render_template("scene.html.jinja", picture=preview, seed=seed)


def _hint(draft_step: Step, ref: str, k: int) -> str:
    """Return an example of capabilities that a scene supports, if it does not support the selected ones."""
    if draft_step.state == "failed" and ref.startswith("scene:"):
        combinations = supported_combinations(build_scene(int(ref.removeprefix("scene:"))), k)
        if combinations:
            return (
                "This scene supports, for example, "
                + " + ".join(map(get_label, combinations[len(combinations) // 2]))
                + "."
            )
    return ""
