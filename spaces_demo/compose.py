"""The tab Compose: up to three capabilities and a picture in, the question that a teacher writes and its way through
verification out.

Drawn scenes are asked about by the embedded teacher, which needs neither key nor network. A visitor's own picture goes
to Gemini with the visitor's own key, which lives as long as the request does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import gradio as gr
from page import rendered
from step_trace import Step, steps
from validation import Key, Picture, refusal

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.errors import TeacherError, TeacherUnavailableError
from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.theme import spoken
from compact_hf.scenes.questions import supported
from compact_hf.scenes.scene import scene_of
from compact_hf.scenes.source import Scenes
from compact_hf.teachers.base import Teacher

MOST: Final = 3
SCENES: Final = 10_000
GEMINI_S: Final = 30.0
_SCENE, _OWN = "A drawn scene and the embedded teacher", "My own picture and Gemini"
_START: Final = ("color", "counting")


def tab(gemini_url: str | None) -> None:
    """Lay out the tab; `gemini_url` is another server than Google's, set by the owner alone."""
    gr.Markdown(
        "How a question is made: a teacher writes one that needs the capabilities you pick, filters check it, a "
        "verifier says what it needs without being told, and code compares. Only what passes gets into the data set."
    )
    with gr.Row():
        with gr.Column(min_width=280):
            wanted = gr.CheckboxGroup(
                [(spoken(name), name) for name in CAPABILITIES],
                value=list(_START),
                label="Capabilities",
                info=f"One to {MOST}.",
            )
            way = gr.Radio([_SCENE, _OWN], value=_SCENE, label="Picture and teacher")
            with gr.Group(visible=True) as of_scene:
                number = gr.Number(7, label=f"Scene, 0 to {SCENES - 1}", precision=0, minimum=0, maximum=SCENES - 1)
                shown = gr.HTML(_scene(7), elem_classes="scene")
                fault = gr.Checkbox(label="Let the teacher make a mistake, to see verification find it")
            with gr.Group(visible=False) as of_own:
                picture = Picture(
                    label="Your picture", sources=["upload", "clipboard"], type="filepath", height=260, buttons=[]
                )
                key = Key(
                    label="Gemini API key",
                    info="Sent to Google with this one request; not kept, not logged.",
                    type="password",
                    max_length=200,
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                )
                gr.Markdown(
                    "Your picture (as a JPEG of at most 1024 pixels, without metadata), the prompts and your key go to "
                    "Google's Gemini API, at your cost: up to three requests.",
                    elem_classes="note",
                )
            button = gr.Button("Write a question", variant="primary")
        with gr.Column(min_width=280):
            told = gr.HTML(rendered("steps.html.jinja", steps=()), elem_classes=["told", "ours-html"])

    async def compose(
        wanted: list[str], way: str, number: float | None, fault: bool, picture: bytes | None, key: str
    ) -> AsyncIterator[str]:
        if not 1 <= len(wanted) <= MOST:
            raise refusal(f"{len(wanted)} capabilities are picked; pick 1 to {MOST}.")
        combination = canonical(wanted)
        if way == _SCENE:
            seed = _seed(number)
            teacher, data, ref = _embedded(fault, seed), Scenes(seed, seed + 1).read(f"scene:{seed}"), f"scene:{seed}"
        else:
            if picture is None or not key:
                raise refusal("Your own picture and a Gemini key are both needed; drawn scenes need neither.")
            teacher, data, ref = _gemini(key, gemini_url), picture, "picture"
        async for page in _pages(teacher, data, ref, combination):
            yield page

    way.input(
        lambda chosen: (gr.update(visible=chosen == _SCENE), gr.update(visible=chosen == _OWN)),
        way,
        [of_scene, of_own],
        api_visibility="private",
        show_progress="hidden",
    )
    number.input(
        # What is being typed need not be a number yet.
        lambda chosen: gr.skip() if chosen is None else _scene(_seed(chosen)),
        number,
        shown,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    button.click(
        compose,
        [wanted, way, number, fault, picture, key],
        told,
        api_name="compose",
        concurrency_limit=4,
        trigger_mode="once",
    )


async def _pages(teacher: Teacher, data: bytes, ref: str, combination: tuple[str, ...]) -> AsyncIterator[str]:
    """Yield the page after each step; what the teacher's server says is never shown as it stands."""
    found: list[Step] = []
    try:
        async for step in steps(teacher, data, ref, combination):
            found.append(step)
            yield rendered("steps.html.jinja", steps=found, hint=_hint(found[0], ref, len(combination)))
    except TeacherUnavailableError as error:
        raise refusal(f"The teacher gave no answer ({error}); try again later.") from None
    except TeacherError:
        # Its message speaks to who runs a command, and quotes the server.
        raise refusal("Gemini refuses the key or the request; check the key, and that it may use the model.") from None
    finally:
        await teacher.close()


def _embedded(fault: bool, seed: int) -> Teacher:
    from compact_hf.teachers.scenes import ScenesTeacher

    return ScenesTeacher(noise=1.0 if fault else 0.0, seed=seed)


def _gemini(key: str, url: str | None) -> Teacher:
    from compact_hf.teachers.gemini import Gemini

    return Gemini(url=url, timeout_s=GEMINI_S, key=key)


def _seed(number: Any) -> int:
    if not isinstance(number, int | float) or not 0 <= number < SCENES:
        raise refusal(f"Scenes are numbered 0 to {SCENES - 1}.")
    return int(number)


def _scene(seed: int) -> str:
    small = thumbnail(Scenes(seed, seed + 1).read(f"scene:{seed}"))
    return rendered("scene.html.jinja", picture=small, seed=seed)


def _hint(written: Step, ref: str, k: int) -> str:
    """Say what a scene does support where the teacher found that it does not support what was picked."""
    if written.state == "failed" and ref.startswith("scene:"):
        possible = supported(scene_of(int(ref.removeprefix("scene:"))), k)
        if possible:
            return "This scene supports, for example, " + " + ".join(map(spoken, possible[len(possible) // 2])) + "."
    return ""
