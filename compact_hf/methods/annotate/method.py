"""Registers annotate as a method: a verifier says which capabilities a dataset's questions need; it makes no rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compact_hf.methods.annotate.reasons import QuestionReason
from compact_hf.methods.base import DatasetOptions, Method, RunSetup, StartedMethod
from compact_hf.methods.compact.reasons import VerificationReason
from compact_hf.records import Loss

if TYPE_CHECKING:
    from compact_hf.images.question_rows import Exchange
    from compact_hf.images.questions import VqaSource
    from compact_hf.methods.annotate.annotation import AnnotationOutcome
    from compact_hf.methods.status import OutcomeCounter
    from compact_hf.records import ImageInfo, Reject
    from compact_hf.runs.process import Process
    from compact_hf.teachers.base import EncodedImage


class Annotate(Method):
    """Annotates each question of a dataset with what it needs (the paper's analysis of LLaVA-665K)."""

    name = "annotate"
    summary = "capabilities that the questions of a dataset need; makes no rows"
    options = DatasetOptions
    needs = "questions"
    roles = ("verifier",)
    reject_reasons = (QuestionReason, VerificationReason)
    makes_rows = False
    k_source = "judged"

    @classmethod
    def start(cls, setup: RunSetup) -> StartedMethod:
        """See `Method.start`."""
        # On use: it imports pydantic, which listing the methods does not need.
        from compact_hf.methods.verification import verification_prompts_version

        # `needs = "questions"` guarantees this type.
        source = cast("VqaSource", setup.source)
        return StartedMethod(
            partial(_process_image, source),
            # The identity: a changed dataset or prompt would mix two kinds of annotations in one run.
            {"rows": source.content_hash, "prompts": verification_prompts_version()},
        )

    @classmethod
    def parse_outcome(cls, body: str) -> AnnotationOutcome:
        """See `Method.parse_outcome`."""
        from compact_hf.methods.annotate.annotation import parse_annotation_outcome

        return parse_annotation_outcome(body)

    @classmethod
    def count_outcomes(cls, faults: dict[str, list[str]]) -> OutcomeCounter:
        """See `Method.count_outcomes`."""
        from compact_hf.methods.annotate.status import AnnotationCounter

        return AnnotationCounter(cls, faults)

    @classmethod
    def count_loss(cls, reject: Reject) -> Loss | None:
        """See `Method.count_loss`: what is not annotated is a row that cannot be read, or a question."""
        loss = super().count_loss(reject)
        return loss if loss != Loss() or reject.stage == "picture" else Loss(questions=1)

    @classmethod
    def iter_questions(cls, body: str) -> Iterator[Exchange]:
        """See `Method.iter_questions`."""
        from compact_hf.images.question_rows import Exchange

        for item in cls.parse_outcome(body).annotations:
            # (question, accepted answers, capabilities, k); an empty answer in the dataset means that there is none.
            yield Exchange(item.question, (item.answer,) if item.answer else (), item.capabilities, item.k)

    @classmethod
    def finish(cls, run: Path) -> None:
        """Write annotations.parquet."""
        from compact_hf.methods.annotate.annotate import write_annotations

        write_annotations(run)


def _process_image(source: VqaSource, image: ImageInfo, encoded_image: EncodedImage) -> Process:
    from compact_hf.methods.annotate.annotation import annotate_image

    return annotate_image(image.image_id, encoded_image, source.read_rows(image.ref))
