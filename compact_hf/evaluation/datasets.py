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
from compact_hf.evaluation.questions import Question, read_row_questions
from compact_hf.records import digest
from compact_hf.scenes.questions import SceneQuestion, make_question, supported_combinations
from compact_hf.scenes.scene import Scene, build_scene
from compact_hf.scenes.source import SceneSource, parse_seed, reserved_scenes

SCENES_PREFIX: Final = "scenes:"
_SINGLE_QUESTION_KS: Final = (1, 2, 3)
_SEVERAL_QUESTION_KS: Final = (4, 5)
_MAX_QUESTIONS: Final = 3
"""Questions of one scene and one k, as many as a conversation of the training data has."""


def iter_scene_questions(dataset: str) -> Iterator[Question]:
    """Yield the questions of `scenes:N`; those of `scenes:N+1` begin with them.

    Raises:
        EvaluationError: it is not scenes:N with N of 1 or more.
        UsageError: there are fewer reserved scenes.
    """
    source = reserved_scenes(_parse_count(dataset))
    usage: Counter[tuple[str, ...]] = Counter()
    for ref in source.refs():
        scene = build_scene(parse_seed(ref))
        for k in _SINGLE_QUESTION_KS:
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
    """Yield questions about up to `_MAX_QUESTIONS` of the scene's combinations, and count them."""
    combinations = supported_combinations(scene, k)
    shuffled = rng.sample(combinations, len(combinations))
    for combination in sorted(shuffled, key=lambda candidate: usage[candidate])[:_MAX_QUESTIONS]:
        scene_question = make_question(scene, combination, rng)
        if scene_question is not None:
            usage[combination] += 1
            yield scene_question


def _build_question(id: str, source: SceneSource, ref: str, scene_question: SceneQuestion) -> Question:
    return Question(
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
    if not (number.isascii() and number.isdigit() and int(number)):
        raise EvaluationError(f"{dataset!r} is not scenes:N with N of 1 or more; evaluation chooses the reserved ones")
    return int(number)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one dataset.

    Attributes:
        name (`str`): what they are called in results.
        identity (`str`): a hash of ids, questions and answers.
        questions (`tuple[Question, ...]`): in a fixed order.
        skip_counts (`Mapping[str, int]`): reason -> rows that cannot be asked.
    """

    name: str
    identity: str
    questions: tuple[Question, ...]
    skip_counts: Mapping[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of scores has to know of them, in lines."""
        return tuple(f"{count:,} rows of {self.name} left out: {reason}" for reason, count in self.skip_counts.items())


def load_questions(
    dataset: str,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> QuestionSet:
    """Return a dataset's questions; images are read only when they are asked about.

    Args:
        dataset (`str`): as in the module.
        config (`str`, *optional*): of a dataset with several; by default `compositional` where there is one.
        split (`str`, *optional*): by default `validation` or else `test`. Scenes have neither.
        columns (`Mapping[str, str]`, *optional*): what is what -> its column, of question, answer, image, k,
            capabilities and id, for a dataset of one question a row. See rows.py.
        limit (`int`, *optional*): only so many questions, drawn by a hash of their ids: those of a smaller limit are
            among those of a larger one.

    Raises:
        UsageError: an argument that the dataset has no use for, or a limit below 1.
        EvaluationError: there is no such dataset or split, it lacks columns, or it has no questions.
        UnknownCapabilityError: a capability is not one of the ten.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"got the limit {limit}; it must be at least 1")
    skip_counts: dict[str, int] = {}
    if dataset.startswith(SCENES_PREFIX):
        if config or split or columns:
            raise UsageError(f"{dataset} has no configs, splits or columns; leave --config, --split and --columns out")
        questions, name = list(iter_scene_questions(dataset)), f"{dataset.removeprefix(SCENES_PREFIX)} reserved scenes"
    else:
        row_questions = read_row_questions(dataset, config=config, split=split, columns=columns)
        questions, name, skip_counts = row_questions.questions, row_questions.name, row_questions.skip_counts
    if limit is not None and limit < len(questions):
        selected_digests = set(sorted(digest(question.id) for question in questions)[:limit])
        questions = [question for question in questions if digest(question.id) in selected_digests]
        name = f"{name}, {limit} of its questions"
    identity_rows = [
        (question.id, question.image_id, question.question, question.answers, question.k, question.capabilities)
        for question in questions
    ]
    return QuestionSet(name, digest(identity_rows), tuple(questions), skip_counts)


def swap_images(question_set: QuestionSet) -> QuestionSet:
    """Return the same questions, each about the image of the one that stands half the list away.

    Raises:
        EvaluationError: there is only one image.
    """
    questions = _swap_image_readers(question_set.questions)
    return replace(
        question_set,
        name=f"{question_set.name}, pictures swapped",
        identity=digest("swapped", question_set.identity),
        questions=questions,
    )


def _swap_image_readers(questions: Sequence[Question]) -> tuple[Question, ...]:
    readers = {question.image_id: question.read_image for question in questions}
    if len(readers) < 2:
        raise EvaluationError("all questions are about one picture; swapping pictures takes at least two")
    image_ids = tuple(readers)
    # Neighbours may show the same place; half the list away there is another one.
    partners = {
        image_id: image_ids[(index + len(image_ids) // 2) % len(image_ids)] for index, image_id in enumerate(image_ids)
    }
    return tuple(replace(question, read_image=readers[partners[question.image_id]]) for question in questions)
