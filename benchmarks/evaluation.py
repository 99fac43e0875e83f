"""Measures the speed of evaluation in questions per second: `python benchmarks/evaluation.py [--json]`.

It compares a plain loop over `generate`, one question at a time as in the documentation of transformers, with ours in
batches of 1, 4, 16 and 64. The model is the tiny student that ships with the package, asked about reserved scenes with
five questions per image on average. The script checks that all methods give the same answers. Results are the median,
minimum and maximum of several rounds, in each of which all methods run once. Time is the CPU time of the process on one
core, so that other work on the machine does not count.
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

from training import read_hardware

from compact_hf import copy_student
from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.predict import predict
from compact_hf.evaluation.questions import DataOptions, Question
from compact_hf.evaluation.task import DEFAULT_TASK, load_task, read_questions

TASK = load_task(DEFAULT_TASK)
BATCH_SIZES = (1, 4, 16, 64)
SCENES = 12
ROUNDS = 3


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    machine = {**read_hardware(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as directory:
        _, student = copy_student(Path(directory) / "student")
        question_set = read_questions(TASK, f"scenes:{SCENES}", DataOptions())
        measurements = measure(Student(str(student)), load_images(question_set.questions))
    result = {"machine": machine, **measurements}
    print(json.dumps(result, indent=2) if args.json else format_table(result))


def load_images(questions: Sequence[Question]) -> list[Question]:
    """Return the questions with their images in memory, so that the drawing of scenes is not measured."""
    images: dict[str, bytes] = {question.image_id: question.read_image() for question in questions}
    return [replace(question, read_image=partial(images.__getitem__, question.image_id)) for question in questions]


def measure(student: Student, questions: Sequence[Question]) -> dict[str, Any]:
    """Return questions per second of the loop and of our batches, measured in rounds in which each runs once."""
    import torch

    torch.set_num_threads(1)
    runners: dict[str, Callable[[], tuple[list[str], float]]] = {
        "loop": partial(answer_in_loop, student, questions),
        **{f"batch {size}": partial(answer_in_batches, student, questions, size) for size in BATCH_SIZES},
    }
    rates: dict[str, list[float]] = {name: [] for name in runners}
    expected: list[str] | None = None
    for _ in range(ROUNDS):
        for name, run in runners.items():
            answers, seconds = run()
            expected = expected or answers
            if answers != expected:
                differing = sum(
                    answer != expected_answer for answer, expected_answer in zip(answers, expected, strict=True)
                )
                sys.exit(f"{name} differs from the loop in {differing} of {len(expected)} answers")
            rates[name].append(len(questions) / seconds)
    return {
        "questions": len(questions),
        "pictures": len({question.image_id for question in questions}),
        "rounds": ROUNDS,
        "lines": {
            name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
            for name, values in rates.items()
        },
    }


def answer_in_loop(student: Student, questions: Sequence[Question]) -> tuple[list[str], float]:
    """Answer one question at a time with plain transformers, and return the answers and the CPU seconds."""
    import torch
    from PIL import Image

    network, processor = student._network, student._processor
    answers = []
    start = time.process_time()
    for question in questions:
        image = Image.open(io.BytesIO(question.read_image())).convert("RGB")
        text = f"{question.question}\n{SHORT_ANSWER_INSTRUCTION}"
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"add_special_tokens": False, "max_length": None},
        ).to(network.device, dtype=network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=TASK.max_new_tokens)
        new_tokens = tokens[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(new_tokens, skip_special_tokens=True).strip())
    return answers, time.process_time() - start


def answer_in_batches(student: Student, questions: Sequence[Question], size: int) -> tuple[list[str], float]:
    """Answer the questions as `compact evaluate` does, including sorting, scoring and the journal."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.process_time()
        predictions = predict(
            student,
            questions,
            Path(directory),
            task=TASK,
            matching="exact",
            batch_size=size,
            max_new_tokens=TASK.max_new_tokens,
        )
        return [prediction.prediction for prediction in predictions], time.process_time() - start


def format_table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines, machine = result["lines"], result["machine"]
    rows = ["| | questions per second | relative to the loop |", "|---|---|---|"]
    rows += [
        f"| {name} | {rate['median']:.1f} ({rate['least']:.1f} to {rate['most']:.1f}) | "
        f"{rate['median'] / lines['loop']['median']:.2f} |"
        for name, rate in lines.items()
    ]
    rows.append(f"\n{result['questions']} questions about {result['pictures']} images, same answers by all methods")
    rows.append(f"one core of {machine['cpu']}, torch {machine['torch']}, load {machine['load']:.1f}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
