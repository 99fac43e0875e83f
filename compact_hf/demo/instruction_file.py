"""A small file in LLaVA's format, made of scenes and sums, so that the demo has an instruction part to sample.

Rows with a picture, rows without one, several turns, and one row whose picture is missing, as real files have.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.scenes.questions import ask, supported
from compact_hf.scenes.render import png
from compact_hf.scenes.scene import scene_of

FILE_NAME: Final = "instruction.json"
# Far from the seeds 0 to N-1 that the demo generates from, so that no picture is in both parts.
_FIRST_SEED: Final = 500_000
_TURNS: Final = 3


def write_instruction_file(folder: Path, *, with_picture: int, without_picture: int) -> Path:
    """Write `instruction.json` and its pictures into `folder`, and return the file's path.

    Args:
        folder (`Path`): is made; what stands there is written over.
        with_picture, without_picture (`int`): rows of each kind; one row more names a picture that is not there.
    """
    pictures = folder / "scenes"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [_about_a_scene(pictures, _FIRST_SEED + index) for index in range(with_picture)]
    rows += [_about_a_sum(index) for index in range(without_picture)]
    rows.append({**rows[0], "id": "picture-missing", "image": "scenes/missing.png"})
    file = folder / FILE_NAME
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return file


def _about_a_scene(pictures: Path, seed: int) -> dict[str, Any]:
    scene = scene_of(seed)
    name = f"scene-{seed}.png"
    (pictures / name).write_bytes(png(scene))
    rng = random.Random(seed)
    asked = [ask(scene, combination, rng) for combination in supported(scene, 1)]
    chosen = [question for question in asked if question is not None][:_TURNS]
    conversation = []
    for index, question in enumerate(chosen):
        mark = "<image>\n" if index == 0 else ""
        end = f"\n{SHORT_ANSWER_INSTRUCTION}" if index == 0 else ""
        conversation += _turn(f"{mark}{question.question}{end}", question.answer)
    return {"id": f"scene-{seed}", "image": f"scenes/{name}", "conversations": conversation}


def _about_a_sum(index: int) -> dict[str, Any]:
    rng = random.Random(index)
    one, other = rng.randint(2, 9), rng.randint(2, 9)
    return {
        "id": f"sum-{index}",
        "conversations": _turn(f"What is {one} plus {other}, and then {index}?", str(one + other + index)),
    }


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
