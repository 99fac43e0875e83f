"""Evaluates models on a dataset.

    compact evaluate MODEL [MODEL...] DATASET --out DIR [--task NAME]

The task (task.py) defines the questions and the scoring; nothing here depends on a particular task. The file
results_directory.py lists the files in DIR. Running the same command again resumes an interrupted evaluation, with the
same files as result. Running it with another model adds that model.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from compact_hf.errors import UsageError
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.model_files import base_identity, model_identity
from compact_hf.evaluation.predict import (
    DEFAULT_BATCH_SIZE,
    VERSION_KEY,
    predict,
    read_predictions,
    remove_part,
)
from compact_hf.evaluation.questions import SWAPPED_IMAGES, DataOptions, Prediction, QuestionSet
from compact_hf.evaluation.report import write_report
from compact_hf.evaluation.results_directory import (
    IMAGES_KEY,
    RESULTS_FILE,
    Evaluation,
    EvaluationDirectory,
    ModelEntry,
    is_finished,
    write_json,
    write_predictions,
)
from compact_hf.evaluation.server import (
    SERVER_PREFIX,
    ask_server,
    check_server_options,
)
from compact_hf.evaluation.significance import compare
from compact_hf.evaluation.task import EvaluationTask, choose_rule, choose_task, read_questions
from compact_hf.records import digest
from compact_hf.runs.options import DEFAULT_CONCURRENCY, RunLimits
from compact_hf.wording import format_flag


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Settings for asking models and marking their answers.

    Attributes:
        matching (`str`): name of the task's rule that decides whether an answer is right.
        batch_size (`int`): questions per batch for local models.
        max_new_tokens (`int`): maximum length of an answer, in tokens.
        url (`str | None`): URL of the server for `openai:NAME`.
        limits (`RunLimits`): concurrency, rate limits and budget for requests to the server.
    """

    matching: str
    batch_size: int
    max_new_tokens: int
    url: str | None
    limits: RunLimits

    @classmethod
    def of(
        cls,
        task: EvaluationTask,
        matching: str | None,
        batch_size: int,
        max_new_tokens: int | None,
        url: str | None,
        limits: RunLimits,
    ) -> Self:
        """Return the settings, with the defaults of a task for `matching` and `max_new_tokens`."""
        answer_length = task.max_new_tokens if max_new_tokens is None else max_new_tokens
        return cls(choose_rule(task, matching), batch_size, answer_length, url, limits)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"got {format_flag(name)} {getattr(self, name)}; it must be at least 1")


def evaluate(
    models: str | Path | Sequence[str | Path],
    dataset: str | Path,
    out: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    task: str | None = None,
    matching: str | None = None,
    control: str | None = None,
    swap_pictures: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int | None = None,
    base: str | Path | None = None,
    url: str | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[int, int], None] = lambda answered, total: None,
    on_failure: Callable[[str], None] = lambda line: None,
    on_wait: Callable[[str], None] = lambda line: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Ask models a dataset's questions, score their answers, and compare each further model with the first.

    Args:
        models (`str | Path | Sequence[str | Path]`): one or more models. Each is a directory or a Hub repository
            (`org/name` or `org/name@revision`) with a full model or a LoRA adapter, or `openai:NAME`, a model on a
            server.
        dataset (`str | Path`): a dataset that the task can read; `compact` reads `scenes:N`, a directory, a file or a
            repository.
        out (`str | Path`): a new or empty directory, or one with an evaluation on the same dataset.
        config (`str`, *optional*): config of a dataset that has several; `compact` reads `compositional` if it exists.
        split (`str`, *optional*): split to read, by default `validation`, otherwise `test`. Scenes have no splits.
        columns (`Mapping[str, str]`, *optional*): field -> name of its column, for a dataset with one question per row;
            `compact` has the fields question, answer, image, k, capabilities and id.
        limit (`int`, *optional*): maximum number of questions, selected by a hash of their ids; the questions of a
            smaller limit are a subset of those of a larger one.
        task (`str`, *optional*): a registered task, or `package.module:Class`; by default the task that recognizes the
            dataset, otherwise `compact`.
        matching (`str`, *optional*): name of the task's rule that decides whether an answer is right, by default its
            first. `compact` has `exact`, and `relaxed`, which also accepts numbers within 5%.
        control (`str`, *optional*): a control experiment in which the models do not see the right image:
            `swapped-images` (each question is asked about the image of another question) or `blind` (no image). It
            shows how many answers the wording gives away.
        swap_pictures (`bool`, *optional*, defaults to False): the same as `control="swapped-images"`.
        batch_size (`int`, *optional*, defaults to 64): questions per batch for local models.
        max_new_tokens (`int`, *optional*): maximum length of an answer in tokens; by default the task's, 16 for
            `compact`.
        base (`str | Path`, *optional*): base of the adapters among the models, a directory or a repository; by default
            the one that each adapter's config names. The names in the results say that it was given.
        url (`str`, *optional*): URL of the server for `openai:NAME`, by default OPENAI_BASE_URL, otherwise OpenAI. The
            key is read from OPENAI_API_KEY; your own server does not need one.
        concurrency (`int`, *optional*, defaults to 16): maximum number of requests in flight to the server.
        rpm (`float`, *optional*): maximum number of requests per minute.
        tpm (`float`, *optional*): maximum number of tokens per minute.
        max_requests (`int`, *optional*): stop after this number of requests.
        max_cost (`float`, *optional*): stop at this cost, in US dollars.
        price_in (`float`, *optional*): US dollars per million input tokens, if the price is not known.
        price_out (`float`, *optional*): US dollars per million output tokens, if the price is not known.
        on_progress (`Callable[[int, int], None]`, *optional*): called with the number of answers so far and the number
            of all answers, over all models.
        on_failure (`Callable[[str], None]`, *optional*): called with a message when a request to the server failed and
            will be retried.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what is waited for after Ctrl-C.
        on_note (`Callable[[str], None]`, *optional*): called with a line about what cannot be compared with an earlier
            call, or if answers of earlier calls were marked again by another version of the rule.

    Raises:
        UsageError: an argument is invalid.
        EvaluationError: a model or the dataset cannot be used, or `out` cannot be written or contains other files.
        SettingsMismatchError: `out` contains an evaluation on another dataset, or with other settings.
        ContentsMismatchError: `out` contains an evaluation on other questions or images of the same dataset.
        TeacherError: the server rejects requests, or cannot be reached.
        StoppedEarly: Ctrl-C while a server is asked, or the budget is used up; the same call resumes.
    """
    limits = RunLimits(
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_requests=max_requests,
        max_cost=max_cost,
        price_in=price_in,
        price_out=price_out,
    )
    check_server_options(list_models(models), url=url, limits=limits)
    chosen_task = choose_task(task, str(dataset))
    control = _choose_control(control, swap_pictures)
    settings = EvaluationSettings.of(chosen_task, matching, batch_size, max_new_tokens, url, limits)
    # Options were checked first: this step may download models, and hashes all of their files.
    base = str(base) if base else None
    entries = resolve_models(models, batch_size=batch_size, url=url, base=base)
    options = DataOptions(config, split, columns)
    question_set = read_questions(chosen_task, str(dataset), options, limit=limit, control=control)
    total = len(question_set.questions) * len(entries)
    identity = identity_settings(chosen_task, question_set, settings)
    with EvaluationDirectory.open(Path(out), identity, on_note=on_note) as directory:
        if (note := _mark_again(chosen_task, directory, question_set, settings.matching)) is not None:
            on_note(note)
        for index, entry in enumerate(entries):
            # Progress counts over all models: this number of answers belongs to the models before this one.
            done = index * len(question_set.questions)
            model_directory = directory.add_model(entry)
            # predictions.jsonl is written in one piece, so a model that has it is complete and is not loaded again.
            if not is_finished(model_directory):
                on_model_progress = partial(_report_progress, on_progress, done, total)
                write_predictions(
                    model_directory,
                    _answer_questions(
                        chosen_task,
                        entry,
                        question_set,
                        model_directory,
                        settings,
                        on_model_progress,
                        on_failure,
                        on_wait,
                    ),
                )
                # Only now that the final file exists: a process killed before this line loses no answer.
                remove_part(model_directory)
            on_progress(done + len(question_set.questions), total)
        # Scores and page are made in every call, and include the models of earlier calls.
        evaluation = _score_models(chosen_task, directory, question_set, settings.matching)
        write_json(directory.out / RESULTS_FILE, evaluation.to_json())
        flags = {
            "task": task,
            "config": config,
            "split": split,
            "columns": columns,
            "limit": limit,
            "control": control,
            "match": None if settings.matching == choose_rule(chosen_task, None) else settings.matching,
            "max-new-tokens": max_new_tokens,
            "url": url,
        }
        write_report(
            evaluation,
            directory.out,
            task=chosen_task,
            command=format_commands(directory.entries.values(), str(dataset), directory.out, flags),
            settings=_report_settings(chosen_task, question_set, settings),
        )
    return evaluation


def list_models(models: str | Path | Sequence[str | Path]) -> list[str]:
    """Return one or more models as a list of strings."""
    return [str(model) for model in ([models] if isinstance(models, str | Path) else models)]


def _choose_control(control: str | None, swap_pictures: bool) -> str | None:
    if not swap_pictures:
        return control
    if control not in (None, SWAPPED_IMAGES):
        raise UsageError(
            f"swap_pictures means the control {SWAPPED_IMAGES}, but the control {control} was given too; give only one"
        )
    return SWAPPED_IMAGES


def resolve_models(
    models: str | Path | Sequence[str | Path], *, batch_size: int, url: str | None, base: str | None = None
) -> list[ModelEntry]:
    """Return the models to evaluate, each with its identity.

    Raises:
        UsageError: no model is given, the same model twice, a base for no adapter, or a model or base does not exist.
        EvaluationError: a model, or the given base, cannot be downloaded.
    """
    entries: dict[tuple[str, str | None], ModelEntry] = {}
    for model_id in list_models(models):
        if model_id.startswith(SERVER_PREFIX):
            # The files of a model on a server are not known: its name and the URL identify it.
            entry = ModelEntry(model_id, digest(model_id, url), None)
        else:
            identity_of_base = base_identity(model_id, base)
            given_base = base if identity_of_base else None
            entry = ModelEntry(model_id, model_identity(model_id), batch_size, identity_of_base, given_base)
        # Two paths to the same files count as the same model.
        key = entry.identity, entry.base
        if key in entries:
            raise UsageError(f"{entries[key].model} and {model_id} are the same model; give it once")
        entries[key] = entry
    if not entries:
        raise UsageError("no model was given; give a directory, a repository or openai:NAME")
    if base and not any(entry.given_base for entry in entries.values()):
        raise UsageError(f"the base {base} was given, but none of the models is an adapter; leave out --base")
    return list(entries.values())


def identity_settings(task: EvaluationTask, question_set: QuestionSet, settings: EvaluationSettings) -> dict[str, Any]:
    """Return the settings that all models in one directory must share, as JSON values."""
    # The batch size is not among them: each model's entry records its own, and models on a server have none.
    return {
        "task": task.name,
        "task_version": task.version,
        "dataset": question_set.name,
        "dataset_identity": question_set.identity,
        IMAGES_KEY: question_set.hash_images(),
        "matching": settings.matching,
        VERSION_KEY: task.get_rule_version(settings.matching),
        "max_new_tokens": settings.max_new_tokens,
    }


def _report_progress(on_progress: Callable[[int, int], None], done: int, total: int, answered: int) -> None:
    on_progress(done + answered, total)


def format_commands(entries: Iterable[ModelEntry], dataset: str, out: Path, options: Mapping[str, Any]) -> str:
    """Return the commands that reproduce a directory: one for the models without a given base, and one per given base.

    Args:
        entries (`Iterable[ModelEntry]`): all models of the directory, including those of earlier calls.
        dataset (`str`): the dataset as given on the command line.
        out (`Path`): the directory.
        options (`Mapping[str, Any]`): name of an option -> its value; those without a value are left out.
    """
    models_by_base: dict[str | None, list[str]] = {}
    for entry in entries:
        models_by_base.setdefault(entry.given_base, []).append(entry.model)
    return "\n".join(
        # No model on a server has a base, and a URL is refused without such a model.
        _format_command(models, dataset, out, {**options, "base": base, "url": None} if base else options)
        for base, models in models_by_base.items()
    )


def _format_command(models: Sequence[str], dataset: str, out: Path, options: Mapping[str, Any]) -> str:
    # Once each: a model whose files have changed has two entries, and only the files of today can be evaluated.
    words = ["compact", "evaluate", *dict.fromkeys(models), dataset, "--out", str(out)]
    for name, value in options.items():
        if not value:
            continue
        # The only mapping is --columns, which is written FIELD=COLUMN,FIELD=COLUMN.
        text = ",".join(f"{field}={column}" for field, column in value.items()) if isinstance(value, Mapping) else value
        words += [f"--{name}", str(text)]
    return shlex.join(words)


def _report_settings(
    task: EvaluationTask, question_set: QuestionSet, settings: EvaluationSettings
) -> dict[str, object]:
    """Return the settings and package versions that the answers depend on, for the page."""
    return {
        "task": f"{task.name}, version {task.version}",
        "maximum answer length": f"{settings.max_new_tokens} tokens",
        "batch size": settings.batch_size,
        "hash of the questions": question_set.identity,
        # torch and transformers are not needed, and may be missing, if only models on servers are evaluated.
        **{name: version(name) for name in ("compact_hf", "torch", "transformers") if find_spec(name)},
    }


def _answer_questions(
    task: EvaluationTask,
    entry: ModelEntry,
    question_set: QuestionSet,
    directory: Path,
    settings: EvaluationSettings,
    on_progress: Callable[[int], None],
    on_failure: Callable[[str], None],
    on_wait: Callable[[str], None],
) -> list[Prediction]:
    """Return the answers of one model, local or on a server."""
    if entry.batch_size is None:
        return ask_server(
            entry.model,
            question_set.questions,
            directory,
            url=settings.url,
            limits=settings.limits,
            task=task,
            max_new_tokens=settings.max_new_tokens,
            matching=settings.matching,
            on_progress=on_progress,
            on_failure=on_failure,
            on_wait=on_wait,
        )
    return predict(
        Student(entry.model, base=entry.given_base),
        question_set.questions,
        directory,
        task=task,
        matching=settings.matching,
        batch_size=entry.batch_size,
        max_new_tokens=settings.max_new_tokens,
        on_progress=on_progress,
    )


def _mark_again(
    task: EvaluationTask, directory: EvaluationDirectory, question_set: QuestionSet, matching: str
) -> str | None:
    """Mark the answers of earlier calls again if another version of the rule marked them; return a line about it."""
    before, now = directory.marked_by, task.get_rule_version(matching)
    if before == now:
        return None
    questions = {question.id: question for question in question_set.questions}
    directory.mark_again(lambda item: task.mark(questions[item.id], item.prediction, matching))
    return (
        f"the answers in {directory.out} were marked by version {before} of the rule {matching}: marked them again by "
        f"version {now} (no model was asked)"
    )


def _score_models(
    task: EvaluationTask, directory: EvaluationDirectory, question_set: QuestionSet, matching: str
) -> Evaluation:
    """Score and compare all models that have answered, and write each model's results.json."""
    # Slug -> predictions. A model that an earlier call left unfinished is skipped.
    answers = {
        slug: read_predictions(directory.out / slug) for slug in directory.entries if is_finished(directory.out / slug)
    }
    names = _display_names({slug: directory.entries[slug] for slug in answers})
    results = []
    for slug, predictions in answers.items():
        results.append(task.score(predictions, model=names[slug], dataset=question_set.name, matching=matching))
        write_json(directory.out / slug / RESULTS_FILE, results[-1].to_json())
    # The baseline is the first model that this directory recorded, even if this call names another one first.
    baseline, *candidates = answers.values()
    # Question id -> function that reads its image, None without an image. Only examples on the page are read.
    readers = {question.id: question.read_image for question in question_set.questions}
    return Evaluation(
        task=task.name,
        task_version=task.version,
        dataset=question_set.name,
        matching=matching,
        matching_version=task.get_rule_version(matching),
        results=tuple(results),
        slugs=tuple(answers),
        comparisons=tuple(compare(candidate, baseline) for candidate in candidates),
        notes=question_set.notes,
        read_image=lambda id: (reader := readers[id]) and reader(),
        published=tuple(task.published),
    )


def _display_names(entries: Mapping[str, ModelEntry]) -> dict[str, str]:
    """Return slug -> display name of the model; if an earlier model has the same name, the slug, which is unique."""
    names: dict[str, str] = {}
    for slug, entry in entries.items():
        names[slug] = slug if entry.name in names.values() else entry.name
    return names
