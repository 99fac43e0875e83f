"""Drops questions whose image cannot be read or decoded, before any model is asked.

All models then answer the same questions, and a control swaps only images that can be shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.questions import QuestionSet
from compact_hf.images.codec import ImageError, decode, strip_metadata
from compact_hf.records import Loss
from compact_hf.storage import prefetch


def drop_unreadable_images(question_set: QuestionSet) -> QuestionSet:
    """Return the questions whose image can be decoded; the others are counted by reason, and named in the notes.

    Args:
        question_set (`QuestionSet`): the questions. Each distinct image is decoded once; drawn images are not checked.

    Raises:
        EvaluationError: no question is left.
    """
    if question_set.is_drawn:
        return question_set
    readers = {question.image_id: question.read_image for question in question_set.questions if question.read_image}
    # Image id -> why it cannot be shown.
    errors = {image_id: error for (image_id, _), error in prefetch(readers.items(), _find_error) if error is not None}
    if not errors:
        return question_set
    losses, unreadable = dict(question_set.losses), {}
    rows: set[str] = set()
    for question in question_set.questions:
        error = errors.get(question.image_id)
        if error is not None:
            # `ROW#0`, `ROW#1`, ... are questions of one row, which has one image.
            row = question.id.partition("#")[0]
            losses[error.reason] = losses.get(error.reason, Loss()) + Loss(rows=int(row not in rows), questions=1)
            rows.add(row)
            unreadable[question.id] = str(error)
    questions = tuple(question for question in question_set.questions if question.image_id not in errors)
    if not questions:
        id, first = next(iter(unreadable.items()))
        raise EvaluationError(
            f"{question_set.name} has no question whose image can be decoded (the first: {id}: {first}); give another "
            "dataset"
        )
    return replace(question_set, questions=questions, losses=dict(sorted(losses.items())), unreadable=unreadable)


def _find_error(item: tuple[str, Callable[[], bytes]]) -> ImageError | None:
    """Return why an image cannot be read or decoded; None if it can."""
    _, read_image = item
    try:
        # target_edge=1: a JPEG is decoded at 1/8 of its size, which reads all its bytes and is several times faster.
        decode(strip_metadata(read_image()), target_edge=1)
    except ImageError as error:
        return error
    return None
