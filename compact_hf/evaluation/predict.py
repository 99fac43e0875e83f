"""Predicting: questions in, the model's answers out, judged, as a stream and in the questions' order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from compact_hf.evaluation.matching import Matching, is_right
from compact_hf.evaluation.question import Question
from compact_hf.evaluation.scoring import Prediction
from compact_hf.evaluation.student import Student


def predict(
    model: str,
    questions: Iterable[Question],
    *,
    batch_size: int,
    max_new_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Prediction]:
    """Yield one prediction for each question.

    Args:
        model (`str`): a folder or a Hub repository: a whole model or an adapter.
        questions (`Iterable[Question]`): read one batch ahead; each is asked alone.
        batch_size (`int`): questions answered at once.
        max_new_tokens (`int`): where an answer is cut.
        on_progress (`Callable[[int], None]`, *optional*): called after each batch with the number answered so far.

    Raises:
        EvaluationError: the model cannot be loaded.
        PictureError: a picture cannot be decoded.
    """
    student = Student(model)
    answered = 0
    remaining = iter(questions)
    while batch := list(islice(remaining, batch_size)):
        given = student.answer(
            [(question.read_picture(), question.question) for question in batch], max_new_tokens=max_new_tokens
        )
        for question, answer in zip(batch, given, strict=True):
            yield judged(question, answer)
        answered += len(batch)
        if on_progress:
            on_progress(answered)


def judged(question: Question, answer: str, matching: Matching = "exact") -> Prediction:
    """Return the prediction that says whether `answer` is right by that rule."""
    return Prediction(
        id=question.id,
        picture=question.picture,
        k=question.k,
        capabilities=question.capabilities,
        question=question.question,
        answers=question.answers,
        prediction=answer,
        right=is_right(answer, question.answers, matching),
    )
