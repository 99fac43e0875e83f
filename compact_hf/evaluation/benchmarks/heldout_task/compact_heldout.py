"""What lmms-eval's task compact_heldout does: rows of a release in, one question per turn out, and whether it is right.

`compact benchmarks tasks` writes this file out, with compact_hf/answers.py beside it as compact_answers.py: it imports
nothing of compact_hf, which need not be installed where lmms-eval runs.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

_ANSWERS = runpy.run_path(str(Path(__file__).with_name("compact_answers.py")))


def process_docs(rows: Any) -> Any:
    """Return a release's rows as questions: id, image, question, answer, k. Pictures stay the files that they are."""
    from datasets import Features, Image, Value

    text = Value("string")
    features = Features({"id": text, "image": Image(), "question": text, "answer": text, "k": Value("int64")})
    # As Arrow a picture is the bytes of its file; as a row it would be decoded, and a JPEG written anew is another one.
    questions = rows.with_format("arrow").map(
        _flatten_turns, batched=True, batch_size=100, remove_columns=rows.column_names, features=features
    )
    return questions.with_format(None)


def _flatten_turns(table: Any) -> dict[str, list[Any]]:
    turns = [(row, number, turn) for row in table.to_pylist() for number, turn in enumerate(row["turns"])]
    return {
        "id": [f"{row['id']}#{number}" for row, number, _ in turns],
        "image": [row["images"][0] for row, _, _ in turns],
        "question": [turn["question"] for _, _, turn in turns],
        "answer": [turn["answer"] for _, _, turn in turns],
        "k": [row["k"] for row, _, _ in turns],
    }


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Return the one picture that a question is about."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any]) -> str:
    """Return a question as `compact evaluate` asks it."""
    return f"{doc['question']}\n{_ANSWERS['SHORT_ANSWER_INSTRUCTION']}"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1.0 or 0.0 for the answer, once over all questions and once under its k."""
    score = float(_ANSWERS["same_answer"](results[0], doc["answer"]))
    return {"accuracy": score, f"accuracy_k{doc['k']}": score}
