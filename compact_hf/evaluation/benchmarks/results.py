"""lmms-eval's results files: their paths in, each model's scores on the eight benchmarks out, in the paper's units.

lmms-eval writes OUTPUT_PATH/MODEL/DATE_results.json at the end of a run. It does not write its version (what it calls
`lmms_eval_version` is the git commit of the folder that it was started in), so another version's file is known by what
it lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.benchmarks.lmms_eval import EIGHT, HARNESS, HELDOUT, Benchmark

_FILES: Final = "*_results.json"
_ALL: Final = "accuracy"
_BY_K: Final = f"{_ALL}_k"
_AGAIN: Final = f"judge again with lmms-eval {HARNESS}, as `compact benchmarks command` prints it"
_LAYOUT: Final = {"results": dict, "config": dict, "n-samples": dict, "model_name": str, "date": str}


@dataclass(frozen=True, slots=True)
class Heldout:
    """Accuracy on `n` held-out questions, 0 to 1, over all of them and for each k that they have."""

    n: int
    accuracy: float
    by_k: dict[int, float]


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """What lmms-eval found for one model.

    Attributes:
        model (`str`): its folder or repository, as lmms-eval was given it.
        scores (`dict[str, float]`): benchmark -> score in the paper's unit, for those that have one.
        heldout (`Heldout`, *optional*): where our own questions were asked too.
        notes (`tuple[str, ...]`): what a reader has to know, such as a judge that did not answer.
    """

    model: str
    scores: dict[str, float]
    heldout: Heldout | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """One results file: `tasks` has the metrics of each, `asked` how many questions."""

    path: Path
    model: str
    backend: str
    date: str
    tasks: dict[str, dict[str, Any]]
    asked: dict[str, int]


def read_results(places: Sequence[str | Path]) -> list[HarnessScores]:
    """Return the scores of each model that the files are about, in the order in which they come.

    Args:
        places (`Sequence[str | Path]`): results files, and folders with such files anywhere below. A task that was run
            more than once on one model counts as it was run last.

    Raises:
        EvaluationError: a file cannot be read, is of another layout or version, or is about a part of a benchmark; or
            one model was run in two ways.
    """
    by_model: dict[str, list[_File]] = {}
    for path in dict.fromkeys(path.resolve() for place in places for path in _files(Path(place))):
        read = _read(path)
        by_model.setdefault(read.model, []).append(read)
    return [_scores(model, found) for model, found in by_model.items()]


def _files(place: Path) -> Iterable[Path]:
    if not place.is_dir():
        return [place]
    if found := sorted(place.rglob(_FILES)):
        return found
    raise EvaluationError(
        f"{place} has no results of lmms-eval in it ({_FILES}); it writes them at the end of a run, if that went well"
    )


def _read(path: Path) -> _File:
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror}); give files or folders of lmms-eval"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON ({error}); give what lmms-eval wrote as {_FILES}") from error
    wrong = [
        name for name, kind in _LAYOUT.items() if not (isinstance(read, dict) and isinstance(read.get(name), kind))
    ]
    if wrong:
        raise EvaluationError(f"{path} is no results file of lmms-eval: {wrong[0]!r} is missing; give its {_FILES}")
    config = read["config"]
    if "model_backend" not in config:
        raise EvaluationError(f"{path} is of another version of lmms-eval (no model_backend in its config); {_AGAIN}")
    if config.get("limit") not in (None, -1) or config.get("offset"):
        raise EvaluationError(f"{path} is about a part of the questions (--limit or --offset); {_AGAIN}")
    asked = {task: int(count["effective"]) for task, count in read["n-samples"].items()}
    return _File(path, read["model_name"], config["model_backend"], read["date"], read["results"], asked)


def _scores(model: str, files: Sequence[_File]) -> HarnessScores:
    if len(backends := sorted({file.backend for file in files})) > 1:
        raise EvaluationError(
            f"{model} was run by {' and by '.join(backends)}, whose prompts differ; give the results of one"
        )
    scores: dict[str, float] = {}
    notes = []
    for benchmark in EIGHT:
        found = _last(files, benchmark.task)
        if found is None:
            continue
        value = _metric(found, benchmark.task, benchmark.metric)
        if benchmark.judged and _unjudged(found.tasks[benchmark.task], benchmark, value):
            notes.append(f"{model}: the judge of {benchmark.name} gave no answer ({found.path.name}); left out")
            continue
        if benchmark.judged and (silent := _silent(found, benchmark)):
            notes.append(
                f"{model}: the judge of {benchmark.name} graded all but {silent} answers, and lmms-eval counts all"
            )
        if value is None:
            raise EvaluationError(f"{found.path} has no number for {benchmark.name} ({benchmark.metric}); {_AGAIN}")
        scores[benchmark.name] = value * benchmark.scale
    again = [task for task in (*(one.task for one in EIGHT), HELDOUT) if sum(task in file.tasks for file in files) > 1]
    notes += [f"{model}: {task} was run more than once; the last counts" for task in again]
    heldout = _last(files, HELDOUT)
    if not scores and not heldout and not notes:
        raise EvaluationError(f"{files[0].path} has none of the eight benchmarks; it has {', '.join(files[0].tasks)}")
    return HarnessScores(model, scores, _heldout(heldout) if heldout else None, tuple(notes))


def _last(files: Sequence[_File], task: str) -> _File | None:
    """Return the file of the last run of a task."""
    return max((file for file in files if task in file.tasks), key=lambda file: file.date, default=None)


def _metric(file: _File, task: str, metric: str) -> float | None:
    """Return a metric as lmms-eval wrote it, None where it is no number."""
    found = file.tasks[task]
    if f"{metric},none" not in found:
        there = sorted({name.partition(",")[0] for name in found} - {"alias"})
        raise EvaluationError(
            f"{file.path} is of another version of lmms-eval: its {task} has {', '.join(there) or 'nothing'}, "
            f"not {metric}; {_AGAIN}"
        )
    value = found[f"{metric},none"]
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _unjudged(found: dict[str, Any], benchmark: Benchmark, value: float | None) -> bool:
    """Whether a judged score is what lmms-eval writes where the judge could not be reached.

    MM-Vet then is 0. LLaVA-in-the-Wild is 100 in each of its parts: every answer, the reference's too, counts -1.
    """
    if benchmark.task == "mmvet":
        return not value
    parts = {found.get(f"gpt_eval_llava_{part},none") for part in ("all", "conv", "detail", "complex")}
    return value is None or parts == {100.0}


def _silent(file: _File, benchmark: Benchmark) -> int:
    """Return how many answers the judge gave no grade, by the samples beside the results; 0 where there are none."""
    samples = file.path.with_name(file.path.name.replace(_FILES[1:], f"_samples_{benchmark.task}.jsonl"))
    try:
        lines = samples.read_text(encoding="utf-8").splitlines() if samples.is_file() else []
        grades = [json.loads(line)[benchmark.metric] for line in lines]
        return sum(grade.get("eval_model") == "" or grade.get("scores") == [-1, -1] for grade in grades)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EvaluationError(f"{samples} does not hold samples of {benchmark.task} ({error!r}); {_AGAIN}") from error


def _heldout(file: _File) -> Heldout:
    found = {name.partition(",")[0]: value for name, value in file.tasks[HELDOUT].items()}
    by_k = {int(name.removeprefix(_BY_K)): found[name] for name in found if name.removeprefix(_BY_K).isdecimal()}
    accuracy = _metric(file, HELDOUT, _ALL)
    if accuracy is None:
        raise EvaluationError(f"{file.path} has no number for {HELDOUT}; {_AGAIN}")
    return Heldout(file.asked[HELDOUT], accuracy, dict(sorted(by_k.items())))
