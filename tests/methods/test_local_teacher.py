"""Tests the way from images to a valid release with a local model: a tiny LLaVA trained to give certain replies."""

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

from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import StoppedEarly
from compact_hf.methods.compact.prompts import (
    BlindReply,
    DraftReply,
    VerdictReply,
    blind_prompt,
    teacher_prompt,
    verifier_prompt,
)
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.teachers.base import EncodedImage, Request
from compact_hf.teachers.local import Local
from tests.teachers.asking import ask_all
from tests.teachers.tiny_teacher import Lesson, train_tiny_teacher

COLORS: Final = ("red", "green")
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
    "color": COLORS,
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
# For two questions the verifier does not find the requested capabilities.
VERDICT_CAPABILITIES: Final = {"action_recognition": ["color", "action_recognition"], "spatial_recognition": []}


def to_json(reply: dict[str, Any]) -> str:
    return json.dumps(reply)


def make_lessons(images: dict[str, bytes]) -> list[Lesson]:
    image_lessons: list[Lesson] = []
    for number, name in enumerate(COLORS):
        for capability, question in QUESTIONS.items():
            answer = ANSWERS[capability][number]
            confidence = 40 if capability == "text_recognition" else 90
            draft = to_json({"question": question, "answer": answer, "confidence": confidence})
            verdict = to_json({"capabilities": VERDICT_CAPABILITIES.get(capability, [capability]), "answer": answer})
            image_lessons.append(Lesson(images[name], teacher_prompt((capability,)), draft))
            image_lessons.append(Lesson(images[name], verifier_prompt(question), verdict))
    # The answer given without the image; it is right for the green image only.
    blind_lessons = [
        Lesson(None, blind_prompt(question), to_json({"answer": "four"})) for question in QUESTIONS.values()
    ]
    return image_lessons + blind_lessons


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pictures")
    for name in COLORS:
        image = Image.new("RGB", (96, 64), name)
        ImageDraw.Draw(image).rectangle((40, 20, 60, 40), fill="white")
        image.save(directory / f"{name}.png")
    return directory


@pytest.fixture(scope="module")
def learnt(pictures: Path) -> list[Lesson]:
    return make_lessons({name: (pictures / f"{name}.png").read_bytes() for name in COLORS})


@pytest.fixture(scope="module")
def model(learnt: list[Lesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_teacher(
        tmp_path_factory.mktemp("models") / "tiny-teacher", learnt, spelled_out=QUESTIONS.values()
    )


@pytest.fixture(scope="module")
def run(pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all images without failures, with both strict checks."""
    out = tmp_path_factory.mktemp("clean") / "run"
    generate(str(pictures), out, teacher=f"local:{model}", ks=(1,), strict=True)
    return out


def assemble_release(run: Path) -> Path:
    out = run.parent / f"{run.name}-release"
    assemble([run], out, version="1.0.0")
    assert validate(out).problems == ()
    return out


def hash_parquet_files(release: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.rglob("*.parquet")}


@pytest.mark.slow
def test_pictures_become_a_valid_release_of_what_the_model_saw(run: Path) -> None:
    rows = [row for split in load_dataset(str(assemble_release(run))).values() for row in split]
    assert len(rows) == len(COLORS)
    assert len({turn["answer"] for row in rows for turn in row["turns"]}) > 4
    for row in rows:
        assert (row["teacher"], row["verifier"]) == ("local:tiny-teacher",) * 2
        assert row["preset_version"].endswith(f"+strict@{ANSWER_RULES_VERSION}")
        number = next(number for number, name in enumerate(COLORS) if has_corner_color(row["images"][0], name))
        assert len(row["turns"]) == 3
        for turn in row["turns"]:
            (capability,) = turn["capabilities"]
            assert (turn["question"], turn["answer"]) == (QUESTIONS[capability], ANSWERS[capability][number])


def has_corner_color(image: Image.Image, color: str) -> bool:
    """Whether the corner of the image has this color."""
    return image.convert("RGB").getpixel((0, 0)) == Image.new("RGB", (1, 1), color).getpixel((0, 0))


def test_what_it_says_wrongly_is_dropped_for_its_reason(run: Path) -> None:
    run_status = status(run)
    # Which of these reasons occur depends on the capabilities drawn for each image.
    assert {reject.reason for reject in run_status.rejects} <= {
        "low confidence",
        "uninformative answer",
        "needs more capabilities",
        "needs fewer capabilities",
        "answerable without the picture",
    }
    assert (
        sum(reject.count for reject in run_status.rejects) == run_status.requests["teacher"] - run_status.questions > 0
    )
    assert run_status.models == ("local:tiny-teacher",)
    assert run_status.input_tokens > 20 * sum(run_status.requests.values())
    assert run_status.output_tokens > 5 * sum(run_status.requests.values())
    assert {"teacher", "verifier"} <= set(run_status.requests)


@pytest.mark.slow
def test_it_says_the_same_one_by_one_and_in_batches(model: Path, learnt: list[Lesson]) -> None:
    requests = [
        Request(
            f"{number}",
            "verifier",
            "0" * 32,
            None if lesson.image is None else make_encoded_image(lesson.image),
            lesson.prompt,
            next(schema for schema in (DraftReply, VerdictReply, BlindReply) if matches_schema(schema, lesson.reply)),
        )
        for number, lesson in enumerate(learnt)
    ]
    expected = [lesson.reply for lesson in learnt]
    for size, step in ((1, 4), (7, 1), (32, 1)):  # size 1 is slow, so it gets every fourth request only
        replies = ask_all(Local(str(model), batch_size=size), requests[::step])
        assert [reply.text for reply in replies] == expected[::step], size


def make_encoded_image(data: bytes) -> EncodedImage:
    return EncodedImage(lambda: data, ref="a.png", max_edge=1024)


def matches_schema(schema: Any, reply: str) -> bool:
    return set(schema.model_fields) == set(json.loads(reply))


def test_another_model_may_judge_what_one_has_written(pictures: Path, model: Path, tmp_path: Path) -> None:
    judge = shutil.copytree(model, tmp_path / "judge")
    generate(str(pictures), tmp_path / "run", teacher=f"local:{model}", verifier=f"local:{judge}", ks=(1,))
    rows = [row for split in load_dataset(str(assemble_release(tmp_path / "run"))).values() for row in split]
    assert {(row["teacher"], row["verifier"]) for row in rows} == {("local:tiny-teacher", "local:judge")}


def test_ctrl_c_finishes_the_batch_and_the_same_call_goes_on(
    pictures: Path, model: Path, run: Path, tmp_path: Path
) -> None:
    sent_counts: list[int] = []

    def press(progress: Any) -> None:
        if progress.sent and not sent_counts:
            sent_counts.append(progress.sent)
            os.kill(os.getpid(), signal.SIGINT)

    settings: dict[str, Any] = {"teacher": f"local:{model}", "ks": (1,), "strict": True}
    with pytest.raises(StoppedEarly):
        generate(str(pictures), tmp_path / "run", on_progress=press, concurrency=2, **settings)
    before = sum(status(tmp_path / "run").requests.values())
    progress = generate(str(pictures), tmp_path / "run", **settings)
    assert progress.sent == sum(status(tmp_path / "run").requests.values()) - before
    resumed_hashes = hash_parquet_files(assemble_release(tmp_path / "run"))
    assert resumed_hashes == hash_parquet_files(assemble_release(run)) != {}


def test_a_finished_run_reads_no_weights(pictures: Path, model: Path, run: Path, tmp_path: Path) -> None:
    run_copy = Path(shutil.copytree(run, tmp_path / "run"))
    model_copy = Path(shutil.copytree(model, tmp_path / "tiny-teacher"))
    (model_copy / "model.safetensors").unlink()
    assert generate(str(pictures), run_copy, teacher=f"local:{model_copy}", ks=(1,), strict=True).sent == 0
