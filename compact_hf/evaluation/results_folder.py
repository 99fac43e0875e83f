"""The directory of an evaluation: its dataset, its models, what they answered, and their results.

DIR/evaluation.json               the task, the dataset and how it is asked; each model with the hash of its files
DIR/NAME/predictions.part.jsonl   while a model that runs here is asked: its answers so far
DIR/NAME/journal.sqlite           of a model behind a server: its replies
DIR/NAME/predictions.jsonl        one line a question, in the dataset's order: the fields of the task's `Prediction`
DIR/NAME/results.json             its scores; scoring.py has their schema
DIR/results.json                  all of them: {"schema", "task", "task_version", "dataset", "matching",
                                  "models": [scores of one, ...],
                                  "comparisons": [each further model with the first, ...], "notes"}
DIR/report.html                   the page for people
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from compact_hf.errors import EvaluationError, SettingsMismatchError
from compact_hf.evaluation.predict import (
    EVALUATION_FILE,
    LOCK_FILE,
    PREDICTIONS_FILE,
    evaluation_directory,
    read_manifest,
)
from compact_hf.evaluation.questions import Prediction
from compact_hf.evaluation.scoring import Results
from compact_hf.evaluation.task import PublishedScore
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import RESULTS_SCHEMA
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.storage import translate_disk_errors, write_atomically

if TYPE_CHECKING:
    from compact_hf.evaluation.significance import Comparison


@dataclass(frozen=True, slots=True)
class Evaluation(NotebookSummary):
    """Some models on the same questions.

    Attributes:
        task, task_version (`str`): by what they were judged.
        dataset (`str`): what it is called.
        matching (`str`): when an answer counts as right: one of the task's rules, such as `exact`.
        results (`tuple[Results, ...]`): one for each model, in the order in which they were judged first, of the task's
            own class: those of `compact` have `by_k`. No two have the same name.
        slugs (`tuple[str, ...]`): of each of them, inside the judging's folder; predictions.jsonl lies there.
        comparisons (`tuple[Comparison, ...]`): of each further model with the first: `comparisons[i]` is
            `compare(predictions of results[i + 1], predictions of results[0])`.
        notes (`tuple[str, ...]`): what a reader has to know of the questions, such as how many rows were left out.
        read_image (`Callable[[str], bytes | None]`): gives the encoded image that the question of that id was asked
            about, None where it was asked without one.
        published (`tuple[PublishedScore, ...]`): what others report on the same task.
    """

    task: str
    task_version: str
    dataset: str
    matching: str
    results: tuple[Results, ...]
    slugs: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    read_image: Callable[[str], bytes | None] = field(compare=False, repr=False)
    published: tuple[PublishedScore, ...] = ()

    def summary(self) -> Iterator[str | Table]:
        """Yield a table of scores for each model, and one of the comparisons."""
        for results in self.results:
            if len(self.results) > 1:
                yield f"\n{results.model}"
            yield results.table()
        yield Table(
            (f"compared with {self.results[0].model}", "difference", "95% interval", "McNemar's p"),
            [
                (
                    results.model,
                    f"{comparison.difference:+.3f}",
                    f"{comparison.low:+.3f} to {comparison.high:+.3f}",
                    f"{comparison.p:.3g}",
                )
                for results, comparison in zip(self.results[1:], self.comparisons, strict=True)
            ],
        )
        if self.published:
            yield self.published_table()

    def published_table(self) -> Table:
        """Return each model's headline and those that others have published, in per cent."""
        metric = self.results[0].headline.metric
        ours = [(item.model, item.headline) for item in self.results]
        return Table(
            ("model", f"{metric}, %", "95% interval", "source"),
            [
                *(
                    (name, f"{100 * score.value:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}", "here")
                    for name, score in ours
                ),
                *((item.model, f"{100 * item.value:.1f}", "", item.source) for item in self.published),
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """Return what results.json of a judging holds; `models` has each model's results.json."""
        first = self.results[0].model
        return {
            "schema": RESULTS_SCHEMA,
            "task": self.task,
            "task_version": self.task_version,
            "dataset": self.dataset,
            "matching": self.matching,
            "models": [results.to_json() for results in self.results],
            "comparisons": [
                {"baseline": first, "model": results.model, **asdict(comparison)}
                for results, comparison in zip(self.results[1:], self.comparisons, strict=True)
            ],
            "notes": list(self.notes),
        }


RESULTS_FILE: Final = "results.json"


@dataclass(frozen=True, slots=True)
class ModelEntry:
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
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return self.batch_size is not None

    @property
    def name(self) -> str:
        """What people call it: of a folder, its last part."""
        return Path(self.model).resolve().name if Path(self.model).exists() else self.model


class EvaluationDirectory:
    """A judging's folder, open for writing; see `open`."""

    def __init__(self, directory: OutputDirectory, settings: Mapping[str, Any], entries: dict[str, ModelEntry]) -> None:
        self.out = directory.path
        self._directory = directory
        self._settings = settings
        self._entries = entries

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: Mapping[str, Any]) -> Iterator[Self]:
        """Start a judging in `out`, or go on with the one that is there; nobody else may write to it meanwhile.

        Args:
            settings (`Mapping[str, Any]`): the dataset and how it is asked, as JSON values.

        Raises:
            SettingsMismatchError: the folder holds a judging with other settings.
            EvaluationError: it holds something else, another process writes to it, or it cannot be written.
        """
        directory = evaluation_directory(out)
        directory.claim()
        with directory.lock():
            manifest = read_manifest(directory) or {"models": {}}
            entries = _parse_entries(manifest.pop("models"))
            if entries:
                directory.check(manifest, settings)
            with translate_disk_errors(EvaluationError, out, "nothing is lost, the same command goes on"):
                yield cls(directory, settings, entries)

    @property
    def entries(self) -> Mapping[str, ModelEntry]:
        """The models' folders in it, in the order in which they were judged first."""
        return self._entries

    def add_model(self, entry: ModelEntry) -> Path:
        """Return the folder of a model, the same one for the same model whenever it comes.

        Raises:
            SettingsMismatchError: its answers were begun with another batch size.
        """
        slug = choose_slug(self._entries, entry)
        existing = self._entries.get(slug)
        directory = self.out / slug
        if (
            existing is not None
            and existing.batch_size != entry.batch_size
            and not (directory / PREDICTIONS_FILE).exists()
        ):
            if any(directory.glob("predictions.part.*")):
                raise SettingsMismatchError(str(directory), {"batch_size": (existing.batch_size, entry.batch_size)})
            existing = None
        if existing is None:
            self._entries[slug] = entry
            models = {slug: asdict(item) for slug, item in self._entries.items()}
            self._directory.write_settings({**self._settings, "models": models})
        directory.mkdir(exist_ok=True)
        return directory


def is_finished(directory: Path) -> bool:
    """Whether a model's folder holds all of its answers."""
    return (directory / PREDICTIONS_FILE).is_file()


def read_entries(out: Path) -> Mapping[str, ModelEntry]:
    """Return the models that have a place in a judging's folder; none where it is none.

    Raises:
        EvaluationError: it holds something else.
    """
    directory = evaluation_directory(out)
    directory.claim()
    return _parse_entries((read_manifest(directory) or {"models": {}})["models"])


def _parse_entries(models: Mapping[str, Any]) -> dict[str, ModelEntry]:
    return {slug: ModelEntry(**entry) for slug, entry in models.items()}


def choose_slug(entries: Mapping[str, ModelEntry], entry: ModelEntry) -> str:
    """Return the name of a model's folder: the one it has, or a new one that no other has, however case is treated."""
    for slug, existing in entries.items():
        if existing.identity == entry.identity:
            return slug
    base_slug = re.sub(r"[^\w.-]+", "-", entry.name).strip("-.") or "model"
    used_names = {slug.casefold() for slug in entries} | {EVALUATION_FILE, LOCK_FILE, RESULTS_FILE, "report.html"}
    names: Iterable[str] = (base_slug, *(f"{base_slug}-{number}" for number in range(2, len(used_names) + 3)))
    return next(name for name in names if name.casefold() not in used_names)


def write_predictions(directory: Path, predictions: Iterable[Prediction]) -> None:
    """Write a model's answers in one step."""
    write_atomically(directory / PREDICTIONS_FILE, "".join(f"{prediction.to_line()}\n" for prediction in predictions))


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step: the file is there as a whole or not at all."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
