"""Makes evaluation questions about reserved scenes (`scenes:N`), which are never used for training data.

Each of the first N reserved scenes gets one question for each k of 1, 2 and 3 that it supports. Fewer than half of the
scenes support a combination of four capabilities, and a quarter one of five. These scenes get up to three questions per
k, about the combinations that were used least so far, so that as many as possible of all 210 combinations of four and
252 combinations of five occur.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.evaluation.questions import QuestionSet
from compact_hf.evaluation.tasks.compact.records import CompactQuestion
from compact_hf.scenes.questions import SceneQuestion, make_question, supported_combinations
from compact_hf.scenes.scene import Scene, build_scene
from compact_hf.scenes.source import SceneSource, parse_seed, reserved_scenes

SCENES_PREFIX: Final = "scenes:"
_SINGLE_QUESTION_KS: Final = (1, 2, 3)
_SEVERAL_QUESTION_KS: Final = (4, 5)
_MAX_QUESTIONS: Final = 3
"""Maximum number of questions per scene and k; a conversation of the training data has as many."""


def read_scenes(dataset: str) -> QuestionSet:
    """Return the questions of `scenes:N`. The questions of `scenes:N+1` begin with the same ones.

    Raises:
        UsageError: `dataset` is not scenes:N with N of 1 or more, or there are fewer than N reserved scenes.
    """
    count = _parse_count(dataset)
    return QuestionSet(f"{count} reserved scenes", tuple(_iter_questions(reserved_scenes(count))), is_drawn=True)


def _iter_questions(source: SceneSource) -> Iterator[CompactQuestion]:
    """Yield the questions about each scene, in the order of the scenes."""
    usage: Counter[tuple[str, ...]] = Counter()  # combination -> number of questions so far
    for ref in source.refs():
        scene = build_scene(parse_seed(ref))
        for k in _SINGLE_QUESTION_KS:
            # Seeded by scene and k, so that a scene's questions do not depend on the number of scenes.
            rng = random.Random(f"{ref} {k}")
            combinations = supported_combinations(scene, k)
            scene_question = make_question(scene, rng.choice(combinations), rng) if combinations else None
            if scene_question is not None:
                yield _build_question(f"{ref}#k{k}", source, ref, scene_question)
        for k in _SEVERAL_QUESTION_KS:
            for index, scene_question in enumerate(_ask_least_used(scene, k, random.Random(f"{ref} {k}"), usage)):
                yield _build_question(f"{ref}#k{k}.{index}", source, ref, scene_question)


def _ask_least_used(
    scene: Scene, k: int, rng: random.Random, usage: Counter[tuple[str, ...]]
) -> Iterator[SceneQuestion]:
    """Yield questions for up to `_MAX_QUESTIONS` of the scene's combinations, the least used first; count them."""
    combinations = supported_combinations(scene, k)
    # Sorting is stable: among equally used combinations, the order is random.
    shuffled = rng.sample(combinations, len(combinations))
    for combination in sorted(shuffled, key=lambda candidate: usage[candidate])[:_MAX_QUESTIONS]:
        scene_question = make_question(scene, combination, rng)
        if scene_question is not None:
            usage[combination] += 1
            yield scene_question


def _build_question(id: str, source: SceneSource, ref: str, scene_question: SceneQuestion) -> CompactQuestion:
    return CompactQuestion(
        id=id,
        image_id=ref,
        question=scene_question.question,
        answers=(scene_question.answer,),
        k=len(scene_question.capabilities),
        capabilities=scene_question.capabilities,
        read_image=partial(source.read, ref),
    )


def _parse_count(dataset: str) -> int:
    number = dataset.removeprefix(SCENES_PREFIX)
    # `isdigit` is true for characters such as ² that `int` refuses, so only ASCII is accepted.
    if not (number.isascii() and number.isdigit() and int(number)):
        raise UsageError(
            f"{dataset!r} is not scenes:N with N of 1 or more; give the number of reserved scenes, not their seeds"
        )
    return int(number)
