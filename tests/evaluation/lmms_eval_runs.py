"""Sets up lmms-eval for a test: the real package from PyPI in a directory of its own, with local data and judge."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from compact_hf.dataset.schema import get_split
from compact_hf.dataset.writer import write_dataset
from compact_hf.evaluation.benchmarks.lmms_eval import HARNESS_VERSION
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.records import Message, Row, Turn
from compact_hf.scenes.questions import make_question, supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import parse_seed, reserved_scenes
from compact_hf.testing.openai import content_response
from compact_hf.testing.server import LocalServer
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import File
from tests.hub.clients import ROOT

# Of lmms-eval's fifty requirements, those that these tasks and this model import and that are not in the dev extra.
WHEELS: Final = (
    f"lmms-eval=={HARNESS_VERSION}",
    "chardet==7.7.0",
    "colorama==0.4.6",
    "DataProperty==1.1.1",
    "decord==0.6.0",
    "loguru==0.7.3",
    "lxml==6.1.3",
    "mbstrdecoder==1.1.5",
    "pathvalidate==3.3.1",
    "portalocker==4.4.2",
    "pytablewriter==1.2.1",
    "sacrebleu==2.6.0",
    "tabledata==1.3.5",
    "tabulate==0.10.0",
    "tcolorpy==0.1.7",
    "typepy==2.0.0",
)
CARD: Final = """---
configs:
- config_name: {config}
  data_files:
  - {{split: {split}, path: data/{split}-*}}
---
"""


def install_harness(directory: Path) -> Path:
    """Install lmms-eval into a directory for PYTHONPATH, or skip the test if PyPI cannot be reached."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory), *WHEELS]
    process = subprocess.run(pip, capture_output=True, text=True, check=False)
    if process.returncode:
        pytest.skip(f"lmms-eval cannot be installed here: {process.stderr.strip().splitlines()[-1]}")
    return directory


def make_environment(overlay: Path, home: Path, server: HubServer, judge: LocalServer) -> dict[str, str]:
    """Return the environment variables for a shell that runs the printed commands, with `compact` and `lmms-eval`."""
    binaries = home / "bin"
    binaries.mkdir(parents=True)
    command = binaries / "compact"
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom compact_hf.cli.main import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return (
        os.environ
        | server.environment
        | {
            "HF_HOME": str(home / "hf"),
            "OPENAI_API_KEY": "test-key",
            "OPENAI_API_URL": f"{judge.url}/v1",
            "PATH": f"{binaries}:{overlay / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{overlay}:{ROOT}",
        }
    )


def make_judge() -> LocalServer:
    """Return a judge that gives each answer of MM-Vet half of the points, and each of LLaVA-in-the-Wild 6 against 8."""

    async def grade(request: Request) -> Response:
        prompt = str((await request.json())["messages"])
        return content_response("0.5" if "Ground truth" in prompt else "8 6\nThe second is shorter.")

    return LocalServer(Starlette(routes=[Route("/v1/chat/completions", grade, methods=["POST"])]))


def write_heldout_release(directory: Path, *, num_images: int) -> Path:
    """Write a dataset of scenes with two questions of k 1, 2 or 3 each, all of them in the validation split."""
    write_dataset(_iter_rows(num_images), directory, sources=("compact",), version="1.0.0")
    return directory


def _iter_rows(num_images: int) -> Iterator[Row]:
    source = reserved_scenes(num_images)
    for number, ref in enumerate(source.refs()):
        k, scene, rng = 1 + number % 3, build_scene(parse_seed(ref)), random.Random(number)
        questions = [
            make_question(scene, combination, rng) for combination in rng.sample(supported_combinations(scene, k), 2)
        ]
        turns = tuple(
            Turn(question.question, question.answer, *[question.capabilities] * 2, 90)
            for question in questions
            if question
        )
        data = _move_to_validation(source.read(ref), k)
        messages = [Message(*pair) for turn in turns for pair in (("user", turn.question), ("assistant", turn.answer))]
        yield QuestionRow(
            id=f"scene-{number}",
            messages=tuple(messages),
            source="compact",
            k=k,
            capabilities=turns[0].capabilities,
            turns=turns,
            image_id=compute_image_id(data),
            image_source="scenes",
            image_license="CC0-1.0",
            teacher="scenes",
            verifier="scenes",
            preset_version="1",
            read_images=(lambda data=data: data,),
        )


def _move_to_validation(data: bytes, k: int) -> bytes:
    """Change one pixel until the hash of the image puts it into the validation split."""
    image = Image.open(BytesIO(data)).convert("RGB").resize((120, 120))
    for number in count():
        image.putpixel((0, 0), (number % 256, number // 256, 0))
        out = BytesIO()
        image.save(out, "PNG")
        if get_split("compact", compute_image_id(out.getvalue())) == "validation":
            return out.getvalue()
    raise AssertionError


def add_benchmarks(server: HubServer, predictions: Sequence[dict[str, Any]], image_bytes: bytes) -> None:
    """Add the eight datasets to the server, with the columns of the real ones; all rows are about the same image.

    For half of the questions of InfoVQA and TextVQA, the right answer is the known answer of the model.
    """
    from datasets import Dataset
    from datasets import Image as ImageFeature

    samples = [
        prediction for prediction in predictions if prediction["question"] == prediction["question"].capitalize()
    ][:4]
    image_column = {"image": {"bytes": image_bytes, "path": None}}
    answers = [prediction["prediction"] if index % 2 else "zzzzzzzzzzzz" for index, prediction in enumerate(samples)]
    question_rows = [image_column | {"question": prediction["question"]} for prediction in samples]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    choices = {f"choice_{letter}": letter for letter in "ABCD"}
    datasets: list[tuple[str, str, str, list[dict[str, Any]]]] = [
        (
            "lmms-lab-encoder/DocVQA",
            "InfographicVQA",
            "validation",
            [
                {**row, "answers": [answer], "questionId": "0"}
                for row, answer in zip(question_rows, answers, strict=True)
            ],
        ),
        (
            "lmms-lab-encoder/textvqa",
            "default",
            "validation",
            [
                {**row, "answers": [answer] * 10, "question_id": 0}
                for row, answer in zip(question_rows, answers, strict=True)
            ],
        ),
        (
            "doolayer/SEED-Bench-2-Plus",
            "default",
            "test",
            [
                {**image_column, **choices, "question": "Which one?", "answer": letter}
                | {"question_image_type": "chart", "question_id": letter}
                for letter in letters
            ],
        ),
        (
            "lmms-lab-encoder/MME",
            "default",
            "test",
            [
                {**image_column, "question": "Is it? Please answer yes or no.", "answer": answer}
                | {"question_id": category, "category": category}
                for category in ("OCR", "code_reasoning")
                for answer in ("Yes", "No")
            ],
        ),
        (
            "lmms-lab-encoder/MMVet",
            "default",
            "test",
            [{**image_column, "question": "What is it?", "answer": "x", "capability": "rec", "question_id": "v1_0"}],
        ),
        (
            "nyu-visionx/CV-Bench",
            "default",
            "test",
            [
                {**image_column, "idx": 0, "prompt": "Which one?", "choices": list("ABCD"), "answer": f"({letter})"}
                | {"type": "2D", "task": "Count", "source": "COCO"}
                for letter in letters
            ],
        ),
        (
            "Lin-Chen/MMStar",
            "default",
            "val",
            [
                {**image_column, "index": index, "question": "Which one?", "answer": letter}
                | {"category": "math", "l2_category": "geometry"}
                for index, letter in enumerate("ABCD")
            ],
        ),
        (
            "lmms-lab-encoder/llava-bench-in-the-wild",
            "default",
            "train",
            [
                {**image_column, "question": "What is it?", "gpt_answer": "A scene.", "caption": "A scene."}
                | {"category": category, "question_id": category}
                for category in ("conv", "detail", "complex")
            ],
        ),
    ]
    for name, config, split, rows in datasets:
        parquet = BytesIO()
        Dataset.from_list(rows).cast_column("image", ImageFeature()).to_parquet(parquet)
        files = {
            "README.md": File.from_bytes(CARD.format(config=config, split=split).encode(), lfs=False),
            f"data/{split}-00000-of-00001.parquet": File.from_bytes(parquet.getvalue(), lfs=True),
        }
        repository = server.store.create("dataset", name, private=False, author="org")
        repository.add_commit("main", files, title="Add data", message="", author="org")
