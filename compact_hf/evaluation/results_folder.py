"""The directory of an evaluation: its dataset, its models, what they answered, and their results.

DIR/evaluation.json               the dataset and how it is asked; each model with the hash of its files
DIR/NAME/predictions.part.jsonl   while a model that runs here is asked: its answers so far
DIR/NAME/journal.sqlite           of a model behind a server: its replies
DIR/NAME/predictions.jsonl        one line a question, in the dataset's order: the fields of `scoring.Prediction`
DIR/NAME/results.json             its scores; scoring.py has their schema
DIR/results.json                  all of them: {"schema", "dataset", "matching", "models": [scores of one, ...],
                                  "comparisons": [each further model with the first, ...], "notes"}
DIR/report.html                   the page for people
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from filelock import FileLock, Timeout

from compact_hf.errors import EvaluationError, IdentityError
from compact_hf.evaluation.predict import PREDICTIONS
from compact_hf.evaluation.scoring import Matching, Prediction, Results
from compact_hf.records import RESULTS_SCHEMA, to_json

if TYPE_CHECKING:
    from compact_hf.evaluation.significance import Comparison


@dataclass(frozen=True, slots=True)
class Judged:
    """Some models on the same questions.

    Attributes:
        dataset (`str`): what it is called.
        matching (`str`): when an answer counts as right, `exact` or `relaxed`.
        results (`tuple[Results, ...]`): one for each model, in the order in which they were judged first. No two have
            the same name.
        folders (`tuple[str, ...]`): of each of them, inside the judging's folder; predictions.jsonl lies there.
        comparisons (`tuple[Comparison, ...]`): of each further model with the first: `comparisons[i]` is
            `compare(predictions of results[i + 1], predictions of results[0])`.
        notes (`tuple[str, ...]`): what a reader has to know of the questions, such as how many rows were left out.
        picture_of (`Callable[[str], bytes]`): gives the encoded picture that the question of that id was asked about.
    """

    dataset: str
    matching: Matching
    results: tuple[Results, ...]
    folders: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    picture_of: Callable[[str], bytes] = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return what results.json of a judging holds; `models` has each model's results.json."""
        first = self.results[0].model
        return {
            "schema": RESULTS_SCHEMA,
            "dataset": self.dataset,
            "matching": self.matching,
            "models": [results.to_json() for results in self.results],
            "comparisons": [
                {"baseline": first, "model": results.model, **asdict(comparison)}
                for results, comparison in zip(self.results[1:], self.comparisons, strict=True)
            ],
            "notes": list(self.notes),
        }


RESULTS: Final = "results.json"
_IDENTITY: Final = "evaluation.json"
_LOCK: Final = "evaluation.lock"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model that is judged.

    Attributes:
        model (`str`): as it was given: a folder, a repository, or `openai:NAME`.
        identity (`str`): a hash of its files, or of the server's address and the model's name.
        batch_size (`int | None`): questions that it is asked at a time, which can tip a close call between two words;
            None behind a server.
    """

    model: str
    identity: str
    batch_size: int | None

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.batch_size is not None

    @property
    def name(self) -> str:
        """What people call it: of a folder, its last part."""
        return Path(self.model).resolve().name if Path(self.model).exists() else self.model


class JudgingFolder:
    """A judging's folder, open for writing; see `open`."""

    def __init__(self, out: Path, settings: Mapping[str, Any], places: dict[str, Entrant]) -> None:
        self.out = out
        self._settings = settings
        self._places = places

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: Mapping[str, Any]) -> Iterator[Self]:
        """Start a judging in `out`, or go on with the one that is there; nobody else may write to it meanwhile.

        Args:
            settings (`Mapping[str, Any]`): the data set and how it is asked, as JSON values.

        Raises:
            IdentityError: the folder holds a judging with other settings.
            EvaluationError: it holds something else, another process writes to it, or it cannot be written.
        """
        held = _held(out)
        if held is not None and (models := held.pop("models")):
            if differences := {
                name: (held.get(name), settings.get(name))
                for name in (held | dict(settings))
                if held.get(name) != settings.get(name)
            }:
                raise IdentityError(str(out), differences)
        else:
            models = {}
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            lock = FileLock(out / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise EvaluationError(f"another process judges in {out}; wait for it, or give another --out") from None
            try:
                yield cls(out, settings, {slug: Entrant(**entrant) for slug, entrant in models.items()})
            finally:
                lock.release()

    @property
    def places(self) -> Mapping[str, Entrant]:
        """The models' folders in it, in the order in which they were judged first."""
        return self._places

    def place(self, entrant: Entrant) -> Path:
        """Return the folder of a model, the same one for the same model whenever it comes.

        Raises:
            IdentityError: its answers were begun with another batch size.
        """
        slug = slug_in(self._places, entrant)
        before = self._places.get(slug)
        folder = self.out / slug
        if before is not None and before.batch_size != entrant.batch_size and not (folder / PREDICTIONS).exists():
            if any(folder.glob("predictions.part.*")):
                raise IdentityError(str(folder), {"batch_size": (before.batch_size, entrant.batch_size)})
            before = None
        if before is None:
            self._places[slug] = entrant
            models = {slug: asdict(one) for slug, one in self._places.items()}
            write_json(self.out / _IDENTITY, {**self._settings, "models": models})
        folder.mkdir(exist_ok=True)
        return folder


def finished(folder: Path) -> bool:
    """Whether a model's folder holds all of its answers."""
    return (folder / PREDICTIONS).is_file()


def places_in(out: Path) -> Mapping[str, Entrant]:
    """Return the models that have a place in a judging's folder; none where it is none.

    Raises:
        EvaluationError: it holds something else.
    """
    held = _held(out) or {"models": {}}
    return {slug: Entrant(**entrant) for slug, entrant in held["models"].items()}


def slug_in(places: Mapping[str, Entrant], entrant: Entrant) -> str:
    """Return the name of a model's folder: the one it has, or a new one that no other has, however case is treated."""
    for slug, one in places.items():
        if one.identity == entrant.identity:
            return slug
    plain = re.sub(r"[^\w.-]+", "-", entrant.name).strip("-.") or "model"
    taken = {slug.casefold() for slug in places} | {_IDENTITY, _LOCK, RESULTS, "report.html"}
    names: Iterable[str] = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name.casefold() not in taken)


def write_predictions(folder: Path, predictions: Iterable[Prediction]) -> None:
    """Write a model's answers in one step."""
    _write(folder / PREDICTIONS, "".join(f"{to_json(prediction)}\n" for prediction in predictions))


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step: the file is there as a whole or not at all."""
    _write(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _held(out: Path) -> dict[str, Any] | None:
    known = out / _IDENTITY
    if not known.is_file():
        if out.exists() and (not out.is_dir() or any(one.name != _LOCK for one in out.iterdir())):
            raise EvaluationError(f"{out} holds something else; give a new or empty folder as --out")
        return None
    try:
        held = json.loads(known.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{known} cannot be read ({error}); give another --out") from error
    if not isinstance(held, dict) or not isinstance(held.get("models"), dict):
        raise EvaluationError(f"{out} was written by another version; give another --out")
    return held


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"{out} cannot be written ({error.strerror or error}); nothing is lost, the same command goes on"
        ) from error
