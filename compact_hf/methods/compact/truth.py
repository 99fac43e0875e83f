"""Answers COMPACT's requests about drawn scenes truthfully, for the teacher `scenes`, and plants faults on demand.

Each request has a subject: a `Task` requests questions, and `Questions` are to be verified or answered. A subject
computes the true reply about a scene.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import TeacherError
from compact_hf.methods.compact.prompts import BlindReply, DraftReply, VerdictReply
from compact_hf.scenes.questions import SceneQuestion, analyze_question, make_question
from compact_hf.scenes.scene import Scene
from compact_hf.teachers.base import TruthfulReply

FAULTS: Final = ("wrong answer", "superfluous capability", "missing capability", "joined question", "low confidence")
"""The faults that can be planted in a draft; results are counted under these names."""

# Per cent; above and below the limit of 70 in the presets.
_CONFIDENCE: Final = 95
_LOW_CONFIDENCE: Final = 40


@dataclass(frozen=True, slots=True)
class Task:
    """An image, and the combinations to request in one round.

    Attributes:
        image_id (`str`): the image's id.
        round (`int`): the number of the round, from 1.
        combinations (`tuple[tuple[str, ...], ...]`): the combinations, each of k distinct capabilities in canonical
            order.
    """

    image_id: str
    round: int
    combinations: tuple[tuple[str, ...], ...]

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        """Reply with a question for each combination; see `Subject.answer_about`.

        Args:
            scene (`Scene | None`): the scene in the image, None if the request has no image.
            rng (`random.Random`): random generator that chooses among possible questions.
            draw_fault (`Callable[[Sequence[str]], str]`): given the possible faults, returns the one to plant, or an
                empty string.

        Raises:
            TeacherError: the request has no image.
        """
        if scene is None:
            raise TeacherError(
                "the request has no scene (the teacher scenes only writes questions about drawn scenes): use scenes:N"
            )
        # In the order of combinations: `rng` is used by one draft after the other, so the order decides the result.
        drafts, planted = zip(
            *(_write_draft(scene, combination, rng, draw_fault) for combination in self.combinations), strict=True
        )
        if len(drafts) == 1 and not drafts[0]["supported"]:
            # Journals contain this text as a reply, so it does not change.
            return TruthfulReply(refused="the picture does not support it")
        # Labels are stored only if a fault was planted: most replies of a journal have none.
        return TruthfulReply(_to_text("drafts", drafts, DraftReply), planted=planted if any(planted) else ())


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions about an image, which the verifier is to judge, or to answer without the image.

    Attributes:
        questions (`tuple[str, ...]`): in the order of the prompt.
    """

    questions: tuple[str, ...]

    def answer_about(
        self,
        scene: Scene | None,
        rng: random.Random,  # noqa: ARG002
        draw_fault: Callable[[Sequence[str]], str],  # noqa: ARG002
    ) -> TruthfulReply:
        """Reply with what each question needs, and with its answer; see `Subject.answer_about`.

        Args:
            scene (`Scene | None`): the scene in the image, None if the questions are to be answered without the image.
            rng (`random.Random`): not used.
            draw_fault (`Callable[[Sequence[str]], str]`): not used; no faults are planted in a verifier's reply.
        """
        if scene is None:
            # Without the image no question can be answered.
            answers = [{"answer": "unanswerable"} for _ in self.questions]
            return TruthfulReply(_to_text("answers", answers, BlindReply))
        return TruthfulReply(
            _to_text("verdicts", [_judge(scene, question) for question in self.questions], VerdictReply)
        )


def _judge(scene: Scene, question: str) -> dict[str, Any]:
    """Return the true verdict on a question; a question that the scene does not answer needs no capability."""
    scene_question = analyze_question(scene, question)
    if scene_question is None:
        return {"capabilities": [], "answer": "unanswerable"}
    return {"capabilities": list(scene_question.capabilities), "answer": scene_question.answer}


def _write_draft(
    scene: Scene,
    combination: tuple[str, ...],
    rng: random.Random,
    draw_fault: Callable[[Sequence[str]], str],
) -> tuple[dict[str, Any], str]:
    """Return the draft for a combination, and the fault planted in it, empty if there is none."""
    # Drawn first, so that the draw does not depend on what the scene supports.
    fault = draw_fault(FAULTS)
    scene_question = make_question(scene, combination, rng)
    if scene_question is None:
        return {"supported": False, "question": "", "answer": "", "confidence": 0}, ""
    changes = _inject_fault(fault, scene, scene_question, rng)
    draft = {
        "supported": True,
        "question": scene_question.question,
        "answer": scene_question.answer,
        "confidence": _CONFIDENCE,
    }
    return draft | changes, fault if changes else ""


def _to_text(name: str, items: Sequence[Mapping[str, Any]], single_schema: type[BaseModel]) -> str:
    """Return the JSON that the schema requires: a single item alone, several items as a numbered list."""
    if len(items) == 1:
        return json.dumps({field: value for field, value in items[0].items() if field in single_schema.model_fields})
    return json.dumps({name: [{"number": number, **item} for number, item in enumerate(items, 1)]})


def _inject_fault(fault: str, scene: Scene, scene_question: SceneQuestion, rng: random.Random) -> dict[str, str | int]:
    """Return the fields of the draft that the fault changes; empty if the scene does not allow this fault."""
    match fault:
        case "wrong answer":
            # The answer to another question about the scene, of the same type if possible.
            alternatives = (
                alternative
                for alternative in _alternative_questions(scene, scene_question, rng)
                if alternative.answer != scene_question.answer
            )
            return next(({"answer": alternative.answer} for alternative in alternatives), {})
        case "superfluous capability":
            # Another question, which needs one more capability than requested; the verifier should find MORE.
            supersets = (
                canonicalize((*scene_question.capabilities, name))
                for name in _shuffle_capabilities(rng)
                if name not in scene_question.capabilities
            )
            return _ask_instead(scene, supersets, rng)
        case "missing capability":
            # A question that needs one capability less; the verifier should find FEWER. Not possible for k = 1.
            subsets = (
                tuple(name for name in scene_question.capabilities if name != dropped)
                for dropped in _shuffle_capabilities(rng)
            )
            return _ask_instead(
                scene, (subset for subset in subsets if subset and subset != scene_question.capabilities), rng
            )
        case "joined question":
            for alternative in _alternative_questions(scene, scene_question, rng):
                second = alternative.question[0].lower() + alternative.question[1:]
                return {
                    "question": f"{scene_question.question.rstrip('?')}, and {second}",
                    "answer": f"{scene_question.answer} and {alternative.answer}",
                }
            return {}
        case "low confidence":
            return {"confidence": _LOW_CONFIDENCE}
    return {}


def _alternative_questions(scene: Scene, scene_question: SceneQuestion, rng: random.Random) -> list[SceneQuestion]:
    """Return questions with one capability about the same scene.

    Those with one of the original question's capabilities come first, because their answers are of the same type.
    """
    names = sorted(_shuffle_capabilities(rng), key=lambda name: name not in scene_question.capabilities)
    questions = (make_question(scene, (name,), rng) for name in names)
    return [question for question in questions if question is not None]


def _ask_instead(scene: Scene, combinations: Iterable[tuple[str, ...]], rng: random.Random) -> dict[str, str | int]:
    """Return question and answer for the first combination that the scene supports; empty if there is none."""
    for combination in combinations:
        replacement = make_question(scene, combination, rng)
        if replacement is not None:
            return {"question": replacement.question, "answer": replacement.answer}
    return {}


def _shuffle_capabilities(rng: random.Random) -> list[str]:
    """Return the ten capabilities in random order."""
    return rng.sample(list(CAPABILITIES), len(CAPABILITIES))
