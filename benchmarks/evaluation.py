"""How fast a model is judged: `python benchmarks/evaluation.py [--json]`.

Questions answered a second, all in one run, by the same model and with the same answers, which is checked: a plain loop
over `generate`, one question at a time, as transformers' documentation has it; then ours, at batches of 1, 4, 16 and
64. The tiny student that ships with the package is asked about reserved scenes, five questions a picture on average.
Each figure is the median of some rounds, in which all take their turns, with the least and the most: in seconds of the
process's own time, on one core, because what else a machine does would count for the one and not for the other.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from training import hardware

from compact_hf import copy_student
from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.evaluation.datasets import questions_of
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.predict import MAX_NEW_TOKENS, predict
from compact_hf.evaluation.questions import Question

BATCHES = (1, 4, 16, 64)
SCENES = 12
ROUNDS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    machine = {**hardware(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        _, student = copy_student(Path(folder) / "student")
        found = measured(Student(str(student)), held(questions_of(f"scenes:{SCENES}").questions))
    result = {"machine": machine, **found}
    print(json.dumps(result, indent=2) if arguments.json else table(result))


def held(questions: Sequence[Question]) -> list[Question]:
    """Return the questions with their pictures in memory: drawing scenes is not what is measured."""
    pictures: dict[str, bytes] = {question.picture: question.read_picture() for question in questions}
    return [replace(question, read_picture=partial(pictures.__getitem__, question.picture)) for question in questions]


def measured(student: Student, questions: Sequence[Question]) -> dict[str, Any]:
    """Return questions a second of the loop and of our batches, by rounds in which each takes its turn."""
    import torch

    torch.set_num_threads(1)
    ways: dict[str, Callable[[], tuple[list[str], float]]] = {
        "loop": partial(loop, student, questions),
        **{f"batch {size}": partial(ours, student, questions, size) for size in BATCHES},
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    expected: list[str] | None = None
    for _ in range(ROUNDS):
        for name, way in ways.items():
            answers, seconds = way()
            expected = expected or answers
            if answers != expected:
                differing = sum(one != other for one, other in zip(answers, expected, strict=True))
                sys.exit(f"{name} gives {differing} of {len(expected)} answers other than the loop")
            rates[name].append(len(questions) / seconds)
    return {
        "questions": len(questions),
        "pictures": len({question.picture for question in questions}),
        "rounds": ROUNDS,
        "lines": {
            name: {"median": statistics.median(found), "least": min(found), "most": max(found)}
            for name, found in rates.items()
        },
    }


def loop(student: Student, questions: Sequence[Question]) -> tuple[list[str], float]:
    """Answer one question after the other, as a user of transformers would, and return the answers and the seconds."""
    import torch
    from PIL import Image

    network, processor = student._network, student._processor
    answers = []
    began = time.process_time()
    for question in questions:
        picture = Image.open(io.BytesIO(question.read_picture())).convert("RGB")
        text = f"{question.question}\n{SHORT_ANSWER_INSTRUCTION}"
        content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"add_special_tokens": False, "max_length": None},
        ).to(network.device, dtype=network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(new, skip_special_tokens=True).strip())
    return answers, time.process_time() - began


def ours(student: Student, questions: Sequence[Question], size: int) -> tuple[list[str], float]:
    """Answer the questions as `compact evaluate` does, sorting, judging and journal included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        found = predict(student, questions, Path(folder), matching="exact", batch_size=size)
        return [one.prediction for one in found], time.process_time() - began


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines, machine = result["lines"], result["machine"]
    rows = ["| | questions a second | times the loop |", "|---|---|---|"]
    rows += [
        f"| {name} | {one['median']:.1f} ({one['least']:.1f} to {one['most']:.1f}) | "
        f"{one['median'] / lines['loop']['median']:.2f} |"
        for name, one in lines.items()
    ]
    rows.append(f"\n{result['questions']} questions about {result['pictures']} pictures, the same answers by all")
    rows.append(f"one core of {machine['cpu']}, torch {machine['torch']}, load {machine['load']:.1f}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
