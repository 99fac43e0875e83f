"""Writes datasets for the tests: scenes with questions in LLaVA's format, and photographs with questions in Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.methods.compact.conversation import parse_outcome
from compact_hf.methods.generate import generate
from compact_hf.records import Turn
from compact_hf.runs.journal import Journal
from tests.teachers.asking import photograph

QUESTIONS = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})


def write_scenes_file(directory: Path, scenes: str, **settings: Any) -> tuple[Path, dict[str, tuple[Turn, ...]]]:
    """Generate questions about scenes and write the accepted ones in LLaVA's format, with images as `scene:SEED`.

    Returns:
        The file, and the turns of each scene.
    """
    generate(scenes, directory / "generated", **settings)
    turns: dict[str, tuple[Turn, ...]] = {}
    with Journal.read(directory / "generated") as journal:
        for finished in journal.outcomes():
            conversation = parse_outcome(finished.body).conversation
            if conversation is not None:
                turns[finished.ref] = conversation.turns
    file = directory / "scenes.json"
    file.write_text(json.dumps([llava_item(ref, scene_turns) for ref, scene_turns in turns.items()]))
    return file, turns


def llava_item(ref: str, turns: Sequence[Turn]) -> dict[str, Any]:
    conversation = []
    for number, turn in enumerate(turns):
        placeholder, instruction = ("<image>\n", f"\n{SHORT_ANSWER_INSTRUCTION}") if not number else ("", "")
        conversation += [
            {"from": "human", "value": f"{placeholder}{turn.question}{instruction}"},
            {"from": "gpt", "value": turn.answer},
        ]
    return {"id": ref, "image": ref, "conversations": conversation}


def make_images(count: int) -> list[bytes]:
    return [photograph(64 + index) for index in range(count)]


def write_questions_dataset(directory: Path, rows: Sequence[tuple[bytes | None, str, str]]) -> Path:
    """Write (image, question, answer) rows as a dataset that `load_dataset` can read."""
    directory.mkdir(parents=True)
    records = [
        {"image": data and {"bytes": data, "path": None}, "question": question, "answer": answer}
        for data, question, answer in rows
    ]
    Dataset.from_list(records, features=QUESTIONS).to_parquet(directory / "train-00000-of-00001.parquet")
    return directory


def write_llava_file(directory: Path, rows: Sequence[tuple[str, Sequence[str]]], images: dict[str, bytes]) -> Path:
    """Write (path of the image, questions) rows in LLaVA's format, and the images beside the file."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (directory / name).write_bytes(data)
    items = [
        {
            "id": f"row-{number}",
            "image": path,
            "conversations": [
                message
                for question in questions
                for message in ({"from": "human", "value": question}, {"from": "gpt", "value": "it"})
            ],
        }
        for number, (path, questions) in enumerate(rows)
    ]
    (directory / "questions.json").write_text(json.dumps(items))
    return directory / "questions.json"
