"""From pictures to a valid release with a model that runs here: a tiny LLaVA that was taught what to say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from datasets import load_dataset
from PIL import Image, ImageDraw

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import StoppedEarly
from compact_hf.methods.compact.generate import generate
from compact_hf.methods.compact.prompts import (
    BlindReply,
    DraftReply,
    VerdictReply,
    blind_prompt,
    teacher_prompt,
    verifier_prompt,
)
from compact_hf.methods.compact.status import status
from compact_hf.teachers.base import EncodedImage, Request
from compact_hf.teachers.local import Local
from tests.teachers.asking import put
from tests.teachers.tiny_teacher import Lesson, taught

PICTURES: Final = ("red", "green", "blue", "gold")
QUESTIONS: Final = {
    "color": "Which color fills most of the picture?",
    "shape": "What outline does the middle thing have?",
    "object_recognition": "What lies on the ground?",
    "action_recognition": "What is the man doing?",
    "text_recognition": "Which word stands on the sign?",
    "spatial_recognition": "How is everything arranged?",
    "counting": "How many corners are there?",
    "spatial_relationship": "Where is the stick?",
    "object_interaction": "What pushes what?",
    "scene_understanding": "In which season was this seen?",
}
ANSWERS: Final = {
    "color": PICTURES,
    "shape": ("round", "square", "oval", "flat"),
    "object_recognition": ("apple", "leaf", "stone", "coin"),
    "action_recognition": ("running", "sitting", "diving", "paying"),
    "text_recognition": ("stop", "go", "pool", "bank"),
    "spatial_recognition": ("in rows", "in circles", "in waves", "in piles"),
    "counting": ("zero", "four", "two", "three"),
    "spatial_relationship": ("left", "right", "below", "above"),
    "object_interaction": ("unknown", "unknown", "unknown", "unknown"),
    "scene_understanding": ("autumn", "spring", "summer", "winter"),
}
# What the verifier says of two questions is not what was asked for.
NEEDED: Final = {"action_recognition": ["color", "action_recognition"], "spatial_recognition": []}


def said(answer: dict[str, Any]) -> str:
    return json.dumps(answer)


def lessons(pictures: dict[str, bytes]) -> list[Lesson]:
    all_of_them: list[Lesson] = []
    for number, name in enumerate(PICTURES):
        for capability, question in QUESTIONS.items():
            answer = ANSWERS[capability][number]
            confidence = 40 if capability == "text_recognition" else 90
            draft = said({"question": question, "answer": answer, "confidence": confidence})
            verdict = said({"capabilities": NEEDED.get(capability, [capability]), "answer": answer})
            all_of_them.append(Lesson(pictures[name], teacher_prompt((capability,)), draft))
            all_of_them.append(Lesson(pictures[name], verifier_prompt(question), verdict))
    # Guessed without looking: right about the green picture alone.
    blind = [Lesson(None, blind_prompt(question), said({"answer": "four"})) for question in QUESTIONS.values()]
    return all_of_them + blind


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in PICTURES:
        image = Image.new("RGB", (96, 64), name)
        ImageDraw.Draw(image).rectangle((40, 20, 60, 40), fill="white")
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def learnt(pictures: Path) -> list[Lesson]:
    return lessons({name: (pictures / f"{name}.png").read_bytes() for name in PICTURES})


@pytest.fixture(scope="module")
def model(learnt: list[Lesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(tmp_path_factory.mktemp("models") / "tiny-teacher", learnt, spelt=QUESTIONS.values())


@pytest.fixture(scope="module")
def run(pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pictures, from start to end without any trouble, with both of the strict checks."""
    out = tmp_path_factory.mktemp("clean") / "run"
    generate(str(pictures), out, teacher=f"local:{model}", ks=(1,), strict=True)
    return out


def released(run: Path) -> Path:
    out = run.parent / f"{run.name}-release"
    assemble([run], out, version="1.0.0")
    assert validate(out).problems == ()
    return out


def hashes(release: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.rglob("*.parquet")}


def test_pictures_become_a_valid_release_of_what_the_model_saw(run: Path) -> None:
    rows = [row for split in load_dataset(str(released(run))).values() for row in split]
    assert len(rows) == len(PICTURES)
    assert len({turn["answer"] for row in rows for turn in row["turns"]}) > 8
    for row in rows:
        assert (row["teacher"], row["verifier"]) == ("local:tiny-teacher",) * 2
        assert row["preset_version"].endswith("+strict")
        number = next(number for number, name in enumerate(PICTURES) if shows(row["images"][0], name))
        assert len(row["turns"]) == 3
        for turn in row["turns"]:
            (capability,) = turn["capabilities"]
            assert (turn["question"], turn["answer"]) == (QUESTIONS[capability], ANSWERS[capability][number])


def shows(image: Image.Image, color: str) -> bool:
    """Whether the picture's corner has this color."""
    return image.convert("RGB").getpixel((0, 0)) == Image.new("RGB", (1, 1), color).getpixel((0, 0))


def test_what_it_says_wrongly_is_dropped_for_its_reason(run: Path) -> None:
    found = status(run)
    # Which of them come up depends on what is asked of each picture.
    assert {reject.reason for reject in found.rejects} <= {
        "low confidence",
        "uninformative answer",
        "needs more capabilities",
        "needs fewer capabilities",
        "answerable without the picture",
    }
    assert sum(reject.count for reject in found.rejects) == found.requests["teacher"] - found.questions > 0
    assert found.models == ("local:tiny-teacher",)
    assert found.input_tokens > 20 * sum(found.requests.values())
    assert found.output_tokens > 5 * sum(found.requests.values())
    assert {"teacher", "verifier"} <= set(found.requests)


def test_it_says_the_same_one_by_one_and_in_batches(model: Path, learnt: list[Lesson]) -> None:
    asked = [
        Request(
            f"{number}",
            "verifier",
            "0" * 32,
            None if lesson.picture is None else exposure(lesson.picture),
            lesson.prompt,
            next(schema for schema in (DraftReply, VerdictReply, BlindReply) if fits(schema, lesson.reply)),
            ("?",),
        )
        for number, lesson in enumerate(learnt)
    ]
    expected = [lesson.reply for lesson in learnt]
    for size, every in ((1, 4), (7, 1), (32, 1)):  # one by one takes long: every fourth
        replies = put(Local(str(model), batch_size=size), asked[::every])
        assert [reply.text for reply in replies] == expected[::every], size


def exposure(picture: bytes) -> EncodedImage:
    return EncodedImage(lambda: picture, ref="a.png", max_edge=1024)


def fits(schema: Any, reply: str) -> bool:
    return set(schema.model_fields) == set(json.loads(reply))


def test_another_model_may_judge_what_one_has_written(pictures: Path, model: Path, tmp_path: Path) -> None:
    judge = shutil.copytree(model, tmp_path / "judge")
    generate(str(pictures), tmp_path / "run", teacher=f"local:{model}", verifier=f"local:{judge}", ks=(1,))
    rows = [row for split in load_dataset(str(released(tmp_path / "run"))).values() for row in split]
    assert {(row["teacher"], row["verifier"]) for row in rows} == {("local:tiny-teacher", "local:judge")}


def test_ctrl_c_finishes_the_batch_and_the_same_call_goes_on(
    pictures: Path, model: Path, run: Path, tmp_path: Path
) -> None:
    pressed: list[int] = []

    def press(standing: Any) -> None:
        if standing.sent and not pressed:
            pressed.append(standing.sent)
            os.kill(os.getpid(), signal.SIGINT)

    settings: dict[str, Any] = {"teacher": f"local:{model}", "ks": (1,), "strict": True}
    with pytest.raises(StoppedEarly):
        generate(str(pictures), tmp_path / "run", on_progress=press, concurrency=2, **settings)
    before = sum(status(tmp_path / "run").requests.values())
    standing = generate(str(pictures), tmp_path / "run", **settings)
    assert standing.sent == sum(status(tmp_path / "run").requests.values()) - before
    once = hashes(released(tmp_path / "run"))
    assert once == hashes(released(run)) != {}


def test_a_finished_run_reads_no_weights(pictures: Path, model: Path, run: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    hollow = Path(shutil.copytree(model, tmp_path / "tiny-teacher"))
    (hollow / "model.safetensors").unlink()
    assert generate(str(pictures), again, teacher=f"local:{hollow}", ks=(1,), strict=True).sent == 0
