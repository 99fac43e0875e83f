"""Answer a dataset's questions with a model that runs here, and read the predictions of an evaluation.

Questions are asked in batches of about the same length, all that are about one image together, the longest first; a
batch's answers are on disk before the next one's. What is in the file is not asked again, so a run that was killed
ends with the same answers as one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.inference import ImagePromptPairs, Student, decode_rgb
from compact_hf.evaluation.questions import Prediction, Question
from compact_hf.evaluation.task import DEFAULT_TASK, EvaluationTask, load_task
from compact_hf.images.codec import ImageError
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import from_json
from compact_hf.storage import translate_disk_errors

PREDICTIONS_FILE: Final = "predictions.jsonl"
EVALUATION_FILE: Final = "evaluation.json"
LOCK_FILE: Final = "evaluation.lock"


def read_predictions(directory: str | Path) -> list[Prediction]:
    """Return what one model answered, question by question, as the evaluation's task has them: those of `compact` with
    `k` and `capabilities`.

    Args:
        directory (`str | Path`): a model's folder in what `compact evaluate` wrote, with predictions.jsonl in it.

    Raises:
        UsageError: the evaluation's task is not installed.
        EvaluationError: there is no such file, or it was written by another version.
    """
    path = Path(directory) / PREDICTIONS_FILE
    with translate_disk_errors(
        EvaluationError, path, "give the folder of one model, DIR/NAME of compact evaluate's --out DIR", is_reading=True
    ):
        lines = path.read_bytes().splitlines()
    manifest = read_manifest(evaluation_directory(Path(directory).resolve().parent))
    prediction_type = load_task(manifest["task"] if manifest else DEFAULT_TASK).prediction_type
    return parse_predictions(prediction_type, lines, path)


def parse_predictions(prediction_type: type[Prediction], lines: Sequence[bytes], path: Path) -> list[Prediction]:
    """Return the predictions of these lines of JSON; `path` is what an error calls them.

    Raises:
        EvaluationError: a line is none.
    """
    from pydantic import ValidationError

    predictions = []
    for number, line in enumerate(lines, 1):
        try:
            predictions.append(from_json(prediction_type, line))
        except ValidationError as error:
            detail = error.errors()[0]
            raise EvaluationError(
                f"{path}, line {number}: {'.'.join(map(str, detail['loc']))} {detail['msg'].lower()}; it was "
                "written by "
                "another version or is damaged: judge the model again"
            ) from error
    return predictions


def evaluation_directory(out: Path) -> OutputDirectory:
    """Return the directory of an evaluation, to be claimed or read."""
    return OutputDirectory(
        out,
        "an evaluation",
        EVALUATION_FILE,
        lock_name=LOCK_FILE,
        error_type=EvaluationError,
        claim_error_type=EvaluationError,
    )


def read_manifest(directory: OutputDirectory) -> dict[str, Any] | None:
    """Return what an evaluation.json holds, None where there is none. Version 0.1.0 named no task.

    Raises:
        EvaluationError: it cannot be read, or is none.
    """
    content = directory.read_settings()
    if content is None:
        return None
    if not isinstance(content.get("models"), dict):
        raise directory.damaged_error("it names no models")
    return {"task": DEFAULT_TASK, "task_version": "1", **content}


DEFAULT_BATCH_SIZE: Final = 64
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
    """Return one prediction for each question, in their order.

    Args:
        student (`Student`): who is asked.
        questions (`Sequence[Question]`): each is asked alone.
        directory (`Path`): where answers are kept until all are there; those of an earlier call with the same arguments
            are taken from there.
        task (`EvaluationTask`): makes prompts of questions, and marks answers.
        matching (`str`): by which of its rules.
        batch_size (`int`, *optional*, defaults to 64): questions answered at once.
        max_new_tokens (`int`): where an answer is cut.
        on_progress (`Callable[[int], None]`, *optional*): called with the number answered so far: at first, and after
            each batch.

    Raises:
        EvaluationError: the student cannot answer, or an image cannot be decoded.
    """
    try:
        lengths = student.prompt_lengths([(question.read_image, task.get_prompt(question)) for question in questions])
    except ImageError as error:
        raise _unreadable_image_error(questions, error) from error
    order = sort_for_batching(questions, lengths)
    part = directory / _PART_FILE
    predictions = _resume_part(part, task.prediction_type, [question.id for question in order], batch_size)
    on_progress(len(predictions))
    batches = [order[start : start + batch_size] for start in range(len(predictions), len(order), batch_size)]
    readers = [partial(_read_pairs, task, batch) for batch in batches]
    answers = student.answer_batches(readers, max_new_tokens=max_new_tokens)
    try:
        with part.open("a", encoding="utf-8") as file:
            for batch, batch_answers in zip(batches, answers, strict=True):
                new = [
                    task.mark(question, answer, matching) for question, answer in zip(batch, batch_answers, strict=True)
                ]
                file.write("".join(f"{prediction.to_line()}\n" for prediction in new))
                file.flush()
                predictions += new
                on_progress(len(predictions))
    except ImageError as error:
        raise _unreadable_image_error(order[len(predictions) : len(predictions) + batch_size], error) from error
    by_id = {prediction.id: prediction for prediction in predictions}
    return [by_id[question.id] for question in questions]


def count_local_answers(directory: Path) -> int:
    """Return how many answers `predict` has kept in a model's folder."""
    part = directory / _PART_FILE
    return part.read_bytes().count(b"\n") if part.exists() else 0


def remove_part(directory: Path) -> None:
    """Remove what `predict` kept, once its predictions lie elsewhere."""
    (directory / _PART_FILE).unlink(missing_ok=True)


def sort_for_batching(questions: Sequence[Question], lengths: Sequence[int]) -> list[Question]:
    """Return the questions so that batches cut from them have little padding and few different images.

    Image by image, that with the longest question first: it is read once for all of them, and where the memory is
    too small that shows at once.
    """
    longest: dict[str, int] = {}
    for question, length in zip(questions, lengths, strict=True):
        longest[question.image_id] = max(length, longest.get(question.image_id, 0))
    rank = {
        image_id: index
        for index, image_id in enumerate(sorted(longest, key=lambda image: longest[image], reverse=True))
    }
    return sorted(questions, key=lambda question: rank[question.image_id])


def _read_pairs(task: EvaluationTask, batch: Sequence[Question]) -> ImagePromptPairs:
    return [(question.read_image and question.read_image(), task.get_prompt(question)) for question in batch]


def _unreadable_image_error(batch: Sequence[Question], error: ImageError) -> EvaluationError:
    """Return which question's image it is that cannot be shown."""
    for question in batch:
        try:
            if question.read_image is not None:
                decode_rgb(question.read_image())
        except ImageError:
            return EvaluationError(
                f"the picture of question {question.id} cannot be shown ({error}); leave that row out"
            )
    return EvaluationError(str(error))


def _resume_part(
    part: Path, prediction_type: type[Prediction], ids: Sequence[str], batch_size: int
) -> list[Prediction]:
    """Cut `part` to its whole batches and return their predictions.

    Whole batches, because what a question is padded beside can tip a close call between two words: so a run that
    was stopped ends with the same predictions as one that was not.
    """
    if not part.exists():
        return []
    lines = part.read_bytes().splitlines(keepends=True)
    complete_lines = [line for line in lines if line.endswith(b"\n")]
    if len(complete_lines) < len(ids):
        complete_lines = complete_lines[: len(complete_lines) // batch_size * batch_size]
    predictions = parse_predictions(prediction_type, complete_lines, part)
    if [prediction.id for prediction in predictions] != list(ids[: len(predictions)]):
        raise EvaluationError(f"{part} holds answers to other questions; remove it and run the same command")
    os.truncate(part, sum(len(line) for line in complete_lines))
    return predictions
