"""Runs the Space of the metric: a page that scores answers and shows accuracy by k and by capability as a table.

    python app.py

It reads the predictions.jsonl that `compact evaluate` writes, or any JSON Lines with the same four fields.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr

METRIC = Path(__file__).with_name("compact_accuracy.py")
TITLE = "COMPACT accuracy"
_RULES = runpy.run_path(str(Path(__file__).with_name("answers.py")))["ANSWER_RULES_VERSION"]
INTRODUCTION = f"""# COMPACT accuracy
Accuracy of short answers to visual questions, by the number **k** of capabilities that a question needs and by
capability, with 95% intervals. Paste one JSON object per line, or upload the `predictions.jsonl` that
`compact evaluate` wrote. Text is not stored; an uploaded file is deleted within twenty minutes. Answers are compared by
version {_RULES} of the rules, which the README describes.
"""
EXAMPLE = """\
{"prediction": "Red.", "answers": ["red"], "k": 1, "capabilities": ["color"]}
{"prediction": "two", "answers": ["2"], "k": 2, "capabilities": ["color", "counting"]}
{"prediction": "couch", "answers": ["sofa", "couch"], "k": 2, "capabilities": ["shape", "object_recognition"]}
{"prediction": "left", "answers": ["right"], "k": 3, "capabilities": ["color", "shape", "spatial_relationship"]}
"""
# Seconds between two clean-ups, and age in seconds from which a file is deleted.
DELETE_CACHE = (600, 600)
HEADERS = ("questions", "n", "accuracy", "95% interval")
# Pixels.
COLUMN_WIDTHS: list[str | int] = [190, 60, 95, 160]
# Largest file in bytes, or pasted text in characters.
MAX_BYTES = 20_000_000
MAX_SHOWN_CHARS = 200


def build_page() -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title=TITLE, delete_cache=DELETE_CACHE, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=5):
                lines = gr.Textbox(EXAMPLE, label="Answers, one JSON object per line", lines=10, max_lines=20)
                file = gr.File(label="or a file with answers", file_types=[".jsonl"], height=150)
                button = gr.Button("Score", variant="primary")
            with gr.Column(scale=6):
                table = gr.Dataframe(
                    headers=list(HEADERS), label="Accuracy", interactive=False, column_widths=COLUMN_WIDTHS
                )
        button.click(score_lines, [lines, file], table, api_name="score")
    return page


def score_lines(lines: str, file: str | None = None) -> list[list[Any]]:
    """Return the rows of the table for answers in JSON Lines. If a file is given, the text is ignored.

    Raises:
        gr.Error: the answers are invalid; the message is one line.
    """
    try:
        # A new instance per call: the metric stores its inputs, and several visitors may use the page at once.
        result = evaluate.load(str(METRIC), keep_in_memory=True).compute(**parse_inputs(read_lines(lines, file)))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    k_scores = [(f"k = {k}", score) for k, score in result["by_k"].items()]
    return [
        [name, score["n"], f"{score['accuracy']:.3f}", f"{score['low']:.3f} to {score['high']:.3f}"]
        for name, score in [("all", result), *k_scores, *result["by_capability"].items()]
    ]


def read_lines(lines: str, file: str | None) -> str:
    """Return the text to score.

    Raises:
        ValueError: the input is too large, or is not text.
    """
    size = Path(file).stat().st_size if file else len(lines)
    if size > MAX_BYTES:
        raise ValueError(f"got {size:,} bytes, more than the limit of {MAX_BYTES:,}; use the metric in Python instead")
    if not file:
        return lines
    try:
        # Some editors write a byte order mark.
        return Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("the file is not UTF-8 text; give JSON Lines") from error


def parse_inputs(text: str) -> dict[str, list[Any]]:
    """Return the metric's inputs from JSON Lines.

    Raises:
        ValueError: a line is not a JSON object, or a field is missing.
    """
    questions = [_parse_question(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    fields = {"predictions": "prediction", "references": "answers", "k": "k", "capabilities": "capabilities"}
    return {name: [question[field] for question in questions] for name, field in fields.items()}


def _parse_question(line: str, number: int) -> dict[str, Any]:
    """Return one line as a JSON object after checking its fields."""
    try:
        question = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON ({error}): {line[:MAX_SHOWN_CHARS]}") from error
    required = ("prediction", "answers", "k", "capabilities")
    if not isinstance(question, dict) or (missing := [field for field in required if field not in question]):
        problem = f"lacks {', '.join(missing)}" if isinstance(question, dict) else "is not a JSON object"
        raise ValueError(f"line {number} {problem}; every line needs {', '.join(required)}")
    return question


if __name__ == "__main__":
    build_page().queue(max_size=32).launch(max_file_size=MAX_BYTES, ssr_mode=False)
