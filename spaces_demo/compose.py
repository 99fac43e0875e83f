"""Builds the tab Compose, which shows step by step how a question about an image is written and verified.

Visitors choose up to three capabilities, and an image. Questions about drawn scenes are written by the embedded
teacher, which needs neither API key nor network. A visitor's own image is sent to Gemini with the visitor's own key,
which is kept only for the duration of the request.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr
from explore import GET_CLICKED_SCENE
from page import render_template
from step_trace import STAGES, Outcome, Step, iter_steps
from validation import ImageInput, KeyTextbox, input_error

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import StoppedEarly, TeacherError, TeacherUnavailableError
from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.theme import get_label
from compact_hf.scenes.questions import make_question, supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import SceneSource, parse_seed
from compact_hf.teachers.base import Teacher

MAX_CAPABILITIES: Final = 3
SCENE_COUNT: Final = 10_000
# Seconds for one of the up to three requests.
GEMINI_TIMEOUT_S: Final = 30.0
_SCENE_MODE, _UPLOAD_MODE = "A drawn scene", "My own image, with Gemini"
_DEFAULT_CAPABILITIES: Final = ("color", "counting")
_DEFAULT_SCENE: Final = 7
# Random scenes that are tried for a question with the selected capabilities: of all sets of three, the rarest is
# supported by about one scene in 60. Each takes about 4 ms.
_MAX_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class _SceneInputs:
    """The inputs for a drawn scene.

    Attributes:
        column (`gr.Column`): contains the others.
        number (`gr.Number`): number of the scene.
        preview (`gr.HTML`): the drawn scene.
        random_button (`gr.Button`): selects a random scene.
        mistake (`gr.Checkbox`): whether a mistake is planted.
    """

    column: gr.Column
    number: gr.Number
    preview: gr.HTML
    random_button: gr.Button
    mistake: gr.Checkbox


def build_tab(gemini_url: str | None, page: gr.Blocks, tabs: gr.Tabs, sheet: gr.HTML) -> None:
    """Lay out the tab. For visitors who open the Space with `?scene=N`, it is selected with this scene.

    Args:
        gemini_url (`str | None`): a server to use instead of Google's; it can only be set by the owner of the Space.
        page (`gr.Blocks`): the page.
        tabs (`gr.Tabs`): the tabs of the page, to select this one.
        sheet (`gr.HTML`): the cards of the tab Explore, which are clicked to open a scene here.
    """
    gr.Markdown(
        "See how a question of the dataset is made, and how a wrong one is found. Only a question that passes all "
        "steps becomes part of the dataset."
    )
    with gr.Row():
        with gr.Column(min_width=280):
            mode = gr.Radio([_SCENE_MODE, _UPLOAD_MODE], value=_SCENE_MODE, label="Image")
            scene = _build_scene_inputs()
            upload_column, image, key_textbox = _build_upload_inputs()
            capabilities = gr.CheckboxGroup(
                [(get_label(name), name) for name in CAPABILITIES],
                value=list(_DEFAULT_CAPABILITIES),
                label="Capabilities that the question needs",
                info=f"Choose 1 to {MAX_CAPABILITIES}.",
            )
            gr.HTML(render_template("capabilities.html.jinja"), elem_classes="ours-html")
            button = gr.Button("Write a question", variant="primary")
        with gr.Column(min_width=280):
            steps_html = gr.HTML(_render_steps(), elem_classes="ours-html", elem_id="compose-steps")

    async def compose(
        wanted: list[str], way: str, number: float | None, mistake: bool, image: bytes | None, key: str
    ) -> AsyncIterator[str]:
        if not 1 <= len(wanted) <= MAX_CAPABILITIES:
            raise input_error(f"{len(wanted)} capabilities are selected: select 1 to {MAX_CAPABILITIES}.")
        combination = canonicalize(wanted)
        if way == _SCENE_MODE:
            seed = _check_seed(number)
            ref = f"scene:{seed}"
            data = SceneSource(seed, seed + 1).read(ref)
            pages = _iter_pages(lambda: _scenes_teacher(seed), data, ref, combination, plants_mistake=mistake)
        elif image is None or not key:
            raise input_error(
                "An image and a Gemini API key are both needed. To try it without them, use a drawn scene."
            )
        else:
            pages = _iter_pages(
                lambda: _gemini_teacher(key, gemini_url), image, "image", combination, plants_mistake=False
            )
        # Each page replaces the previous one, with one more step.
        async for html in pages:
            yield html

    writing = button.click(
        compose,
        [capabilities, mode, scene.number, scene.mistake, image, key_textbox],
        steps_html,
        api_name="compose",
        concurrency_limit=4,
        show_progress="minimal",
        # Clicks while a question is being written are ignored.
        trigger_mode="once",
    )
    # On a phone the steps are below the button. Gradio runs this in the browser.
    button.click(
        None,
        None,
        None,
        js="() => { if (innerWidth <= 760) document.getElementById('compose-steps').scrollIntoView(); }",
        api_visibility="private",
    )
    # Steps that belong to other inputs disappear at once, in the browser, and no more of them are shown.
    gr.on(
        [
            capabilities.input,
            mode.input,
            scene.number.input,
            scene.random_button.click,
            scene.mistake.input,
            image.input,
            image.clear,
            sheet.click,
        ],
        None,
        None,
        steps_html,
        js=f"() => {json.dumps(_render_steps())}",
        cancels=[writing],
        api_visibility="private",
    )
    mode.input(
        lambda value: (gr.update(visible=value == _SCENE_MODE), gr.update(visible=value == _UPLOAD_MODE)),
        mode,
        [scene.column, upload_column],
        api_visibility="private",
        show_progress="hidden",
    )
    _connect_scene_inputs(scene, capabilities)
    opened = [tabs, mode, scene.column, upload_column, scene.number, scene.preview]
    sheet.click(
        _open_scene, scene.number, opened, js=GET_CLICKED_SCENE, api_visibility="private", show_progress="hidden"
    )
    page.load(_open_linked_scene, None, opened, api_visibility="private", show_progress="hidden")


def _open_scene(number: float | None) -> tuple[Any, ...]:
    """Select the tab with a drawn scene."""
    seed = _check_seed(number)
    selected, shown, hidden = gr.update(selected="compose"), gr.update(visible=True), gr.update(visible=False)
    return selected, _SCENE_MODE, shown, hidden, seed, _render_scene(seed)


def _open_linked_scene(request: gr.Request) -> tuple[Any, ...]:
    """Select the tab with the scene of the link; without such a link, nothing changes."""
    number = str(request.query_params.get("scene", ""))
    return _open_scene(int(number)) if re.fullmatch(r"[0-9]{1,4}", number) else (gr.skip(),) * 6


def _build_scene_inputs() -> _SceneInputs:
    """Lay out the selection of a drawn scene, with its preview."""
    with gr.Column() as column, gr.Row():
        with gr.Column(min_width=200, scale=4):
            preview = gr.HTML(_render_scene(_DEFAULT_SCENE), elem_classes="scene")
        with gr.Column(min_width=200, scale=5):
            number = gr.Number(
                _DEFAULT_SCENE,
                label=f"Scene, 0 to {SCENE_COUNT - 1}",
                precision=0,
                minimum=0,
                maximum=SCENE_COUNT - 1,
            )
            random_button = gr.Button("Random scene")
            mistake = gr.Checkbox(label="Plant a mistake", info="A wrong answer: will the verifier find it?")
    return _SceneInputs(column, number, preview, random_button, mistake)


def _connect_scene_inputs(scene: _SceneInputs, capabilities: gr.CheckboxGroup) -> None:
    """Draw the scene whose number is entered, or a random one that supports the selected capabilities."""
    scene.number.input(
        # The field is empty while a visitor types a new number.
        lambda value: gr.skip() if value is None else _render_scene(_check_seed(value)),
        scene.number,
        scene.preview,
        api_visibility="private",
        show_progress="hidden",
        # While a scene is drawn, only the last of the numbers that are typed is kept.
        trigger_mode="always_last",
    )

    def draw_random(wanted: list[str]) -> tuple[int, str]:
        seed = _find_random_scene(wanted)
        return seed, _render_scene(seed)

    scene.random_button.click(
        draw_random,
        capabilities,
        [scene.number, scene.preview],
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="once",
    )


def _build_upload_inputs() -> tuple[gr.Column, ImageInput, KeyTextbox]:
    """Lay out the upload of an image and the field for an API key; hidden until this mode is selected."""
    with gr.Column(visible=False) as column:
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
    return column, image, key_textbox


async def _iter_pages(
    open_teacher: Callable[[], Teacher],
    data: bytes,
    ref: str,
    combination: tuple[str, ...],
    *,
    plants_mistake: bool,
) -> AsyncIterator[str]:
    """Yield the page before the first step and after each step. Messages of the teacher's server are never shown."""
    steps: list[Step] = []
    yield _render_steps(running=True)
    # In a thread: the first one imports the client of Gemini, which takes seconds.
    teacher = await asyncio.to_thread(open_teacher)
    try:
        async for item in iter_steps(teacher, data, ref, combination, plants_mistake=plants_mistake):
            if isinstance(item, Outcome):
                yield _render_steps(steps, outcome=item, hint=_hint(steps, ref, len(combination)))
            else:
                steps.append(item)
                yield _render_steps(steps, running=item.state != "failed")
    except (StoppedEarly, TeacherError) as error:
        message = _describe_teacher_error(error)
        yield _render_steps([*steps, Step("failed", message)])
        # For clients of the API; in the page, the step has the message.
        raise gr.Error(message, visible=False, print_exception=False) from None
    finally:
        # Also after an error: the HTTP client holds the visitor's key.
        await teacher.close()


def _describe_teacher_error(error: StoppedEarly | TeacherError) -> str:
    """Return what a visitor can do. The error itself is meant for users of the command line, and quotes the server."""
    if isinstance(error, StoppedEarly):
        return "The daily quota of this API key is used up: try again tomorrow, or use a drawn scene."
    if isinstance(error, TeacherUnavailableError):
        return "Gemini does not answer at the moment, or the key has reached its limit: try again in a minute."
    return "Gemini refuses the API key or the request: check the key, and that it has access to the model."


def _scenes_teacher(seed: int) -> Teacher:
    from compact_hf.teachers.scenes import ScenesTeacher

    return ScenesTeacher(seed=seed)


def _gemini_teacher(key: str, url: str | None) -> Teacher:
    from compact_hf.teachers.gemini import Gemini

    return Gemini(url=url, timeout_s=GEMINI_TIMEOUT_S, key=key)


def _check_seed(number: Any) -> int:
    if not isinstance(number, int | float) or not 0 <= number < SCENE_COUNT:
        raise input_error(f"Scenes are numbered 0 to {SCENE_COUNT - 1}.")
    return int(number)


def _find_random_scene(wanted: Sequence[str]) -> int:
    """Return a random scene for which a question with the capabilities exists, if one is found soon."""
    seeds = random.sample(range(SCENE_COUNT), _MAX_TRIES)
    if not 1 <= len(wanted) <= MAX_CAPABILITIES:
        return seeds[0]
    combination = canonicalize(wanted)
    return next(
        (seed for seed in seeds if make_question(build_scene(seed), combination, random.Random(seed)) is not None),
        seeds[0],
    )


def _render_scene(seed: int) -> str:
    preview = thumbnail(SceneSource(seed, seed + 1).read(f"scene:{seed}"))
    return render_template("scene.html.jinja", image=preview, seed=seed)


def _render_steps(
    steps: Sequence[Step] = (), *, running: bool = False, outcome: Outcome | None = None, hint: str = ""
) -> str:
    """Return the HTML of all steps; `running` says that the step after the finished ones has begun."""
    return render_template("steps.html.jinja", stages=STAGES, steps=steps, running=running, outcome=outcome, hint=hint)


def _hint(steps: Sequence[Step], ref: str, k: int) -> str:
    """Return what to try instead if a drawn scene does not support the selected capabilities."""
    if steps[0].state != "failed" or not ref.startswith("scene:"):
        return ""
    combinations = supported_combinations(build_scene(parse_seed(ref)), k)
    example = " + ".join(map(get_label, combinations[len(combinations) // 2])) if combinations else ""
    return f"“Random scene” finds one that supports it.{example and f' This scene supports, for example, {example}.'}"
