"""Answers the questions of a dataset with a local model, and reads the predictions of an evaluation.

Questions are asked in batches of about the same prompt length, the longest first; questions about one image are kept
together. The answers to a batch are written to disk before the next batch's. Questions that are answered in the file
are not asked again, so a run that was killed and resumed ends with the same answers as an uninterrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.inference import ImagePromptPairs, Student
from compact_hf.evaluation.questions import Prediction, Question
from compact_hf.evaluation.task import DEFAULT_TASK, EvaluationTask, load_task
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import FIRST_RULE_VERSION, from_json
from compact_hf.regular_files import read_regular
from compact_hf.storage import translate_disk_errors

PREDICTIONS_FILE: Final = "predictions.jsonl"
EVALUATION_FILE: Final = "evaluation.json"
LOCK_FILE: Final = "evaluation.lock"
VERSION_KEY: Final = "matching_version"
"""The key in evaluation.json of the version of the rule that marked the answers."""


def read_predictions(directory: str | Path) -> list[Prediction]:
    """Return the predictions of one model, one per question.

    Args:
        directory (`str | Path`): the model's subdirectory in the output of `compact evaluate`, which contains
            predictions.jsonl.

    Returns:
        `list[Prediction]`: predictions of the task's own class; those of `compact` have `k` and `capabilities`.

    Raises:
        UsageError: the task of the evaluation is not installed.
        EvaluationError: predictions.jsonl was not found, or was written by another version.
    """
    path = Path(directory) / PREDICTIONS_FILE
    with translate_disk_errors(
        EvaluationError,
        path,
        "give the directory of one model, DIR/NAME of compact evaluate's --out DIR",
        is_reading=True,
    ):
        # Bytes are split at \n and \r only. Text would be split at U+2028 too, which JSON strings may contain.
        lines = read_regular(path, max_bytes=_MAX_BYTES).splitlines()
    # The class of the predictions depends on the task, which evaluation.json in the parent directory names.
    manifest = read_manifest(evaluation_directory(Path(directory).resolve().parent))
    prediction_type = load_task(manifest["task"] if manifest else DEFAULT_TASK).prediction_type
    version = manifest[VERSION_KEY] if manifest else ""
    return [replace(item, matching_version=version) for item in parse_predictions(prediction_type, lines, path)]


def parse_predictions(prediction_type: type[Prediction], lines: Sequence[bytes], path: Path) -> list[Prediction]:
    """Return the predictions in lines of JSON; `path` is used in error messages.

    Raises:
        EvaluationError: a line is not a valid prediction.
    """
    from pydantic import ValidationError

    predictions = []
    for number, line in enumerate(lines, 1):
        try:
            predictions.append(from_json(prediction_type, line))
        except ValidationError as error:
            detail = error.errors()[0]
            raise EvaluationError(
                f"{path}, line {number}: {'.'.join(map(str, detail['loc']))} {detail['msg'].lower()}; the file "
                "is damaged or was written by another version: evaluate the model again"
            ) from error
    return predictions


def evaluation_directory(out: Path) -> OutputDirectory:
    """Return `out` as the output directory of an evaluation, ready to be claimed or read."""
    return OutputDirectory(
        out,
        "an evaluation",
        EVALUATION_FILE,
        lock_name=LOCK_FILE,
        error_type=EvaluationError,
    )


def read_manifest(directory: OutputDirectory) -> dict[str, Any] | None:
    """Return the contents of evaluation.json, or None if it does not exist.

    Version 0.1.0 recorded neither the task nor the version of the rule.

    Raises:
        EvaluationError: the file cannot be read, or is not an evaluation.json.
    """
    content = directory.read_settings()
    if content is None:
        return None
    if not isinstance(content.get("models"), dict):
        raise directory.damaged_error("it names no models")
    # Values in the file replace the defaults.
    version = FIRST_RULE_VERSION if content.get("matching") else ""
    return {"task": DEFAULT_TASK, "task_version": "1", VERSION_KEY: version, **content}


DEFAULT_BATCH_SIZE: Final = 64
_MAX_BYTES: Final = 2**30  # size of the largest predictions that are read
_PART_FILE: Final = "predictions.part.jsonl"


def predict(
    student: Student,
    questions: Sequence[Question],
    directory: Path,
    *,
    task: EvaluationTask,
    matching: str,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int,
    on_progress: Callable[[int], None] = lambda answered: None,
) -> list[Prediction]:
    """Return one prediction per question, in the order of the questions.

    Args:
        student (`Student`): the model to ask.
        questions (`Sequence[Question]`): the questions; each is asked alone.
        directory (`Path`): directory for the file with the answers so far; answers of an interrupted call with the same
            arguments are reused.
        task (`EvaluationTask`): builds the prompts and marks the answers.
        matching (`str`): name of the task's rule that marks the answers.
        batch_size (`int`, *optional*, defaults to 64): questions per batch.
        max_new_tokens (`int`): maximum length of an answer, in tokens.
        on_progress (`Callable[[int], None]`, *optional*): called with the number of answers so far, at the start and
            after each batch.

    Raises:
        EvaluationError: the model cannot answer.
        ImageError: an image has changed since `read_questions` decoded it, and cannot be decoded any more.
    """
    lengths = student.prompt_lengths([(question.read_image, task.get_prompt(question)) for question in questions])
    # The order depends only on the questions and the model, so a resumed call makes the same batches.
    order = sort_for_batching(questions, lengths)
    part = directory / _PART_FILE
    saved = _resume_part(part, task.prediction_type, [question.id for question in order], batch_size)
    # Marked again, because another version of the rule may have marked them.
    predictions = [task.mark(question, item.prediction, matching) for question, item in zip(order, saved, strict=False)]
    on_progress(len(predictions))
    # Saved answers end at the end of a batch, so these are the batches that an uninterrupted call would ask.
    batches = [order[start : start + batch_size] for start in range(len(predictions), len(order), batch_size)]
    # Images are read by these functions when their batch is prepared, not all at once.
    readers = [partial(_read_pairs, task, batch) for batch in batches]
    answers = student.answer_batches(readers, max_new_tokens=max_new_tokens)
    with part.open("a", encoding="utf-8") as file:
        for batch, batch_answers in zip(batches, answers, strict=True):
            new = [task.mark(question, answer, matching) for question, answer in zip(batch, batch_answers, strict=True)]
            file.write("".join(f"{prediction.to_line()}\n" for prediction in new))
            # A killed process loses at most the batch that is being answered.
            file.flush()
            predictions += new
            on_progress(len(predictions))
    by_id = {prediction.id: prediction for prediction in predictions}
    return [by_id[question.id] for question in questions]


def count_local_answers(directory: Path) -> int:
    """Return the number of answers that `predict` has saved in the directory of a model."""
    part = directory / _PART_FILE
    return part.read_bytes().count(b"\n") if part.exists() else 0


def remove_part(directory: Path) -> None:
    """Delete the answers that `predict` has saved, once all predictions are in their final file."""
    (directory / _PART_FILE).unlink(missing_ok=True)


def sort_for_batching(questions: Sequence[Question], lengths: Sequence[int]) -> list[Question]:
    """Return the questions in an order that gives batches little padding and few different images.

    Questions are grouped by image, and images are sorted by their longest question, the longest first. So an image is
    read once for all of its questions, and running out of memory shows in the first batch.
    """
    # Image id -> number of tokens of its longest prompt.
    longest: dict[str, int] = {}
    for question, length in zip(questions, lengths, strict=True):
        longest[question.image_id] = max(length, longest.get(question.image_id, 0))
    rank = {
        image_id: index
        for index, image_id in enumerate(sorted(longest, key=lambda image: longest[image], reverse=True))
    }
    # `sorted` is stable: questions about one image keep the order of the dataset.
    return sorted(questions, key=lambda question: rank[question.image_id])


def _read_pairs(task: EvaluationTask, batch: Sequence[Question]) -> ImagePromptPairs:
    return [(question.read_image and question.read_image(), task.get_prompt(question)) for question in batch]


def _resume_part(
    part: Path, prediction_type: type[Prediction], ids: Sequence[str], batch_size: int
) -> list[Prediction]:
    """Truncate `part` to complete batches and return their predictions.

    Only complete batches are kept because padding depends on the batch and can change an answer when two tokens are
    almost equally likely. So a run that was stopped and resumed ends with the same predictions.
    """
    if not part.exists():
        return []
    lines = part.read_bytes().splitlines(keepends=True)
    # The last line of a killed process may be cut off.
    complete_lines = [line for line in lines if line.endswith(b"\n")]
    # The last batch may be smaller than `batch_size`; once all questions are answered, no line is dropped.
    if len(complete_lines) < len(ids):
        complete_lines = complete_lines[: len(complete_lines) // batch_size * batch_size]
    predictions = parse_predictions(prediction_type, complete_lines, part)
    if [prediction.id for prediction in predictions] != list(ids[: len(predictions)]):
        raise EvaluationError(f"{part} contains answers to other questions; delete it and run the same command again")
    os.truncate(part, sum(len(line) for line in complete_lines))
    return predictions
