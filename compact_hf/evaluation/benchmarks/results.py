"""Reads lmms-eval's results files and returns each model's scores on the eight benchmarks, in the paper's units.

lmms-eval writes OUTPUT_PATH/MODEL/DATE_results.json at the end of a run. The file does not contain the version of
lmms-eval (`lmms_eval_version` is the git commit of the working directory), so files of other versions are recognized by
missing fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.benchmarks.lmms_eval import HARNESS_BENCHMARKS, HARNESS_VERSION, HELDOUT_TASK, Benchmark
from compact_hf.parsing import parse_json
from compact_hf.records import FIRST_RULE_VERSION
from compact_hf.regular_files import read_regular, resolve

_RESULTS_PATTERN: Final = "*_results.json"
_MAX_BYTES: Final = 2**30  # size of the largest results or samples that are read
_ACCURACY: Final = "accuracy"
_ACCURACY_BY_K: Final = f"{_ACCURACY}_k"
_RERUN_HINT: Final = f"run lmms-eval {HARNESS_VERSION} again, with the command that `compact benchmarks command` prints"
_REQUIRED_FIELDS: Final = {"results": dict, "config": dict, "n-samples": dict, "model_name": str, "date": str}
_NO_FILTER: Final = "none"


@dataclass(frozen=True, slots=True)
class HeldoutScores:
    """Accuracy on held-out questions.

    Attributes:
        n (`int`, *optional*): number of questions; None if the file does not say.
        accuracy (`float`): accuracy on all of them, 0 to 1.
        by_k (`dict[int, float]`): k -> accuracy, for each k that occurs.
        rules (`str`, *optional*): version of the rules that compared the answers; None if the file has no number in
            its place.
    """

    n: int | None
    accuracy: float
    by_k: dict[int, float]
    rules: str | None


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """The scores of one model from lmms-eval.

    Attributes:
        model (`str`): the directory or repository that was passed to lmms-eval.
        scores (`dict[str, float]`): benchmark -> score in the paper's unit, for benchmarks with a score.
        heldout (`HeldoutScores`, *optional*): accuracy on our held-out questions, if they were asked.
        notes (`tuple[str, ...]`): remarks about the scores, such as a judge that did not answer.
    """

    model: str
    scores: dict[str, float]
    heldout: HeldoutScores | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _ResultsFile:
    """The contents of one results file.

    Attributes:
        tasks (`dict[str, dict[str, Any]]`): task -> its metrics: METRIC,FILTER or METRIC -> value.
        question_counts (`dict[str, int]`): task -> number of questions that were asked.
        versions (`dict[str, Any]`): task -> its version.
    """

    path: Path
    model: str
    backend: str
    date: str
    tasks: dict[str, dict[str, Any]]
    question_counts: dict[str, int]
    versions: dict[str, Any]


def read_harness_scores(sources: Sequence[str | Path]) -> list[HarnessScores]:
    """Return the scores of each model in the files, in the order of the files.

    Args:
        sources (`Sequence[str | Path]`): results files, and directories that are searched for such files. If a task was
            run more than once on a model, the last run counts.

    Raises:
        UsageError: a file was not found.
        EvaluationError: a file cannot be read, has another format or version, or covers only part of a benchmark; or a
            model was run by two model classes of lmms-eval.
    """
    by_model: dict[str, list[_ResultsFile]] = {}
    # A file that is named itself and is also in a named directory is read once.
    for path in dict.fromkeys(resolve(path) for source in sources for path in _find_files(Path(source))):
        file = _read_file(path)
        by_model.setdefault(file.model, []).append(file)
    return [_collect_scores(model, files) for model, files in by_model.items()]


def _find_files(source: Path) -> Iterable[Path]:
    """Return the results files in a directory, or the file itself."""
    if not source.is_dir():
        return [source]
    if files := sorted(source.rglob(_RESULTS_PATTERN)):
        return files
    raise EvaluationError(
        f"{source} has no results of lmms-eval ({_RESULTS_PATTERN}); they are only written at the end of a successful "
        "run"
    )


def _read_file(path: Path) -> _ResultsFile:
    """Return the contents of a results file after checking that its version and coverage are supported."""
    try:
        data: Any = parse_json(read_regular(path, max_bytes=_MAX_BYTES))
    except FileNotFoundError as error:
        raise UsageError(f"{path} was not found; give results files of lmms-eval, or their directory") from error
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror}); give results files of lmms-eval, or their directory"
        ) from error
    # Not JSON, or not UTF-8.
    except ValueError as error:
        raise EvaluationError(
            f"{path} is not JSON ({error}); give a {_RESULTS_PATTERN} that lmms-eval wrote"
        ) from error
    missing = [
        name
        for name, expected_type in _REQUIRED_FIELDS.items()
        if not (isinstance(data, dict) and isinstance(data.get(name), expected_type))
    ]
    if missing:
        raise EvaluationError(
            f"{path} is not a results file of lmms-eval ({missing[0]!r} is missing); give its {_RESULTS_PATTERN}"
        )
    config = data["config"]
    # No version is recorded; supported versions are recognized by this field.
    if not isinstance(config.get("model_backend"), str):
        raise EvaluationError(
            f"{path} is from another version of lmms-eval (no model_backend in its config); {_RERUN_HINT}"
        )
    counts = {task: _read_counts(value) for task, value in data["n-samples"].items()}
    # None and -1 both mean no limit.
    is_limited = config.get("limit") not in (None, -1) or bool(config.get("offset"))
    if is_limited or any(0 < asked < total for asked, total in counts.values()):
        raise EvaluationError(f"{path} covers only part of the questions (--limit or --offset); {_RERUN_HINT}")
    return _ResultsFile(
        path,
        data["model_name"],
        config["model_backend"],
        data["date"],
        # A group of tasks may have a text in the place of its metrics.
        {task: metrics for task, metrics in data["results"].items() if isinstance(metrics, dict)},
        {task: asked for task, (asked, _) in counts.items()},
        versions if isinstance(versions := data.get("versions"), dict) else {},
    )


def _read_counts(value: Any) -> tuple[int, int]:
    """Return the number of questions that were asked, and of all questions of a task; 0 if unknown.

    lmms-eval writes {"original": all questions, "effective": questions that were asked}, or one number.
    """
    total = value.get("original") if isinstance(value, dict) else value
    asked = value.get("effective", total) if isinstance(value, dict) else value
    return _to_count(asked), _to_count(total)


def _to_count(value: Any) -> int:
    return max(value, 0) if type(value) is int else 0


def _collect_scores(model: str, files: Sequence[_ResultsFile]) -> HarnessScores:
    """Return the scores of one model from all of its files."""
    if len(backends := sorted({file.backend for file in files})) > 1:
        raise EvaluationError(
            f"{model} was run by {' and by '.join(backends)}, whose prompts differ; give the results of only one"
        )
    scores: dict[str, float] = {}
    notes = []
    for benchmark in HARNESS_BENCHMARKS:
        latest = _find_latest(files, benchmark.task)
        # The benchmark was not run.
        if latest is None:
            continue
        value = _read_metric(latest, benchmark.task, benchmark.metric)
        # Without a key lmms-eval succeeds and writes a constant score, which would look like a result.
        if benchmark.needs_judge and _is_judge_missing(latest.tasks[benchmark.task], benchmark, value):
            notes.append(f"{model}: the judge of {benchmark.name} did not answer ({latest.path.name}); score omitted")
            continue
        if benchmark.needs_judge and (ungraded := _count_ungraded(latest, benchmark)):
            notes.append(
                f"{model}: the judge of {benchmark.name} did not grade {ungraded} answers, which lmms-eval still counts"
            )
        if value is None:
            raise EvaluationError(
                f"{latest.path} has no score for {benchmark.name} ({benchmark.metric}); {_RERUN_HINT}"
            )
        scores[benchmark.name] = value * benchmark.scale
    repeated = [
        task
        for task in (*(item.task for item in HARNESS_BENCHMARKS), HELDOUT_TASK)
        if sum(task in file.tasks for file in files) > 1
    ]
    notes += [f"{model}: {task} was run more than once; the last run counts" for task in repeated]
    latest = _find_latest(files, HELDOUT_TASK)
    if not scores and not latest and not notes:
        raise EvaluationError(f"{files[0].path} has none of the eight benchmarks; it has {', '.join(files[0].tasks)}")
    heldout = _read_heldout(latest) if latest else None
    if heldout and heldout.rules != ANSWER_RULES_VERSION:
        rules = f"version {heldout.rules}" if heldout.rules else "an unknown version"
        notes.append(
            f"{model}: its held-out answers were compared by {rules} of the rules, not by version "
            f"{ANSWER_RULES_VERSION}; do not compare its accuracy with that of other rows"
        )
    return HarnessScores(model, scores, heldout, tuple(notes))


def _find_latest(files: Sequence[_ResultsFile], task: str) -> _ResultsFile | None:
    """Return the file of the last run of a task, or None if it was not run."""
    # The date is a text such as 20260131_235959, so its alphabetical order is the order in time.
    return max((file for file in files if task in file.tasks), key=lambda file: file.date, default=None)


def _read_metric(file: _ResultsFile, task: str, metric: str) -> float | None:
    """Return the value of a metric as lmms-eval wrote it, or None if it is not a finite number."""
    metrics = file.tasks[task]
    by_filter = _get_by_filter(metrics, metric)
    if not by_filter:
        metric_names = sorted({name.partition(",")[0] for name in metrics} - {"alias"})
        raise EvaluationError(
            f"{file.path} is from another version of lmms-eval: its {task} has {', '.join(metric_names) or 'nothing'}, "
            f"not {metric}; {_RERUN_HINT}"
        )
    if len(by_filter) > 1:
        raise EvaluationError(
            f"{file.path} has the {metric} of {task} after several filters ({', '.join(sorted(by_filter))}) and none "
            f"without a filter; {_RERUN_HINT}"
        )
    (value,) = by_filter.values()
    return _to_number(value)


def _get_by_filter(metrics: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return filter -> value of a metric; only the value without a filter if there is one.

    lmms-eval names a metric METRIC,FILTER, with the filter `none` if the answers are not filtered, or only METRIC.
    """
    by_filter = {
        name.partition(",")[2] or _NO_FILTER: value
        for name, value in metrics.items()
        if name.partition(",")[0] == metric
    }
    return {_NO_FILTER: by_filter[_NO_FILTER]} if _NO_FILTER in by_filter else by_filter


def _to_number(value: Any) -> float | None:
    """Return a value of a metric, or None if it is not a finite number, such as `N/A` or NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _is_judge_missing(metrics: dict[str, Any], benchmark: Benchmark, value: float | None) -> bool:
    """Return whether a score is the value that lmms-eval writes if the judge could not be reached.

    MM-Vet is then 0. LLaVA-in-the-Wild is 100 in each of its parts, because every answer, including the reference
    answer, gets a grade of -1.
    """
    if benchmark.task == "mmvet":
        return not value
    parts = [_get_by_filter(metrics, f"gpt_eval_llava_{part}") for part in ("all", "conv", "detail", "complex")]
    return value is None or all(list(by_filter.values()) == [100.0] for by_filter in parts)


def _count_ungraded(file: _ResultsFile, benchmark: Benchmark) -> int:
    """Return the number of answers without a grade, from the samples file next to the results; 0 without that file."""
    # DATE_results.json -> DATE_samples_TASK.jsonl; a file that was renamed has no samples.
    prefix = file.path.name.removesuffix(_RESULTS_PATTERN[1:])
    samples_path = file.path.with_name(f"{prefix}_samples_{benchmark.task}.jsonl")
    try:
        # Bytes are split at \n and \r only. Text would be split at U+2028 too, which JSON strings may contain.
        lines = read_regular(samples_path, max_bytes=_MAX_BYTES).splitlines() if samples_path.is_file() else []
        grades = [parse_json(line)[benchmark.metric] for line in lines]
        # Without a grade MM-Vet has an empty `eval_model`, and LLaVA-in-the-Wild the grade -1 for both answers.
        return sum(grade.get("eval_model") == "" or grade.get("scores") == [-1, -1] for grade in grades)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{samples_path} does not contain samples of {benchmark.task} ({error!r}); {_RERUN_HINT}"
        ) from error


def _read_heldout(file: _ResultsFile) -> HeldoutScores:
    """Return the accuracies of the task compact_heldout in a results file."""
    metrics = [name.partition(",")[0] for name in file.tasks[HELDOUT_TASK]]
    by_k = {
        int(name.removeprefix(_ACCURACY_BY_K)): _read_metric(file, HELDOUT_TASK, name)
        for name in metrics
        # Not `accuracy_k1_stderr`.
        if name.removeprefix(_ACCURACY_BY_K).isdecimal()
    }
    accuracy = _read_metric(file, HELDOUT_TASK, _ACCURACY)
    if accuracy is None:
        raise EvaluationError(f"{file.path} has no score for {HELDOUT_TASK}; {_RERUN_HINT}")
    return HeldoutScores(
        file.question_counts.get(HELDOUT_TASK) or None,
        accuracy,
        # A k that no question has gets no number.
        {k: value for k, value in sorted(by_k.items()) if value is not None},
        # The version of the task is that of the rules.
        _read_version(file.versions.get(HELDOUT_TASK, FIRST_RULE_VERSION)),
    )


def _read_version(value: Any) -> str | None:
    """Return a version that is a whole number (2, 2.0 or "2"), or None, as for `Yaml`, a task without a version."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if str(value).isdecimal() else None
