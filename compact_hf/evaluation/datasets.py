"""Where questions come from: a data set's name in, `Questions` out.

scenes:N                             scenes that no training data may use (reserved.py)
org/name, org/name@v1.0.0            a data set on the Hub, at a revision or as it is now (rows.py)
a folder; a .parquet, .jsonl, .json or .csv file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.question import Question
from compact_hf.evaluation.questions import of_rows
from compact_hf.evaluation.reserved import SCENES, of_reserved
from compact_hf.records import digest


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
