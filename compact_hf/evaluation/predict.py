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
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.inference import ImageQuestionPairs, Student, decode_rgb
from compact_hf.evaluation.questions import Question
from compact_hf.evaluation.scoring import Matching, Prediction, is_right
from compact_hf.images.codec import ImageError
from compact_hf.records import from_json, to_json

PREDICTIONS_FILE: Final = "predictions.jsonl"


def read_predictions(directory: str | Path) -> list[Prediction]:
    """Return what one model answered, question by question.

    Args:
        directory (`str | Path`): a model's folder in what `compact evaluate` wrote, with predictions.jsonl in it.

    Raises:
        EvaluationError: there is no such file, or it was written by another version.
    """
    from pydantic import ValidationError

    path = Path(directory) / PREDICTIONS_FILE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror or error}); give the folder of one model, DIR/NAME of compact "
            "evaluate's --out DIR"
        ) from error
    predictions = []
    for number, line in enumerate(lines, 1):
        try:
            predictions.append(from_json(Prediction, line))
        except ValidationError as error:
            detail = error.errors()[0]
            raise EvaluationError(
                f"{path}, line {number}: {'.'.join(map(str, detail['loc']))} {detail['msg'].lower()}; it was "
                "written by "
                "another version or is damaged: judge the model again"
            ) from error
    return predictions


DEFAULT_BATCH_SIZE: Final = 64
MAX_NEW_TOKENS: Final = 16
_PART_FILE: Final = "predictions.part.jsonl"


def predict(
    student: Student,
    questions: Sequence[Question],
    directory: Path,
    *,
    matching: Matching,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_progress: Callable[[int], None] = lambda answered: None,
) -> list[Prediction]:
    """Return one prediction for each question, in their order.

    Args:
        student (`Student`): who is asked.
        questions (`Sequence[Question]`): each is asked alone.
        directory (`Path`): where answers are kept until all are there; those of an earlier call with the same arguments
            are taken from there.
        matching (`str`): when an answer is right.
        batch_size (`int`, *optional*, defaults to 64): questions answered at once.
        max_new_tokens (`int`, *optional*, defaults to 16): where an answer is cut.
        on_progress (`Callable[[int], None]`, *optional*): called with the number answered so far: at first, and after
            each batch.

    Raises:
        EvaluationError: the student cannot answer, or an image cannot be decoded.
    """
    try:
        lengths = student.prompt_lengths([(question.read_image, question.question) for question in questions])
    except ImageError as error:
        raise _unreadable_image_error(questions, error) from error
    order = sort_for_batching(questions, lengths)
    part = directory / _PART_FILE
    predictions = _resume_part(part, [question.id for question in order], batch_size)
    on_progress(len(predictions))
    batches = [order[start : start + batch_size] for start in range(len(predictions), len(order), batch_size)]
    answers = student.answer_batches([partial(_read_pairs, batch) for batch in batches], max_new_tokens=max_new_tokens)
    try:
        with part.open("a", encoding="utf-8") as file:
            for batch, batch_answers in zip(batches, answers, strict=True):
                new = [
                    build_prediction(question, answer, matching)
                    for question, answer in zip(batch, batch_answers, strict=True)
                ]
                file.write("".join(f"{to_json(prediction)}\n" for prediction in new))
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


def build_prediction(question: Question, answer: str, matching: Matching = "exact") -> Prediction:
    """Return the prediction that says whether `answer` is right by that rule."""
    return Prediction(
        id=question.id,
        picture=question.image_id,
        k=question.k,
        capabilities=question.capabilities,
        question=question.question,
        answers=question.answers,
        prediction=answer,
        right=is_right(answer, question.answers, matching),
    )


def _read_pairs(batch: Sequence[Question]) -> ImageQuestionPairs:
    return [(question.read_image(), question.question) for question in batch]


def _unreadable_image_error(batch: Sequence[Question], error: ImageError) -> EvaluationError:
    """Return which question's image it is that cannot be shown."""
    for question in batch:
        try:
            decode_rgb(question.read_image())
        except ImageError:
            return EvaluationError(
                f"the picture of question {question.id} cannot be shown ({error}); leave that row out"
            )
    return EvaluationError(str(error))


def _resume_part(part: Path, ids: Sequence[str], batch_size: int) -> list[Prediction]:
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
    predictions = [from_json(Prediction, line) for line in complete_lines]
    if [prediction.id for prediction in predictions] != list(ids[: len(predictions)]):
        raise EvaluationError(f"{part} holds answers to other questions; remove it and run the same command")
    os.truncate(part, sum(len(line) for line in complete_lines))
    return predictions
