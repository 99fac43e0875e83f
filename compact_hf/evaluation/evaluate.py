"""Judging a model: a model and a data set in, a folder with predictions and scores out.

    compact evaluate MODEL DATASET --out DIR

    DIR/evaluation.json            what was judged: names and hashes of model and questions
    DIR/predictions.part.jsonl     while it runs: what has been answered so far
    DIR/predictions.jsonl          one line per question: the fields of `scoring.Prediction`
    DIR/results.json               the scores; their schema stands in scoring.py

The same command goes on where it was stopped, and gives the same files as a run that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from compact_hf.errors import EvaluationError, IdentityError
from compact_hf.evaluation.dataset import Questions, questions_of, with_swapped_pictures
from compact_hf.evaluation.predict import predict
from compact_hf.evaluation.scoring import Prediction, Results, score
from compact_hf.evaluation.student import identity
from compact_hf.records import from_json, to_json

BATCH: Final = 64
MAX_NEW_TOKENS: Final = 16
_IDENTITY: Final = "evaluation.json"
_PART: Final = "predictions.part.jsonl"
_WHOLE: Final = "predictions.jsonl"
_RESULTS: Final = "results.json"


def evaluate(
    model: str | Path,
    dataset: str | Path,
    out: str | Path,
    *,
    split: Literal["train", "validation"] = "validation",
    swap_pictures: bool = False,
    batch_size: int = BATCH,
    on_progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Ask a model a data set's questions and score its answers.

    Args:
        model (`str | Path`): a folder or a Hub repository: a whole model or a LoRA adapter.
        dataset (`str | Path`): a release's folder, a Hub repository, or `scenes:N`.
        out (`str | Path`): a new or empty folder, or one that this very evaluation was begun in.
        split (`str`, *optional*, defaults to `validation`): of a release.
        swap_pictures (`bool`, *optional*, defaults to False): ask each question about another question's picture, as a
            control: what a model still gets right, it knows from the words.
        batch_size (`int`, *optional*, defaults to 64): questions answered at once.
        on_progress (`Callable[[int, int], None]`, *optional*): called with how many of how many are answered.

    Raises:
        EvaluationError: the model or the data set cannot be used, or `out` cannot be written or holds other things.
        IdentityError: `out` holds the evaluation of another model or data set.
    """
    model, dataset, out = str(model), str(dataset), Path(out)
    asked = questions_of(dataset, split=split)
    if swap_pictures:
        asked = with_swapped_pictures(asked)
    try:
        _claim(out, _told(model, asked, batch_size))
        if not (out / _WHOLE).exists():
            _answer(model, asked, out / _PART, batch_size=batch_size, on_progress=on_progress)
            os.replace(out / _PART, out / _WHOLE)
        predictions = [from_json(Prediction, line) for line in (out / _WHOLE).read_bytes().splitlines()]
        results = score(predictions, model=Path(model).name if Path(model).exists() else model, dataset=asked.name)
        _write(out / _RESULTS, results.to_json())
    except OSError as error:
        raise EvaluationError(
            f"{out} cannot be written ({error.strerror or error}); nothing is lost, the same command goes on"
        ) from error
    return results


def _told(model: str, asked: Questions, batch_size: int) -> dict[str, Any]:
    return {
        "model": model,
        "model_identity": identity(model),
        "dataset": asked.name,
        "dataset_identity": asked.identity,
        "batch_size": batch_size,
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def _claim(out: Path, told: dict[str, Any]) -> None:
    """Make `out` this evaluation's folder, or see that it is already; one without answers yet can become another's."""
    known = out / _IDENTITY
    if known.is_file() and any((out / name).exists() and (out / name).stat().st_size for name in (_PART, _WHOLE)):
        before = json.loads(known.read_text(encoding="utf-8"))
        differences = {name: (before.get(name), now) for name, now in told.items() if before.get(name) != now}
        if differences:
            raise IdentityError(str(out), differences)
        return
    if out.exists() and not known.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise EvaluationError(f"{out} holds something else; give a new or empty folder as --out")
    out.mkdir(parents=True, exist_ok=True)
    _write(known, told)


def _answer(
    model: str,
    asked: Questions,
    part: Path,
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Write the predictions that `part` lacks to its end, batch by batch."""
    done = _kept(part, batch_size)
    total = len(asked.questions)

    def tell(answered: int) -> None:
        if on_progress:
            on_progress(done + answered, total)

    new = predict(
        model,
        asked.questions[done:],
        batch_size=batch_size,
        max_new_tokens=MAX_NEW_TOKENS,
        on_progress=tell,
    )
    with part.open("a", encoding="utf-8", buffering=1) as file:
        file.writelines(f"{to_json(prediction)}\n" for prediction in new)


def _kept(part: Path, batch_size: int) -> int:
    """Cut `part` to its whole batches and return how many predictions those are.

    Whole batches, because what a question is padded beside can tip a close call between two words: so a run that
    was stopped ends with the same predictions as one that was not.
    """
    if not part.exists():
        return 0
    lines = part.read_bytes().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines) // batch_size * batch_size
    os.truncate(part, sum(len(line) for line in lines[:whole]))
    return whole


def _write(path: Path, value: Any) -> None:
    """Write JSON in one step: the file is there as a whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
