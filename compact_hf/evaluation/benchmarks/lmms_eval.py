"""Builds the lmms-eval commands for the paper's eight benchmarks, and writes our held-out questions as a task.

    compact benchmarks command student
    compact benchmarks tasks release --out tasks
    lmms-eval --include_path tasks --tasks compact_heldout ...

Each model family names the lmms-eval model class that runs it. `llava_hf`, the class for LLaVA, loads a transformers
LLaVA with its own processor and chat template, so prompts and image preprocessing are the same as in training. It does
not load adapters, so an adapter is merged first. lmms-eval can run in an environment without compact_hf, because the
task directory contains a copy of answers.py, which compares answers. The names of tasks and metrics are those of
HARNESS_VERSION, which tests/evaluation/test_benchmarks_harness.py runs.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import read_adapter_config
from compact_hf.models.loading import ADAPTER_CONFIG, MODEL_CONFIG, has_model, is_adapter
from compact_hf.models.registry import get_family, iter_families
from compact_hf.parsing import read_json
from compact_hf.storage import translate_disk_errors


@dataclass(frozen=True, slots=True)
class ModelKind:
    """The type of a model.

    Attributes:
        name (`str`): display name: the last part of its path or repository name.
        is_adapter (`bool`): whether it is an adapter, which needs a base.
        model_type (`str`, *optional*): `model_type` in the config of the full model, or of the adapter's base; None for
            an adapter whose base is not a local directory.
    """

    name: str
    is_adapter: bool
    model_type: str | None


def inspect_model(model: str) -> ModelKind:
    """Return the type of a model without loading it.

    Raises:
        EvaluationError: the directory does not contain a model, or its config cannot be read.
        HubError: neither a directory nor a repository was found, or the Hub cannot be reached.
    """
    directory = Path(model)
    if not directory.exists():
        return _inspect_hub_model(model)
    if not has_model(directory):
        raise EvaluationError(f"{model} is not a model; give a directory with {MODEL_CONFIG} or {ADAPTER_CONFIG}")
    name = directory.resolve().name
    if not is_adapter(directory):
        return ModelKind(name, False, _read_model_type(directory / MODEL_CONFIG))
    # The base can also be a repository; then no such file exists, and its type is unknown.
    base_config = Path(read_adapter_config(directory).base) / MODEL_CONFIG
    return ModelKind(name, True, _read_model_type(base_config) if base_config.is_file() else None)


def _inspect_hub_model(model: str) -> ModelKind:
    """Return the type of a model on the Hub, downloading only its config."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = model.rpartition("/")[2]
    with translate_read_errors(model):
        try:
            hf_hub_download(model, ADAPTER_CONFIG)
        except EntryNotFoundError as error:
            # Offline, the client raises the same error whether a file is not cached or known not to exist.
            is_known = try_to_load_from_cache(model, ADAPTER_CONFIG) is _CACHED_NO_EXIST
            if isinstance(error, LocalEntryNotFoundError) and not is_known:
                raise
            return ModelKind(name, False, _read_model_type(Path(hf_hub_download(model, MODEL_CONFIG))))
    return ModelKind(name, True, None)


def _read_model_type(config: Path) -> str:
    try:
        return str(read_json(config)["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{config} has no readable model_type ({error!r}); give another model") from error


HARNESS_VERSION: Final = "0.7.3"
"""The supported version of lmms-eval. Some releases on PyPI (0.6.1, 0.7.0, 0.7.2) lack the files of these tasks."""
JUDGE_MODEL: Final = "gpt-4o-2024-11-20"
"""The model that lmms-eval uses as the judge, unless MODEL_VERSION names another one."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark in lmms-eval.

    Attributes:
        name (`str`): name in the paper, one of `paper_scores.BENCHMARKS`.
        task (`str`): name of the task in lmms-eval.
        metric (`str`): the metric of this task that the paper reports.
        scale (`float`): factor that converts the metric to the paper's unit: 100 if lmms-eval reports a fraction.
        needs_judge (`bool`): whether an OpenAI model grades the answers, which needs an API key and costs money.
    """

    name: str
    task: str
    metric: str
    scale: float = 1.0
    needs_judge: bool = False


# Name in the paper -> the other fields of `Benchmark`: task, metric, scale, needs_judge.
_BENCHMARK_ARGS: Final = {
    "InfoVQA": ("infovqa_val", "anls", 100.0, False),
    "SEED-Bench-2-Plus": ("seedbench_2_plus", "seedbench_2_plus_all", 100.0, False),
    # Only perception: the paper's 1478 for LLaVA-665K is out of its 2000 points. Cognition would add up to 800 points.
    "MME": ("mme", "mme_perception_score", 1.0, False),
    "TextVQA": ("textvqa_val", "exact_match", 100.0, False),
    "MM-Vet": ("mmvet", "gpt_eval_score", 1.0, True),
    "CV-Bench": ("cv_bench", "cv_bench_acc", 100.0, False),
    "MMStar": ("mmstar", "average", 100.0, False),
    "LLaVA-in-the-Wild": ("llava_in_the_wild", "gpt_eval_llava_all", 1.0, True),
}
HARNESS_BENCHMARKS: Final = tuple(Benchmark(name, *_BENCHMARK_ARGS[name]) for name in BENCHMARKS)
"""In the order of the paper's columns."""

HELDOUT_TASK: Final = "compact_heldout"
"""The task of our held-out questions. Its metrics are `accuracy`, `accuracy_k1`, `accuracy_k2`, ..., as fractions."""


_ADAPTER_MODEL_TYPE: Final = "llava"
"""The model type assumed for the base of an adapter if the base is not a local directory: LLaVA, as in the paper."""
INSTALL_COMMAND: Final = ("pip", "install", f"lmms-eval[video-legacy]=={HARNESS_VERSION}", "transformers>=5.23")
"""The extra installs decord, which `llava_hf` always imports, even without videos."""


@dataclass(frozen=True, slots=True)
class BenchmarkCommands:
    """The commands that evaluate a model, each as a tuple of arguments, in the order to run them.

    Attributes:
        benchmarks (`tuple[Benchmark, ...]`): the benchmarks to run.
        install (`tuple[str, ...]`): installs lmms-eval in the supported version.
        merge (`tuple[str, ...]`): merges an adapter into its base; empty for a full model.
        heldout (`tuple[str, ...]`): writes the task of our held-out questions; empty if it was not requested.
        evaluate (`tuple[str, ...]`): runs lmms-eval.
        table (`tuple[str, ...]`): prints the table of results.
    """

    benchmarks: tuple[Benchmark, ...]
    install: tuple[str, ...]
    merge: tuple[str, ...]
    heldout: tuple[str, ...]
    evaluate: tuple[str, ...]
    table: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the commands as shell command lines."""
        commands = (self.install, self.merge, self.heldout, self.evaluate, self.table)
        return [shlex.join(command) for command in commands if command]

    def to_json(self) -> dict[str, Any]:
        """Return the commands, and the task and metric of each benchmark, as JSON values."""
        return {
            "lmms_eval": HARNESS_VERSION,
            "benchmarks": {
                benchmark.name: {
                    "task": benchmark.task,
                    "metric": benchmark.metric,
                    "scale": benchmark.scale,
                    "judged": benchmark.needs_judge,
                }
                for benchmark in self.benchmarks
            },
            "install": self.install,
            "merge": self.merge,
            "heldout": self.heldout,
            "evaluate": self.evaluate,
            "table": self.table,
        }


def benchmark_command(
    model: str | Path,
    out: str | Path = "benchmarks",
    *,
    with_judge: bool = True,
    heldout: str | None = None,
    gpus: int = 1,
    device: str = "cuda",
) -> BenchmarkCommands:
    """Return the commands that evaluate a model on the paper's benchmarks with lmms-eval.

    Args:
        model (`str | Path`): directory or repository of a LLaVA, or of a LoRA adapter for one.
        out (`str | Path`, *optional*, defaults to `benchmarks`): directory for the merged model and the results.
        with_judge (`bool`, *optional*, defaults to True): whether to include the two benchmarks that a paid model
            grades.
        heldout (`str`, *optional*): a dataset whose held-out questions are asked too, as for `benchmark_tasks`.
        gpus (`int`, *optional*, defaults to 1): number of GPUs; each gets a copy of the model and a share of the
            questions.
        device (`str`, *optional*, defaults to `cuda`): device to use with a single GPU, such as `cuda:1` or `cpu`.

    Raises:
        EvaluationError: the model cannot be downloaded, or lmms-eval does not support its family.
        HubError: the config of the model cannot be downloaded.
        UsageError: an argument is invalid, the model does not exist, or lmms-eval does not support the path.
    """
    if gpus < 1 or (gpus > 1 and device != "cuda"):
        raise UsageError(f"got {gpus} GPUs and the device {device!r}; give at least 1 GPU, and a device only with 1")
    kind, out = inspect_model(str(model)), Path(out)
    harness_model = get_family(kind.model_type or _ADAPTER_MODEL_TYPE).lmms_eval_model
    if harness_model is None:
        known = ", ".join(family.label for family in iter_families() if family.lmms_eval_model)
        raise EvaluationError(
            f"{model} is a {kind.model_type} model, but these commands support {known}; run `lmms-eval models` to see "
            "which class supports it"
        )
    # An adapter is merged into OUT/NAME first.
    model_path = str(out / kind.name) if kind.is_adapter else str(model)
    for path in (model_path, str(out)):
        if "," in path:
            raise UsageError(f"{path!r} contains a comma, at which lmms-eval splits arguments; give a path without one")
    benchmarks = tuple(benchmark for benchmark in HARNESS_BENCHMARKS if with_judge or not benchmark.needs_judge)
    tasks_directory, results_directory = out / "tasks", out / "results"
    task_names = [benchmark.task for benchmark in benchmarks] + ([HELDOUT_TASK] if heldout else [])
    launcher = ("accelerate", "launch", "--num_processes", str(gpus), "-m", "lmms_eval")
    # With one process `llava_hf` needs a device map to load the model; with several there must not be one.
    device_args = "" if gpus > 1 else f",device={device},device_map={device}"
    evaluate = (
        *(launcher if gpus > 1 else ("lmms-eval",)),
        *("--model", harness_model, "--model_args", f"pretrained={model_path}{device_args}"),
        *("--tasks", ",".join(task_names)),
        *(("--include_path", str(tasks_directory)) if heldout else ()),
        # lmms-eval does not support larger batches for this model class.
        *("--batch_size", "1", "--num_fewshot", "0", "--seed", "0"),
        *("--log_samples", "--output_path", str(results_directory)),
    )
    return BenchmarkCommands(
        benchmarks,
        install=INSTALL_COMMAND,
        merge=("compact", "adapter", "merge", str(model), "--out", model_path) if kind.is_adapter else (),
        heldout=("compact", "benchmarks", "tasks", heldout, "--out", str(tasks_directory)) if heldout else (),
        evaluate=evaluate,
        table=("compact", "benchmarks", "table", str(results_directory)),
    )


# The compositional part of a dataset has one directory per k: data/k1, data/k2, ...
_HELDOUT_FILES: Final = "data/k*/validation-*.parquet"


def benchmark_tasks(dataset: str | Path, out: str | Path) -> Path:
    """Write the lmms-eval task `compact_heldout` for the held-out questions of a dataset.

    Args:
        dataset (`str | Path`): a dataset made by `compact assemble`: a directory, or a repository (`org/name` or
            `org/name@revision`), which lmms-eval downloads. Only the validation split of the compositional part is
            read.
        out (`str | Path`): a directory that is new or empty, or already contains such a task.

    Returns:
        `Path`: `out`.

    Raises:
        EvaluationError: the directory has no held-out questions, or `out` cannot be written.
        UsageError: `dataset` is neither a directory nor the name of a repository, or `out` contains other files.
    """
    # lmms-eval records the version of a task in its results.
    metadata = {"version": int(ANSWER_RULES_VERSION)}
    task_settings, out = {**_build_dataset_settings(str(dataset)), "metadata": metadata}, Path(out)
    package = files("compact_hf")
    task = package / "evaluation" / "benchmarks" / "heldout_task"
    settings = "".join(f"{name}: {json.dumps(value)}\n" for name, value in task_settings.items())  # JSON is YAML
    texts = {
        f"{HELDOUT_TASK}.yaml": (task / f"{HELDOUT_TASK}.yaml").read_text(encoding="utf-8") + settings,
        f"{HELDOUT_TASK}.py": (task / f"{HELDOUT_TASK}.py").read_text(encoding="utf-8"),
        "compact_answers.py": (package / "answers.py").read_text(encoding="utf-8"),
    }
    with translate_disk_errors(EvaluationError, out, "give another directory as --out"):
        out.mkdir(parents=True, exist_ok=True)
        # Python writes __pycache__ when lmms-eval loads the task.
        if unknown := sorted({path.name for path in out.iterdir()} - texts.keys() - {"__pycache__"}):
            raise UsageError(
                f"{out} contains {unknown[0]}, which lmms-eval would read too; give a new or empty directory"
            )
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    return out


def _build_dataset_settings(dataset: str) -> dict[str, Any]:
    """Return the task settings that locate the questions."""
    # Files are named instead of a config, for which `datasets` would also download and prepare the training split.
    dataset_kwargs: dict[str, Any] = {"data_files": {"validation": _HELDOUT_FILES}}
    directory = Path(dataset)
    if directory.exists():
        if not any(directory.glob(_HELDOUT_FILES)):
            raise EvaluationError(
                f"{dataset} has no held-out questions ({_HELDOUT_FILES}); give a dataset with a validation split"
            )
        return {"dataset_path": str(directory.resolve()), "dataset_kwargs": dataset_kwargs}
    ref = RepoRef.parse(dataset)
    if ref is None:
        raise UsageError(
            f"{dataset!r} is neither a local directory nor a repository; give a dataset as a directory, org/name or "
            "org/name@revision (for reserved scenes, first make a dataset with compact generate and compact assemble)"
        )
    revision = {"revision": ref.revision} if ref.revision else {}
    return {"dataset_path": ref.repo_id, "dataset_kwargs": dataset_kwargs | revision}
