"""Annotates the questions about one image with the capabilities they need: the paper's analysis, for any dataset.

It takes an image and the dataset rows with questions about it, and returns an `Annotation` or a reject for each
question. The verifier sees the image and the questions, but never the dataset's answers, so that it is not led.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.images.questions import QuestionRow
from compact_hf.methods.annotate.reasons import QuestionReason
from compact_hf.methods.verification import request_verdicts
from compact_hf.records import Draft, Reject, Verdict, from_json, to_json
from compact_hf.runs.process import Process, Result
from compact_hf.teachers.base import EncodedImage

METHOD: Final = "annotate"


@dataclass(frozen=True, slots=True)
class Annotation:
    """A question of a dataset, and what it needs.

    Attributes:
        row (`str`): location of the row: `SPLIT/ROW`, or the index in LLaVA's JSON list, from 0.
        row_id (`str`): the dataset's id of the row, empty if it has none.
        turn (`int`): index of the question in the row, from 0.
        image_id (`str`): the image's id.
        question, answer (`str`): as in the dataset; the answer may be empty.
        capabilities (`tuple[str, ...]`): the capabilities that the verifier found to be needed, in canonical order.
        k (`int`): number of these capabilities, 0 to 10.
        verifier_answer (`str`): the verifier's own answer.
    """

    row: str
    row_id: str
    turn: int
    image_id: str
    question: str
    answer: str
    capabilities: tuple[str, ...]
    k: int
    verifier_answer: str


@dataclass(frozen=True, slots=True)
class AnnotationOutcome:
    """The outcome of an image's questions.

    Attributes:
        annotations (`tuple[Annotation, ...]`): the annotated questions.
        rejects (`tuple[Reject, ...]`): rows and questions that could not be annotated.
        verifier (`str`): the model versions that judged, separated by commas.
    """

    annotations: tuple[Annotation, ...]
    rejects: tuple[Reject, ...]
    verifier: str


@dataclass(frozen=True, slots=True)
class DatasetQuestion:
    """A question in a row of a dataset.

    Attributes:
        row (`QuestionRow`): the row.
        turn (`int`): index of the question in the row, from 0.
        draft (`Draft`): the question as a draft with confidence 0 and without requested capabilities.
    """

    row: QuestionRow
    turn: int
    draft: Draft


def parse_annotation_outcome(body: str) -> AnnotationOutcome:
    """Return the outcome that a journal holds as JSON.

    Args:
        body (`str`): the JSON.
    """
    return from_json(AnnotationOutcome, body)


def annotate_image(image_id: str, encoded_image: EncodedImage, rows: Sequence[QuestionRow]) -> Process:
    """Ask the verifier what each question about one image needs.

    Args:
        image_id (`str`): the id of the image.
        encoded_image (`EncodedImage`): the image as the verifier sees it.
        rows (`Sequence[QuestionRow]`): the dataset rows about this image.

    Yields:
        A list of requests; the list of replies, in the same order, must be sent back.

    Returns:
        The `AnnotationOutcome` as JSON, and the number of annotations.
    """
    # All questions are sent in one list of requests: no request depends on the reply to another one.
    questions, rejects = collect_questions(rows)
    verdicts = yield from request_verdicts(image_id, encoded_image, [question.draft for question in questions])
    annotations: list[Annotation] = []
    for question, (verdict, _) in zip(questions, verdicts, strict=True):
        if isinstance(verdict, Reject):
            rejects.append(verdict)
        else:
            annotations.append(_to_annotation(question, image_id, verdict))
    # Several requests may have been answered by different model versions.
    outcome = AnnotationOutcome(tuple(annotations), tuple(rejects), ", ".join(sorted({model for _, model in verdicts})))
    return Result(to_json(outcome), len(annotations))


def collect_questions(rows: Sequence[QuestionRow]) -> tuple[list[DatasetQuestion], list[Reject]]:
    """Collect the questions in rows of a dataset.

    Args:
        rows (`Sequence[QuestionRow]`): the rows about one image.

    Returns:
        The questions in their order, and a reject for each row without questions and for each empty question.
    """
    questions: list[DatasetQuestion] = []
    rejects: list[Reject] = []
    for row in rows:
        # A row that cannot be read has no exchanges, and says why in `defect`: (reason, detail).
        if not row.exchanges:
            rejects.append(Reject("conversation", row.defect[0], row.location, row.defect[1]))
        for turn, exchange in enumerate(row.exchanges):
            # Joined into one line, because prompts list questions as numbered lines.
            question, answer = " ".join(exchange.question.split()), " ".join(exchange.answer.split())
            if question:
                questions.append(DatasetQuestion(row, turn, Draft(question, answer, 0, ())))
            else:
                rejects.append(Reject("conversation", QuestionReason.EMPTY, row.location, f"turn {turn}"))
    return questions, rejects


def _to_annotation(question: DatasetQuestion, image_id: str, verdict: Verdict) -> Annotation:
    return Annotation(
        row=question.row.location,
        row_id=question.row.id,
        turn=question.turn,
        image_id=image_id,
        question=question.draft.question,
        answer=question.draft.answer,
        capabilities=verdict.capabilities,
        k=len(verdict.capabilities),
        verifier_answer=verdict.answer,
    )
