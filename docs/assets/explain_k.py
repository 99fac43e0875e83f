"""Draws the figure that explains k: a drawn scene and four questions about it, which need one to four capabilities.

python docs/assets/explain_k.py      # writes k.png to the same directory
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from compact_hf.reports.contact_sheet import Entry, render_image_with_questions
from compact_hf.scenes.questions import make_question
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import build_scene

SCENE: Final = 4
QUESTIONS: Final = (
    (("counting",), 13),
    (("shape", "counting"), 15),
    (("color", "shape", "counting"), 9),
    (("color", "shape", "spatial_recognition", "counting"), 2),
)
"""Combinations of capabilities, each with a random seed that makes the wordings of the four questions similar."""


def entries() -> list[Entry]:
    """Return the questions with their answers."""
    scene = build_scene(SCENE)
    questions = [make_question(scene, capabilities, random.Random(seed)) for capabilities, seed in QUESTIONS]
    return [Entry(item.question, item.answer, item.capabilities) for item in questions if item]


if __name__ == "__main__":
    Path(__file__).with_name("k.png").write_bytes(
        render_image_with_questions(render_png(build_scene(SCENE)), entries())
    )
