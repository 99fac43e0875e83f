"""Plants a wrong answer in a draft about a drawn scene: it passes all filters, so that only the verifier finds it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from compact_hf.answers import same_answer
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.verification import filter_draft
from compact_hf.records import Draft
from compact_hf.scenes.kinds import get_category
from compact_hf.scenes.questions import make_question, read_question
from compact_hf.scenes.scene import build_scene

# The queried capability, its aspect, and a category of nouns.
_AnswerKind = tuple[str, str, str]


def plant_wrong_answer(draft: Draft, seed: int, preset: Preset) -> Draft:
    """Return the draft with a wrong answer of the same kind, such as another color or another number.

    Args:
        draft (`Draft`): a correct draft of the teacher scenes.
        seed (`int`): seed of its scene, which also decides the wrong answer.
        preset (`Preset`): the preset whose filters the draft has to pass.
    """
    mistaken_drafts = (
        replace(draft, answer=answer)
        for answer in _iter_answers(_answer_kind(draft.question), seed + 1)
        if not same_answer(draft.answer, answer)
    )
    # A filter drops, for example, the answer "red" to "How many red kites are there?".
    return next(mistaken for mistaken in mistaken_drafts if isinstance(filter_draft(mistaken, (), preset), Draft))


def _iter_answers(kind: _AnswerKind, start: int) -> Iterator[str]:
    """Yield without end the answers to questions of a kind about the scenes with the seeds `start`, `start` + 1, ..."""
    for seed in count(start):
        question = make_question(build_scene(seed), (kind[0],), random.Random(seed))
        if question is not None and _answer_kind(question.question) == kind:
            yield question.answer


def _answer_kind(question: str) -> _AnswerKind:
    """Return what kind of answer a question of the teacher scenes has."""
    program = read_question(question)
    assert program is not None, question
    # The category decides only what a thing can be: a person is not a kite.
    category = get_category(program.noun) if program.query == "object_recognition" else ""
    return program.query, program.aspect, category
