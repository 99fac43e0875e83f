"""Draws the example scenes of the tab Ask, and computes the right answers of questions about them.

Each question has one obvious referent in its scene. The seeds of the scenes are reserved for evaluation, so the shipped
student was not trained on them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from validation import check_image

from compact_hf.scenes.questions import UNANSWERABLE, SceneQuestion, analyze_question
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import EVALUATION_SEEDS, Scene, build_scene

# (offset in `EVALUATION_SEEDS`, question), chosen by eye for clear images. The shipped student answers four of the six
# right after tuning, about as many as of all questions of the tab Results.
_QUESTIONS: Final = (
    (7, "What is the girl who is in the foreground busy doing?"),
    (53, "What color is the fridge?"),
    (12, "What kind of thing is the object next to the rabbit?"),
    (40, "What is the shape of the badge of the person who is dressed in red and is drinking?"),
    (43, "Which species is the animal?"),
    (50, "What word is on the object that is purple and is being photographed by a person?"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """An example of the tab Ask.

    Attributes:
        question (`str`): the question.
        image (`bytes`): the scene as a PNG file.
        path (`Path`): a file with the image, for Gradio.
    """

    question: str
    image: bytes
    path: Path


@cache
def draw_examples() -> tuple[Example, ...]:
    """Draw the scenes, and write them to files in a temporary directory."""
    directory = Path(tempfile.mkdtemp(prefix="compact-space-"))
    examples = []
    for offset, question in _QUESTIONS:
        path = directory / f"scene-{offset}.png"
        # As `ImageInput` passes it on.
        image = check_image(render_png(_build(offset)))
        path.write_bytes(image)
        examples.append(Example(question, image, path))
    return tuple(examples)


def find_right_answer(image: bytes, question: str) -> SceneQuestion | None:
    """Return a question with its right answer and the capabilities that it needs.

    Args:
        image (`bytes`): the encoded image.
        question (`str`): the question.

    Returns:
        `SceneQuestion | None`: None if the image is not an example, or the question is not of a known form or has no
        single answer.
    """
    scene = _scenes_by_hash().get(sha256(image).digest())
    known = analyze_question(scene, question) if scene else None
    return None if known is None or known.answer == UNANSWERABLE else known


@cache
def _scenes_by_hash() -> dict[bytes, Scene]:
    offsets = (offset for offset, _ in _QUESTIONS)
    return {
        sha256(example.image).digest(): _build(offset) for offset, example in zip(offsets, draw_examples(), strict=True)
    }


def _build(offset: int) -> Scene:
    return build_scene(EVALUATION_SEEDS[offset])
