"""Implements the lmms-eval task compact_heldout: turns the rows of a dataset into questions, and scores the answers.

`compact benchmarks tasks` copies this file, and compact_hf/answers.py next to it as compact_answers.py. The copy works
without compact_hf, which may not be installed in the environment of lmms-eval.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

# Not an import: lmms-eval loads this file by its path, and its directory is not in sys.path.
_ANSWERS = runpy.run_path(str(Path(__file__).with_name("compact_answers.py")))


def process_docs(rows: Any) -> Any:
    """Return one row per question, with id, image, question, answer and k. Image files are not re-encoded."""
    from datasets import Features, Image, Value

    text = Value("string")
    features = Features({"id": text, "image": Image(), "question": text, "answer": text, "k": Value("int64")})
    # In Arrow format an image is the bytes of its file. In the default format it would be decoded and encoded again,
    # which changes the pixels of a JPEG.
    questions = rows.with_format("arrow").map(
        _flatten_turns, batched=True, batch_size=100, remove_columns=rows.column_names, features=features
    )
    return questions.with_format(None)


def _flatten_turns(table: Any) -> dict[str, list[Any]]:
    """Return the columns for a batch of rows, with one entry per turn."""
    turns = [(row, number, turn) for row in table.to_pylist() for number, turn in enumerate(row["turns"])]
    return {
        "id": [f"{row['id']}#{number}" for row, number, _ in turns],
        "image": [row["images"][0] for row, _, _ in turns],
        "question": [turn["question"] for _, _, turn in turns],
        "answer": [turn["answer"] for _, _, turn in turns],
        "k": [row["k"] for row, _, _ in turns],
    }


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Return a list with the image that the question is about, with transparent areas in white as in training."""
    from PIL import Image

    image = doc["image"]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return [image.convert("RGB")]


def doc_to_text(doc: dict[str, Any]) -> str:
    """Return the same prompt as in `compact evaluate`."""
    return f"{doc['question']}\n{_ANSWERS['SHORT_ANSWER_INSTRUCTION']}"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the score of the answer, 1.0 or 0.0, for the overall accuracy and for the accuracy of its k."""
    # One question is one request, so `results` has one answer.
    score = float(_ANSWERS["same_answer"](results[0], doc["answer"]))
    return {"accuracy": score, f"accuracy_k{doc['k']}": score}
