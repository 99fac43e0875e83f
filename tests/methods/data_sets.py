"""Data sets to ask about: a release of scenes as LLaVA's format has it, and photographs with questions in Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.methods.compact.conversation import parse_outcome
from compact_hf.methods.compact.generate import generate
from compact_hf.records import Turn
from compact_hf.runs.journal import Journal
from tests.teachers.asking import photograph

QUESTIONS = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})


def scenes_file(folder: Path, scenes: str, **settings: Any) -> tuple[Path, dict[str, tuple[Turn, ...]]]:
    """Generate about scenes and write what is accepted as LLaVA's format has it, the pictures as `scene:SEED`.

    Returns:
        The file, and the turns of each scene.
    """
    generate(scenes, folder / "generated", **settings)
    turns: dict[str, tuple[Turn, ...]] = {}
    with Journal.read(folder / "generated") as journal:
        for finished in journal.outcomes():
            conversation = parse_outcome(finished.body).conversation
            if conversation is not None:
                turns[finished.ref] = conversation.turns
    file = folder / "scenes.json"
    file.write_text(json.dumps([llava_item(ref, of_scene) for ref, of_scene in turns.items()]))
    return file, turns


def llava_item(ref: str, turns: Sequence[Turn]) -> dict[str, Any]:
    conversation = []
    for number, turn in enumerate(turns):
        mark, end = ("<image>\n", f"\n{SHORT_ANSWER_INSTRUCTION}") if not number else ("", "")
        conversation += [
            {"from": "human", "value": f"{mark}{turn.question}{end}"},
            {"from": "gpt", "value": turn.answer},
        ]
    return {"id": ref, "image": ref, "conversations": conversation}


def pictures(count: int) -> list[bytes]:
    return [photograph(64 + index) for index in range(count)]


def questions_folder(folder: Path, rows: Sequence[tuple[bytes | None, str, str]]) -> Path:
    """Write (picture, question, answer) as a data set that `load_dataset` takes."""
    folder.mkdir(parents=True)
    records = [
        {"image": data and {"bytes": data, "path": None}, "question": question, "answer": answer}
        for data, question, answer in rows
    ]
    Dataset.from_list(records, features=QUESTIONS).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder
