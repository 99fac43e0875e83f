"""Registers augment as a method: rewrites a dataset's questions to need one more capability (the paper's k + 1)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from compact_hf.methods.annotate.reasons import QuestionReason
from compact_hf.methods.augment.options import METHOD, AugmentOptions
from compact_hf.methods.augment.reasons import OriginalReason
from compact_hf.methods.base import RunSetup, StartedMethod
from compact_hf.methods.compact.method import QuestionMethod
from compact_hf.methods.compact.reasons import ConversationReason, GenerationReason, VerificationReason
from compact_hf.records import Loss

if TYPE_CHECKING:
    from compact_hf.images.questions import VqaSource
    from compact_hf.methods.compact.preset import Preset
    from compact_hf.records import ImageInfo, Reject
    from compact_hf.runs.process import Process
    from compact_hf.teachers.base import EncodedImage

_QUESTION_REASONS: Final = frozenset((*QuestionReason, *OriginalReason))


class Augment(QuestionMethod):
    """Rewrites the questions of a dataset so that each needs one more capability."""

    name = METHOD
    summary = "questions of a dataset, rewritten to need one more capability"
    options = AugmentOptions
    needs = "questions"
    reject_reasons = (QuestionReason, OriginalReason, GenerationReason, VerificationReason, ConversationReason)

    @classmethod
    def count_loss(cls, reject: Reject) -> Loss | None:
        """See `Method.count_loss`: a question may have several drafts, so a dropped draft is not a lost question."""
        # A verdict on a question of the dataset, unlike one on a draft, has no requested capabilities.
        is_unjudged = reject.stage == "verification" and not reject.capabilities
        is_question = is_unjudged or reject.reason in _QUESTION_REASONS
        return Loss(questions=1) if is_question else super().count_loss(reject)

    @classmethod
    def start(cls, setup: RunSetup) -> StartedMethod:
        """See `Method.start`."""
        from compact_hf.methods.augment.augment import BATCH_PRESET, PRESET
        from compact_hf.methods.augment.prompts import rewrite_prompts_version
        from compact_hf.methods.compact.sampling import MAX_K
        from compact_hf.methods.verification import verification_prompts_version

        options: AugmentOptions = setup.options
        source = cast("VqaSource", setup.source)
        preset = replace(BATCH_PRESET if setup.is_batch else PRESET, strict=options.strict, max_edge=setup.run.max_edge)
        teacher_ks = setup.teachers["teacher"].ks
        ks = range(teacher_ks.start, min(teacher_ks.stop, MAX_K + 1))
        return StartedMethod(
            partial(_process_image, source, setup.run.seed, ks, preset),
            {
                "k": ["k+1"],
                "rows": source.content_hash,
                "preset": preset.preset_version,
                "prompts": f"{verification_prompts_version()}-{rewrite_prompts_version()}",
            },
        )


def _process_image(
    source: VqaSource, seed: int, ks: range, preset: Preset, image: ImageInfo, encoded_image: EncodedImage
) -> Process:
    from compact_hf.methods.augment.augment import augment_image

    rows = source.read_rows(image.ref)
    return augment_image(image.image_id, encoded_image, rows, seed=seed, ks=ks, preset=preset)
