"""What k means, in one picture: a drawn scene and four questions about it, each of which needs one capability more.

python docs/pictures/explain_k.py      # writes k.png beside itself
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from compact_hf.reports.contact_sheet import Entry, ladder
from compact_hf.scenes.questions import ask
from compact_hf.scenes.render import png
from compact_hf.scenes.scene import scene_of

SCENE: Final = 4
ASKED: Final = (
    (("counting",), 13),
    (("shape", "counting"), 15),
    (("color", "shape", "counting"), 9),
    (("color", "shape", "spatial_recognition", "counting"), 2),
)
"""Combinations of capabilities, each with the seed of the wording that is most like the others'."""


def entries() -> list[Entry]:
    """Return the questions with their answers."""
    scene = scene_of(SCENE)
    asked = [ask(scene, capabilities, random.Random(seed)) for capabilities, seed in ASKED]
    return [Entry(one.question, one.answer, one.capabilities) for one in asked if one]


if __name__ == "__main__":
    Path(__file__).with_name("k.png").write_bytes(ladder(png(scene_of(SCENE)), entries()))
