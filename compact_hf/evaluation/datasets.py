"""Open what models are judged on: `scenes:N`, a dataset on the Hub or in a directory, or a file of rows.

    scenes:N                             scenes that no training data may use
    org/name, org/name@v1.0.0            a dataset on the Hub, at a revision or as it is now
    a directory; a .parquet, .jsonl, .json or .csv file

Of each of the first N reserved scenes one question is asked for every k of 1, 2 and 3 that it supports. Hardly half of
the scenes support a combination of four, and a quarter one of five: those are asked up to three, each time the
combinations that were asked least so far, so that as many as possible of all 210 and 252 are met.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.questions import Question, of_rows
from compact_hf.records import digest
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


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one data set.

    Attributes:
        name (`str`): what they are called in results.
        identity (`str`): a hash of ids, questions and answers.
        questions (`tuple[Question, ...]`): in a fixed order.
        left_out (`Mapping[str, int]`): reason -> rows that cannot be asked.
    """

    name: str
    identity: str
    questions: tuple[Question, ...]
    left_out: Mapping[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of scores has to know of them, in lines."""
        return tuple(f"{count:,} rows of {self.name} left out: {reason}" for reason, count in self.left_out.items())


def questions_of(
    dataset: str,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Questions:
    """Return a data set's questions; pictures are read only when they are asked about.

    Args:
        dataset (`str`): as in the module.
        config (`str`, *optional*): of a data set with several; by default `compositional` where there is one.
        split (`str`, *optional*): by default `validation` or else `test`. Scenes have neither.
        columns (`Mapping[str, str]`, *optional*): what is what -> its column, of question, answer, image, k,
            capabilities and id, for a data set of one question a row. See rows.py.
        limit (`int`, *optional*): only so many questions, drawn by a hash of their ids: those of a smaller limit are
            among those of a larger one.

    Raises:
        UsageError: an argument that the data set has no use for, or a limit below 1.
        EvaluationError: there is no such data set or split, it lacks columns, or it has no questions.
        UnknownCapabilityError: a capability is not one of the ten.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"got the limit {limit}; it must be at least 1")
    left_out: dict[str, int] = {}
    if dataset.startswith(SCENES):
        if config or split or columns:
            raise UsageError(f"{dataset} has no configs, splits or columns; leave --config, --split and --columns out")
        found, name = list(of_reserved(dataset)), f"{dataset.removeprefix(SCENES)} reserved scenes"
    else:
        rows = of_rows(dataset, config=config, split=split, columns=columns)
        found, name, left_out = rows.questions, rows.name, rows.left_out
    if limit is not None and limit < len(found):
        drawn = set(sorted(digest(one.id) for one in found)[:limit])
        found = [one for one in found if digest(one.id) in drawn]
        name = f"{name}, {limit} of its questions"
    asked = [(one.id, one.picture, one.question, one.answers, one.k, one.capabilities) for one in found]
    return Questions(name, digest(asked), tuple(found), left_out)


def with_swapped_pictures(asked: Questions) -> Questions:
    """Return the same questions, each about the picture of the one that stands half the list away.

    Raises:
        EvaluationError: there is only one picture.
    """
    swapped = _swapped(asked.questions)
    return replace(
        asked, name=f"{asked.name}, pictures swapped", identity=digest("swapped", asked.identity), questions=swapped
    )


def _swapped(questions: Sequence[Question]) -> tuple[Question, ...]:
    readers = {question.picture: question.read_picture for question in questions}
    if len(readers) < 2:
        raise EvaluationError("all questions are about one picture; swapping pictures takes at least two")
    pictures = tuple(readers)
    # Neighbours may show the same place; half the list away there is another one.
    other = {one: pictures[(index + len(pictures) // 2) % len(pictures)] for index, one in enumerate(pictures)}
    return tuple(replace(question, read_picture=readers[other[question.picture]]) for question in questions)
