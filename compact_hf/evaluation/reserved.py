"""Questions about the scenes that no training data may use: `scenes:N` in, questions of every k from 1 to 5 out.

Of each of the first N reserved scenes one question is asked for every k of 1, 2 and 3 that it supports. Hardly half of
the scenes support a combination of four, and a quarter one of five: those are asked up to three, each time the
combinations that were asked least so far, so that as many as possible of all 210 and 252 are met.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.question import Question
from compact_hf.scenes.questions import SceneQuestion, ask, supported
from compact_hf.scenes.scene import Scene, scene_of
from compact_hf.scenes.source import Scenes, reserved, seed_of

SCENES: Final = "scenes:"
_ONCE: Final = (1, 2, 3)
_WIDENED: Final = (4, 5)
_MOST: Final = 3
"""Questions of one scene and one k, as many as a conversation of the training data has."""


def of_reserved(dataset: str) -> Iterator[Question]:
    """Yield the questions of `scenes:N`; those of `scenes:N+1` begin with them.

    Raises:
        EvaluationError: it is not scenes:N with N of 1 or more.
        UsageError: there are fewer reserved scenes.
    """
    source = reserved(_count(dataset))
    asked: Counter[tuple[str, ...]] = Counter()
    for ref in source.refs():
        scene = scene_of(seed_of(ref))
        for k in _ONCE:
            rng = random.Random(f"{ref} {k}")
            combinations = supported(scene, k)
            found = ask(scene, rng.choice(combinations), rng) if combinations else None
            if found is not None:
                yield _question(f"{ref}#k{k}", source, ref, found)
        for k in _WIDENED:
            for number, found in enumerate(_least_asked(scene, k, random.Random(f"{ref} {k}"), asked)):
                yield _question(f"{ref}#k{k}.{number}", source, ref, found)


def _least_asked(scene: Scene, k: int, rng: random.Random, asked: Counter[tuple[str, ...]]) -> Iterator[SceneQuestion]:
    """Yield questions about up to `_MOST` of the scene's combinations, and count them."""
    combinations = supported(scene, k)
    drawn = rng.sample(combinations, len(combinations))
    for combination in sorted(drawn, key=lambda one: asked[one])[:_MOST]:
        found = ask(scene, combination, rng)
        if found is not None:
            asked[combination] += 1
            yield found


def _question(id: str, source: Scenes, ref: str, found: SceneQuestion) -> Question:
    return Question(
        id=id,
        picture=ref,
        question=found.question,
        answers=(found.answer,),
        k=len(found.capabilities),
        capabilities=found.capabilities,
        read_picture=partial(source.read, ref),
    )


def _count(dataset: str) -> int:
    number = dataset.removeprefix(SCENES)
    if not (number.isascii() and number.isdigit() and int(number)):
        raise EvaluationError(f"{dataset!r} is not scenes:N with N of 1 or more; evaluation chooses the reserved ones")
    return int(number)
