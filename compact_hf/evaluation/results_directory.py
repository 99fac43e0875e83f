"""Reads and writes the directory of an evaluation: its settings, its models, their predictions and results.

DIR/evaluation.json               task, dataset and settings; each model with a hash of its files
DIR/NAME/predictions.part.jsonl   answers so far, while a local model is evaluated
DIR/NAME/journal.sqlite           replies of a model on a server
DIR/NAME/predictions.jsonl        one line per question, in the dataset's order: the fields of the task's `Prediction`
DIR/NAME/results.json             scores of the model; scoring.py describes the schema
DIR/results.json                  scores of all models: {"schema", "task", "task_version", "dataset", "matching",
                                  "matching_version", "models": [scores of one model, ...],
                                  "comparisons": [each further model with the first, ...], "notes"}
DIR/report.html                   the page with tables, plots and examples
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from compact_hf.errors import ContentsMismatchError, EvaluationError, SettingsMismatchError
from compact_hf.evaluation.predict import (
    EVALUATION_FILE,
    LOCK_FILE,
    PREDICTIONS_FILE,
    VERSION_KEY,
    evaluation_directory,
    read_manifest,
    read_predictions,
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
    """The scores of one or more models on the same questions.

    Attributes:
        task (`str`): name of the task.
        task_version (`str`): version of the task.
        dataset (`str`): display name of the dataset.
        matching (`str`): the rule that decides whether an answer is right: one of the task's, such as `exact`.
        matching_version (`str`): version of this rule; empty if the task has no rules.
        results (`tuple[Results, ...]`): one per model, in the order in which the models were first evaluated. The class
            is the task's own; results of `compact` have `by_k`. No two have the same model name.
        slugs (`tuple[str, ...]`): for each model, the name of its subdirectory, which contains predictions.jsonl.
        comparisons (`tuple[Comparison, ...]`): each further model against the first: `comparisons[i]` is
            `compare(predictions of results[i + 1], predictions of results[0])`.
        notes (`tuple[str, ...]`): remarks about the questions, such as how many rows were skipped.
        read_image (`Callable[[str], bytes | None]`): takes a question id and returns the encoded image that was shown;
            None if the question was asked without an image.
        published (`tuple[PublishedScore, ...]`): published scores on the same task.
    """

    task: str
    task_version: str
    dataset: str
    matching: str
    matching_version: str
    results: tuple[Results, ...]
    slugs: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    read_image: Callable[[str], bytes | None] = field(compare=False, repr=False)
    published: tuple[PublishedScore, ...] = ()

    def summary(self) -> Iterator[str | Table]:
        """Yield a table of scores for each model, then the comparisons and published scores."""
        for results in self.results:
            if len(self.results) > 1:
                yield f"\n{results.model}"
            yield results.table()
        # For a single model this table has no rows and is not shown.
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
        """Return a table of each model's headline score and the published ones, in percent."""
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
        """Return the contents of DIR/results.json; `models` has the contents of each model's results.json."""
        first = self.results[0].model
        return {
            "schema": RESULTS_SCHEMA,
            "task": self.task,
            "task_version": self.task_version,
            "dataset": self.dataset,
            "matching": self.matching,
            "matching_version": self.matching_version,
            "models": [results.to_json() for results in self.results],
            "comparisons": [
                {"baseline": first, "model": results.model, **asdict(comparison)}
                for results, comparison in zip(self.results[1:], self.comparisons, strict=True)
            ],
            "notes": list(self.notes),
        }


RESULTS_FILE: Final = "results.json"
IMAGES_KEY: Final = "images_identity"
"""Key in evaluation.json with the hash of the images; version 0.1.0 did not write it."""
_CONTENTS: Final = {"dataset_identity": "other questions or answers", IMAGES_KEY: "other images"}
"""Keys in evaluation.json that are hashes of the dataset's contents, and what another value means."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that is evaluated.

    Attributes:
        model (`str`): the model as given on the command line: a directory, a repository, or `openai:NAME`.
        identity (`str`): a hash of its files, or of the server's URL and the model's name.
        batch_size (`int | None`): questions per batch, None for a model on a server. It is recorded because rounding
            differs between batch sizes, which can change an answer when two tokens are almost equally likely.
        base (`str | None`): a hash of the files of an adapter's base; None for a whole model and a model on a server,
            if the base was not found, and in evaluations of version 0.1.0.
        given_base (`str | None`): the base that was given for an adapter; None if it is the one in its config.
    """

    model: str
    identity: str
    batch_size: int | None
    base: str | None = None
    given_base: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the model runs on this machine."""
        return self.batch_size is not None

    @property
    def name(self) -> str:
        """Display name: the name of the directory, or the repository or `openai:NAME` as given; with a given base."""
        names = [
            Path(name).resolve().name if Path(name).exists() else name for name in (self.model, self.given_base) if name
        ]
        return " on ".join(names)


class EvaluationDirectory:
    """The directory of an evaluation, locked for writing. Use `open` to create one."""

    def __init__(
        self,
        directory: OutputDirectory,
        settings: Mapping[str, Any],
        entries: dict[str, ModelEntry],
        on_note: Callable[[str], None],
        marked_by: str,
    ) -> None:
        self.out = directory.path
        self.marked_by = marked_by
        """Version of the rule that marked the answers of earlier calls."""
        self._directory = directory
        self._settings = settings
        self._entries = entries
        self._on_note = on_note

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: Mapping[str, Any], *, on_note: Callable[[str], None]) -> Iterator[Self]:
        """Start an evaluation in `out` or resume the existing one, locking the directory against other processes.

        Args:
            out (`Path`): the directory of the evaluation.
            settings (`Mapping[str, Any]`): everything that the answers of all models depend on, as JSON values.
            on_note (`Callable[[str], None]`): called with a line about what cannot be compared.

        Raises:
            SettingsMismatchError: the directory contains an evaluation with other settings.
            ContentsMismatchError: it contains one on other contents of the same dataset.
            EvaluationError: it contains other files, another process is writing to it, or it cannot be written.
        """
        directory = evaluation_directory(out)
        directory.claim()
        with directory.lock():
            # A new directory has no manifest until the first model is added.
            entries = dict(read_entries(out, settings))
            marked_by = (read_manifest(directory) or settings)[VERSION_KEY] if entries else settings[VERSION_KEY]
            if entries and IMAGES_KEY not in (read_manifest(directory) or {}) and settings[IMAGES_KEY]:
                # It stays absent: on which images the earlier answers were given is not known.
                settings = {key: value for key, value in settings.items() if key != IMAGES_KEY}
                on_note(
                    f"the evaluation in {out} is of version 0.1.0, which did not record images: whether those of "
                    f"{settings['dataset']} are still the same cannot be checked"
                )
            # The block of the caller runs inside this one, so its errors of the disk are translated too.
            with translate_disk_errors(
                EvaluationError,
                out,
                "no answer is lost: free disk space there and run the same command again to resume",
            ):
                yield cls(directory, settings, entries, on_note, marked_by)

    @property
    def entries(self) -> Mapping[str, ModelEntry]:
        """The models by subdirectory name, in the order in which they were first evaluated."""
        return self._entries

    def add_model(self, entry: ModelEntry) -> Path:
        """Return the subdirectory of a model, creating and recording it if the model is new.

        Raises:
            SettingsMismatchError: the model was partly evaluated with another batch size.
        """
        slug = choose_slug(self._entries, entry)
        existing = self._entries.get(slug)
        if existing is None and any(item.identity == entry.identity for item in self._entries.values()):
            self._on_note(f"the base of {entry.model} has other files than in an earlier call: it answers as {slug}")
        if existing is not None and existing.base != entry.base:
            self._on_note(
                f"{entry.model} has answers in {self.out}, but whether its base is still the one that they were given "
                f"with cannot be checked: {'it was not recorded' if existing.base is None else 'it was not found'}"
            )
        directory = self.out / slug
        # A finished model is not asked again, so another batch size does not matter for it.
        if (
            existing is not None
            and existing.batch_size != entry.batch_size
            and not (directory / PREDICTIONS_FILE).exists()
        ):
            # Answers of two batch sizes must not be mixed. Without any answers yet, the new batch size is taken.
            if any(directory.glob("predictions.part.*")):
                raise SettingsMismatchError(str(directory), {"batch_size": (existing.batch_size, entry.batch_size)})
            existing = None
        if existing is None:
            self._entries[slug] = entry
            # Recorded before the subdirectory is made: every subdirectory of a model has an entry.
            self._record()
        directory.mkdir(exist_ok=True)
        return directory

    def mark_again(self, mark: Callable[[Prediction], Prediction]) -> None:
        """Mark the answers of earlier calls by the current version of the rule, without asking the models.

        Args:
            mark (`Callable[[Prediction], Prediction]`): returns a prediction with the answer marked again.
        """
        for slug in self._entries:
            if is_finished(self.out / slug):
                write_predictions(self.out / slug, map(mark, read_predictions(self.out / slug)))
        # Last: a process that is killed before begins again.
        self.marked_by = self._settings[VERSION_KEY]
        self._record()

    def _record(self) -> None:
        models = {slug: asdict(item) for slug, item in self._entries.items()}
        self._directory.write_settings({**self._settings, "models": models})


def is_finished(directory: Path) -> bool:
    """Return whether the directory of a model contains all of its answers."""
    return (directory / PREDICTIONS_FILE).is_file()


def read_entries(out: Path, settings: Mapping[str, Any] | None = None) -> Mapping[str, ModelEntry]:
    """Return the models of an evaluation by subdirectory name; empty if `out` does not contain an evaluation yet.

    A model that could not be loaded or asked has an entry, but no files: it is left out, like a model that is new.

    With `settings`, they are compared with those of the evaluation, but for the version of the rule that marks answers:
    answers can be marked again.

    Raises:
        EvaluationError: `out` contains other files.
        SettingsMismatchError: `out` contains an evaluation with other settings.
        ContentsMismatchError: `out` contains an evaluation on other contents of the same dataset.
    """
    directory = evaluation_directory(out)
    directory.claim()
    manifest = read_manifest(directory) or {"models": {}}
    entries = {
        slug: ModelEntry(**entry) for slug, entry in manifest.pop("models").items() if any((out / slug).glob("*"))
    }
    # Without a model there are no answers yet that depend on the settings.
    if entries and settings is not None:
        # Version 0.1.0 did not record the images, and answers of another version of the rule can be marked again.
        manifest = {IMAGES_KEY: settings[IMAGES_KEY], **manifest, VERSION_KEY: settings[VERSION_KEY]}
        changes = [text for key, text in _CONTENTS.items() if manifest.get(key) != settings[key]]
        # A dataset of another name has other contents anyway.
        if changes and manifest.get("dataset") == settings["dataset"]:
            raise ContentsMismatchError(str(out), {settings["dataset"]: " and ".join(changes)})
        directory.check(manifest, settings)
    return entries


def choose_slug(entries: Mapping[str, ModelEntry], entry: ModelEntry) -> str:
    """Return the subdirectory name of a model: its existing one, or a new name that is unique ignoring case."""
    slugs = [slug for slug, existing in entries.items() if existing.identity == entry.identity]
    # An adapter on another base is another model. If a base is unknown, it may be the same one, unless one was given.
    same = [slug for slug in slugs if entries[slug].base == entry.base]
    unknown = [slug for slug in slugs if None in (entries[slug].base, entry.base) and entry.given_base is None]
    if same or unknown:
        return (same or unknown)[0]
    # Everything but letters, digits, `_`, `.` and `-` becomes a hyphen, such as the slash of `org/name`.
    base_slug = re.sub(r"[^\w.-]+", "-", entry.name).strip("-.") or "model"
    # Some file systems ignore case. The evaluation's own files are in the same directory.
    used_names = {slug.casefold() for slug in entries} | {EVALUATION_FILE, LOCK_FILE, RESULTS_FILE, "report.html"}
    # One candidate more than there are used names, so at least one is free.
    names: Iterable[str] = (base_slug, *(f"{base_slug}-{number}" for number in range(2, len(used_names) + 3)))
    return next(name for name in names if name.casefold() not in used_names)


def write_predictions(directory: Path, predictions: Iterable[Prediction]) -> None:
    """Write all predictions of a model atomically."""
    write_atomically(directory / PREDICTIONS_FILE, "".join(f"{prediction.to_line()}\n" for prediction in predictions))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: it is either complete or does not exist."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
