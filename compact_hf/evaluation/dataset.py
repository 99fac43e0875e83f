"""Where questions come from: a release (a folder or a Hub repository) or reserved scenes in, `Questions` out.

Of a release the compositional part is asked, each turn alone. Of `scenes:N` the first N scenes that no training data
may use are drawn, and each is asked one question for every k of 1, 2 and 3 that it supports.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.question import Question
from compact_hf.records import digest
from compact_hf.scenes.layout import scene_of
from compact_hf.scenes.questions import ask, supported
from compact_hf.scenes.source import reserved, seed_of
from compact_hf.tuning.progress import without_progress_bars

CONFIG: Final = "compositional"
_SCENES: Final = "scenes:"
_KS: Final = (1, 2, 3)
_COLUMNS: Final = ("id", "image_id", "images", "k", "turns")


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one data set.

    Attributes:
        name (`str`): what they are called in results.
        identity (`str`): a hash of ids, questions and answers.
        questions (`tuple[Question, ...]`): in a fixed order.
    """

    name: str
    identity: str
    questions: tuple[Question, ...]


def questions_of(dataset: str, *, split: Literal["train", "validation"] = "validation") -> Questions:
    """Return a data set's questions; pictures are read only when they are asked about.

    Args:
        dataset (`str`): a release's folder, a Hub repository, or `scenes:N`.
        split (`str`, *optional*, defaults to `validation`): of a release; scenes have none.

    Raises:
        EvaluationError: there is no such data set or split, it is no release, or it has no questions.
    """
    if dataset.startswith(_SCENES):
        found = tuple(_of_scenes(_count(dataset)))
        name = f"{len(found)} questions about reserved scenes"
    else:
        found = tuple(_of_release(dataset, split))
        name = f"{Path(dataset).name if Path(dataset).exists() else dataset} ({CONFIG}, {split})"
    if not found:
        raise EvaluationError(f"{dataset} has no questions in {CONFIG}, {split}; choose the other split or more data")
    asked = [(one.id, one.picture, one.question, one.answers, one.k, one.capabilities) for one in found]
    return Questions(name, digest(asked), found)


def with_swapped_pictures(asked: Questions) -> Questions:
    """Return the same questions, each about the picture of the one that stands half the list away.

    Raises:
        EvaluationError: there is only one question.
    """
    count = len(asked.questions)
    if count < 2:
        raise EvaluationError(f"{asked.name} has one question; swapping pictures takes at least two")
    # Neighbours share a picture; half the list away there is another one.
    swapped = tuple(
        replace(question, read_picture=asked.questions[(index + count // 2) % count].read_picture)
        for index, question in enumerate(asked.questions)
    )
    return Questions(f"{asked.name}, pictures swapped", digest("swapped", asked.identity), swapped)


def _count(dataset: str) -> int:
    number = dataset.removeprefix(_SCENES)
    if not (number.isascii() and number.isdigit() and int(number)):
        raise EvaluationError(f"{dataset!r} is not scenes:N with N of 1 or more; evaluation chooses the reserved ones")
    return int(number)


def _of_scenes(count: int) -> Iterator[Question]:
    source = reserved(count)
    for ref in source.refs():
        scene = scene_of(seed_of(ref))
        for k in _KS:
            rng = random.Random(f"{ref} {k}")
            combinations = supported(scene, k)
            asked = ask(scene, rng.choice(combinations), rng) if combinations else None
            if asked is None:
                continue
            yield Question(
                id=f"{ref}#k{k}",
                picture=ref,
                question=asked.question,
                answers=(asked.answer,),
                k=k,
                capabilities=asked.capabilities,
                read_picture=partial(source.read, ref),
            )


def _of_release(dataset: str, split: str) -> Iterator[Question]:
    rows = _rows(dataset, split)
    missing = [column for column in _COLUMNS if column not in rows.column_names]
    if missing:
        raise EvaluationError(
            f"{dataset} has no column {missing[0]!r} (it has {', '.join(rows.column_names)}); a release is needed"
        )
    # As Arrow a picture is the bytes of its file; as a row it would be decoded.
    pictures = rows.select_columns(["images"]).with_format("arrow")
    for index, row in enumerate(rows.select_columns(["id", "image_id", "k", "turns"])):
        for number, turn in enumerate(row["turns"]):
            yield Question(
                id=f"{row['id']}#{number}",
                picture=row["image_id"],
                question=turn["question"],
                answers=(turn["answer"],),
                k=row["k"],
                capabilities=tuple(turn["capabilities"]),
                read_picture=partial(_picture, pictures, index),
            )


def _picture(pictures: Any, index: int) -> bytes:
    data: bytes = pictures[index]["images"][0][0]["bytes"].as_py()
    return data


def _rows(dataset: str, split: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        with without_progress_bars():
            return load_dataset(dataset, CONFIG, split=split)
    except (OSError, ValueError, DatasetGenerationError) as error:
        told = " ".join(str(error).split())
        raise EvaluationError(f"{dataset} cannot be read as a release ({CONFIG}, {split}): {told}") from error
