"""Our held-out questions as a task of lmms-eval: a release in, a folder for its `--include_path` out.

    compact benchmarks tasks release --out tasks
    lmms-eval --include_path tasks --tasks compact_heldout ...

The folder needs no compact_hf where lmms-eval runs: answers are compared by a copy of answers.py that lies in it.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.benchmarks.lmms_eval import HELDOUT

_QUESTIONS: Final = "data/k*/validation-*.parquet"
_REPOSITORY: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")


def benchmark_tasks(dataset: str | Path, out: str | Path) -> Path:
    """Write the task `compact_heldout` over a release's held-out questions.

    Args:
        dataset (`str | Path`): a release's folder, or a repository as `org/name` or `org/name@revision`; lmms-eval
            fetches that, and of either reads nothing but the validation split of the compositional part.
        out (`str | Path`): a folder that is new or empty, or holds such a task already.

    Returns:
        `Path`: `out`.

    Raises:
        EvaluationError: the folder has no held-out questions, or `out` cannot be written.
        UsageError: `dataset` is neither a folder nor a repository's name, or `out` holds other things.
    """
    place, out = _place(str(dataset)), Path(out)
    package = files("compact_hf")
    task = package / "evaluation" / "benchmarks" / "heldout_task"
    settings = "".join(f"{name}: {json.dumps(value)}\n" for name, value in place.items())  # JSON is YAML
    texts = {
        f"{HELDOUT}.yaml": (task / f"{HELDOUT}.yaml").read_text(encoding="utf-8") + settings,
        f"{HELDOUT}.py": (task / f"{HELDOUT}.py").read_text(encoding="utf-8"),
        "compact_answers.py": (package / "answers.py").read_text(encoding="utf-8"),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        if foreign := sorted({path.name for path in out.iterdir()} - texts.keys() - {"__pycache__"}):
            raise UsageError(f"{out} holds {foreign[0]}; lmms-eval reads all of it, so give a new or empty folder")
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror}); give another folder as --out") from error
    return out


def _place(dataset: str) -> dict[str, Any]:
    """Return where the questions lie, as settings of a task."""
    # By their files, not by the config, for which `datasets` would fetch and prepare the training split too.
    chosen: dict[str, Any] = {"data_files": {"validation": _QUESTIONS}}
    folder = Path(dataset)
    if folder.exists():
        if not any(folder.glob(_QUESTIONS)):
            raise EvaluationError(
                f"{dataset} has no held-out questions ({_QUESTIONS}); give a release with a validation split"
            )
        return {"dataset_path": str(folder.resolve()), "dataset_kwargs": chosen}
    named = _REPOSITORY.fullmatch(dataset)
    if named is None:
        raise UsageError(
            f"{dataset!r} is neither a folder here nor a repository; give a release as a folder, org/name or "
            "org/name@revision (of reserved scenes, make one by compact generate and assemble)"
        )
    revision = {"revision": named["revision"]} if named["revision"] else {}
    return {"dataset_path": named["name"], "dataset_kwargs": chosen | revision}
