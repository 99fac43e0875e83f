"""What the questions of a dataset need, image by image: the paper's analysis of LLaVA-665K, for any dataset.

In: an image and the rows that ask about it. Out: an `Annotation` for each question, or a reject. The verifier is not
led: it sees the image and the questions, never the answers that the dataset gives.
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
        row (`str`): where it stands: `SPLIT/ROW`, or the place in LLaVA's list, from 0.
        row_id (`str`): what the dataset calls the row, empty where it has no names.
        turn (`int`): the question's place in the row, from 0.
        image_id (`str`): the image's id.
        question, answer (`str`): the dataset's; the answer may be empty.
        capabilities (`tuple[str, ...]`): those that the verifier found to be needed, in canonical order.
        k (`int`): how many they are, 0 to 10.
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
    """What became of an image's questions; `verifier` are the model versions that judged."""

    annotations: tuple[Annotation, ...]
    rejects: tuple[Reject, ...]
    verifier: str


@dataclass(frozen=True, slots=True)
class DatasetQuestion:
    """A question as it stands in a row; a dataset's question is a draft that nobody is sure of or asked for."""

    row: QuestionRow
    turn: int
    draft: Draft


def parse_annotation_outcome(body: str) -> AnnotationOutcome:
    """Return what a journal holds as JSON."""
    return from_json(AnnotationOutcome, body)


def annotate_image(image_id: str, encoded_image: EncodedImage, rows: Sequence[QuestionRow]) -> Process:
    """Ask what every question about one image needs.

    Yields:
        A list of requests; the replies to them, in the same order, must be sent back.

    Returns:
        The `AnnotationOutcome` as JSON, and the number of its annotations.
    """
    questions, rejects = collect_questions(rows)
    verdicts = yield from request_verdicts(image_id, encoded_image, [question.draft for question in questions])
    annotations: list[Annotation] = []
    for question, (verdict, _) in zip(questions, verdicts, strict=True):
        if isinstance(verdict, Reject):
            rejects.append(verdict)
        else:
            annotations.append(_to_annotation(question, image_id, verdict))
    outcome = AnnotationOutcome(tuple(annotations), tuple(rejects), ", ".join(sorted({model for _, model in verdicts})))
    return Result(to_json(outcome), len(annotations))


def collect_questions(rows: Sequence[QuestionRow]) -> tuple[list[DatasetQuestion], list[Reject]]:
    """Return the questions in the rows, in their order, and a reject for each row or question that there is not."""
    questions: list[DatasetQuestion] = []
    rejects: list[Reject] = []
    for row in rows:
        if not row.exchanges:
            rejects.append(Reject("conversation", row.defect[0], row.location, row.defect[1]))
        for turn, exchange in enumerate(row.exchanges):
            # One line each, so that their numbers in a prompt stand out.
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
