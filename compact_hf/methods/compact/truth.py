"""What is true of a drawn scene, as the teacher `scenes` replies it to COMPACT's requests, and the faults it can plant.

A `Task` asks for questions, `Questions` asks what questions need: each is the subject of a request, and answers itself.
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
"""The faults that can be planted in a draft, each in the words under which it is counted."""

_CONFIDENCE: Final = 95
_LOW_CONFIDENCE: Final = 40


@dataclass(frozen=True, slots=True)
class Task:
    """An image and the combinations to ask for in one round.

    Attributes:
        image_id (`str`): the image's id.
        round (`int`): 1 for the first.
        combinations (`tuple[tuple[str, ...], ...]`): each with k distinct capabilities in canonical order.
    """

    image_id: str
    round: int
    combinations: tuple[tuple[str, ...], ...]

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        """See `Subject.answer_about`: a question for each combination.

        Raises:
            TeacherError: there is no image.
        """
        if scene is None:
            raise TeacherError("the teacher scenes writes questions about scenes, and was shown none")
        drafts, planted = zip(
            *(_write_draft(scene, combination, rng, draw_fault) for combination in self.combinations), strict=True
        )
        if len(drafts) == 1 and not drafts[0]["supported"]:
            return TruthfulReply(refused="the picture does not support it")
        return TruthfulReply(_to_text("drafts", drafts, DraftReply), planted=planted if any(planted) else ())


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions about an image, for the verifier to judge, or to answer where it does not see the image.

    Attributes:
        questions (`tuple[str, ...]`): in the order of the prompt.
    """

    questions: tuple[str, ...]

    def answer_about(
        self,
        scene: Scene | None,
        rng: random.Random,  # noqa: ARG002
        draw_fault: Callable[[Sequence[str]], str],  # noqa: ARG002  # a verifier makes no faults
    ) -> TruthfulReply:
        """See `Subject.answer_about`: what each question needs, and its answer."""
        if scene is None:
            # Without the image nothing is known of it.
            answers = [{"answer": "unanswerable"} for _ in self.questions]
            return TruthfulReply(_to_text("answers", answers, BlindReply))
        return TruthfulReply(
            _to_text("verdicts", [_judge(scene, question) for question in self.questions], VerdictReply)
        )


def _judge(scene: Scene, question: str) -> dict[str, Any]:
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
    """Return the items as the JSON that the schema asks for: the one alone, or several by number under a name."""
    if len(items) == 1:
        return json.dumps({field: value for field, value in items[0].items() if field in single_schema.model_fields})
    return json.dumps({name: [{"number": number, **item} for number, item in enumerate(items, 1)]})


def _inject_fault(fault: str, scene: Scene, scene_question: SceneQuestion, rng: random.Random) -> dict[str, str | int]:
    """Return what the fault changes in the draft; empty where the scene has no room for it."""
    match fault:
        case "wrong answer":
            alternatives = (
                alternative
                for alternative in _alternative_questions(scene, scene_question, rng)
                if alternative.answer != scene_question.answer
            )
            return next(({"answer": alternative.answer} for alternative in alternatives), {})
        case "superfluous capability":
            supersets = (
                canonicalize((*scene_question.capabilities, name))
                for name in _shuffle_capabilities(rng)
                if name not in scene_question.capabilities
            )
            return _ask_instead(scene, supersets, rng)
        case "missing capability":
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
    """Return questions of one capability about the same scene, the ones that ask for the same kind of answer first."""
    names = sorted(_shuffle_capabilities(rng), key=lambda name: name not in scene_question.capabilities)
    questions = (make_question(scene, (name,), rng) for name in names)
    return [question for question in questions if question is not None]


def _ask_instead(scene: Scene, combinations: Iterable[tuple[str, ...]], rng: random.Random) -> dict[str, str | int]:
    for combination in combinations:
        replacement = make_question(scene, combination, rng)
        if replacement is not None:
            return {"question": replacement.question, "answer": replacement.answer}
    return {}


def _shuffle_capabilities(rng: random.Random) -> list[str]:
    return rng.sample(list(CAPABILITIES), len(CAPABILITIES))
