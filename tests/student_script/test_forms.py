"""Checks that a short LoRA on the aligned base answers in points and JSON calls, to requests of new wording."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from captions import draw_part
from pretrain import FIRST_SEEDS

from compact_hf.evaluation.inference import Student
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.scenes.render import get_box, render
from compact_hf.scenes.scene import EVALUATION_SEEDS, SIZE, build_scene
from compact_hf.training.train import tune

# PEFT 0.21 still uses a property that transformers 5.23 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RECIPE = Path(__file__).parents[2] / "student_script" / "student-lora.yaml"
# Above the scenes of alignment and of all other stages.
FIRST_TRAINING_SEED = 10 * max(FIRST_SEEDS.values())
POINT = re.compile(r"\[(\d{1,3}), (\d{1,3})\]")


@dataclass(frozen=True)
class Target:
    """One thing of a scene: the encoded image, a phrase that refers to nothing else, and its box in percent."""

    image: bytes
    phrase: str
    box: tuple[float, float, float, float]

    @property
    def point_request(self) -> str:
        return f"Where is {self.phrase}? Answer with a point."

    @property
    def point(self) -> str:
        left, top, right, bottom = self.box
        return f"[{round((left + right) / 2)}, {round((top + bottom) / 2)}]"

    @property
    def call_request(self) -> str:
        return f"Which call finds {self.phrase}?"

    @property
    def call(self) -> dict[str, Any]:
        return {"action": "find", "params": {"phrase": self.phrase, "limit": 1}}


def iter_targets(seeds: range) -> Iterator[Target]:
    """Yield one target per scene; a scene is left out if three phrases refer to no single thing."""
    for seed in seeds:
        scene, rng = build_scene(seed), random.Random(seed)
        parts = [part for part in (draw_part(scene, rng) for _ in range(3)) if len(part.objects) == 1]
        if parts:
            buffer = BytesIO()
            render(scene).save(buffer, "PNG")
            left, top, right, bottom = (100 * value / SIZE for value in get_box(parts[0].objects[0]))
            yield Target(buffer.getvalue(), parts[0].phrase, (left, top, right, bottom))


def contains(target: Target, x: int, y: int) -> bool:
    left, top, right, bottom = target.box
    return left <= x <= right and top <= y <= bottom


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """The shipped base with a LoRA tuned for 225 steps on one point and one call per scene."""
    from datasets import Dataset, Features, Image, List, Value

    directory = tmp_path_factory.mktemp("forms")
    rows = []
    for target in iter_targets(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + 1200)):
        answers = ((target.point_request, target.point), (target.call_request, json.dumps(target.call)))
        messages = [
            {"role": role, "content": content}
            for pair in answers
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        rows.append({"images": [{"bytes": target.image, "path": None}], "messages": messages})
    features = Features(images=List(Image()), messages=List({"role": Value("string"), "content": Value("string")}))
    (directory / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(directory / "data" / "train.parquet")
    overrides = {
        "model_name_or_path": str(copy_aligned(directory / "aligned")),
        "dataset_name": str(directory / "data"),
        "dataset_config": "default",
        "output_dir": str(directory / "tuned"),
        "max_steps": "225",
    }
    tune(RECIPE, overrides=overrides, log=directory / "tuning.log")
    return Student(str(directory / "tuned"))


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    return list(iter_targets(EVALUATION_SEEDS[:150]))


def ask(student: Student, pairs: list[tuple[bytes, str]]) -> list[str]:
    batches = [pairs[start : start + 16] for start in range(0, len(pairs), 16)]
    return [answer for batch in batches for answer in student.answer(batch, max_new_tokens=64)]


@pytest.mark.slow
def test_points_are_parsed_and_lie_in_their_boxes(student: Student, targets: list[Target]) -> None:
    answers = ask(student, [(target.image, target.point_request) for target in targets])
    points = [POINT.fullmatch(answer) for answer in answers]
    assert sum(point is not None for point in points) >= 0.99 * len(targets)
    inside = sum(
        contains(target, int(point[1]), int(point[2])) for target, point in zip(targets, points, strict=True) if point
    )
    # The best constant is chosen with knowledge of all boxes.
    constant = max(sum(contains(target, x, y) for target in targets) for x, y in product(range(0, 101, 2), repeat=2))
    assert inside - constant >= 0.1 * len(targets), f"{inside} in their boxes, best constant {constant}"


@pytest.mark.slow
def test_calls_are_valid_json_with_the_arguments_that_were_trained(student: Student, targets: list[Target]) -> None:
    answers = ask(student, [(target.image, target.call_request) for target in targets])
    calls = [parse(answer) for answer in answers]
    assert sum(call is not None for call in calls) >= 0.95 * len(targets)
    # With the words of the request.
    exact = sum(call == target.call for call, target in zip(calls, targets, strict=True))
    assert exact >= 0.8 * len(targets), exact


def parse(answer: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return None
