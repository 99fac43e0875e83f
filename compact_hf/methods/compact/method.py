"""Registers COMPACT, the paper's method: questions that need k capabilities at once, written and verified by models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from compact_hf.methods.base import Method, RunSetup, StartedMethod
from compact_hf.methods.compact.columns import QuestionRow, QuestionRowKind
from compact_hf.methods.compact.options import CompactOptions
from compact_hf.methods.compact.reasons import ConversationReason, GenerationReason, VerificationReason

if TYPE_CHECKING:
    from compact_hf.images.question_rows import Exchange
    from compact_hf.methods.assembly import AssemblyOptions, FinishedOutcome
    from compact_hf.methods.compact.conversation import Outcome
    from compact_hf.methods.compact.preset import Preset
    from compact_hf.methods.forecast import ImageEstimate
    from compact_hf.methods.row_kind import Filters, Sample
    from compact_hf.methods.status import OutcomeCounter, RunStatus
    from compact_hf.records import ImageInfo, Reject
    from compact_hf.runs.journal import Journal
    from compact_hf.runs.process import Process
    from compact_hf.teachers.base import EncodedImage


class QuestionMethod(QuestionRowKind, Method):
    """Common base of COMPACT and augment: conversations of verified questions, which are assembled together."""

    k_source = "asked"

    @classmethod
    def parse_outcome(cls, body: str) -> Outcome:
        """See `Method.parse_outcome`."""
        from compact_hf.methods.compact.conversation import parse_outcome

        return parse_outcome(body)

    @classmethod
    def count_outcomes(cls, faults: dict[str, list[str]]) -> OutcomeCounter:
        """See `Method.count_outcomes`."""
        from compact_hf.methods.compact.status import QuestionCounter

        return QuestionCounter(cls, faults)

    @classmethod
    def iter_questions(cls, body: str) -> Iterator[Exchange]:
        """See `Method.iter_questions`."""
        from compact_hf.images.question_rows import Exchange

        conversation = cls.parse_outcome(body).conversation
        for turn in conversation.turns if conversation is not None else ():
            yield Exchange(turn.question, (turn.answer,), turn.capabilities, len(turn.capabilities))

    @classmethod
    def iter_rows(cls, journals: Sequence[Journal], options: AssemblyOptions) -> Iterator[QuestionRow | Reject]:
        """See `Method.iter_rows`."""
        # COMPACT and augment inherit this function, which is why their runs are assembled together (assembly.py).
        from compact_hf.methods.compact.rows import iter_question_rows

        return iter_question_rows(journals, options)

    @classmethod
    def make_outcome_sample(cls, outcome: FinishedOutcome, filters: Filters, *, rejects: bool) -> Sample | None:
        """See `Method.make_outcome_sample`."""
        from compact_hf.methods.compact.rows import make_conversation_sample

        return make_conversation_sample(outcome, filters, rejects=rejects)


class Compact(QuestionMethod):
    """Questions that need k capabilities at once (paper, section 3)."""

    name = "compact"
    summary = "questions that need k visual capabilities at once (COMPACT)"
    options = CompactOptions
    reject_reasons = (GenerationReason, VerificationReason, ConversationReason)

    @classmethod
    def start(cls, setup: RunSetup) -> StartedMethod:
        """See `Method.start`."""
        from compact_hf.methods.compact.preset import get_preset
        from compact_hf.methods.compact.prompts import prompts_version

        options: CompactOptions = setup.options
        teacher = setup.teachers["teacher"]
        preset = get_preset(options.preset, strict=options.strict, is_batch=setup.is_batch)
        # The preset as it is used: with the ks of this run, which the teacher must support.
        preset = preset.with_overrides(
            options.ks, max_edge=setup.run.max_edge, teacher=teacher.name, supported_ks=teacher.ks
        )
        return StartedMethod(
            partial(_process_image, setup.run.seed, preset),
            {
                # The identity: a run with another k, preset or prompt is another run.
                "k": list(preset.ks),
                "preset": preset.preset_version,
                "prompts": prompts_version(preset.combinations_per_request),
            },
            partial(_estimate_image, preset),
        )


def _process_image(seed: int, preset: Preset, image: ImageInfo, encoded_image: EncodedImage) -> Process:
    from compact_hf.methods.compact.conversation import generate_conversation

    return generate_conversation(image.image_id, encoded_image, seed=seed, ks=preset.ks, preset=preset)


def _estimate_image(preset: Preset, status: RunStatus | None) -> ImageEstimate:
    from compact_hf.methods.compact.forecast import estimate_run

    return estimate_run(preset, status)
