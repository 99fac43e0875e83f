"""The paper's eight benchmarks in lmms-eval: tasks, metrics and command lines, and our held-out questions as a task.

    compact benchmarks command student
    compact benchmarks tasks release --out tasks
    lmms-eval --include_path tasks --tasks compact_heldout ...

A model family says which of lmms-eval's models runs it. LLaVA's, `llava_hf`, reads a transformers LLaVA with its own
processor and chat template, so a model of ours is asked in the words, and sees the images as, it was trained on. It
takes no adapter, hence the merge. The task directory needs no compact_hf where lmms-eval runs: answers are compared by
a copy of answers.py in it. Names of tasks and metrics were read in the version named here, which
tests/evaluation/test_benchmarks_harness.py runs.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, HubUnavailableError, UsageError
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import read_adapter_config
from compact_hf.models.loading import ADAPTER_CONFIG, MODEL_CONFIG, has_model, is_adapter
from compact_hf.models.registry import get_family, iter_families
from compact_hf.storage import translate_disk_errors


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a model is.

    Attributes:
        name (`str`): what to call it: the last part of where it lies.
        is_adapter (`bool`): whether it needs another model to be put on.
        model_type (`str`, *optional*): a whole model's, or an adapter's base's, as its config says; None for an adapter
            whose base is not in a directory here.
    """

    name: str
    is_adapter: bool
    model_type: str | None


def inspect_model(model: str) -> ModelKind:
    """Return what a model is.

    Raises:
        EvaluationError: a folder holds no model, or the config cannot be read.
        HubError: there is no such folder, and no such repository, or the Hub cannot be asked.
    """
    directory = Path(model)
    if not directory.exists():
        return _inspect_hub_model(model)
    if not has_model(directory):
        raise EvaluationError(f"{model} is no model: a folder with {MODEL_CONFIG} or {ADAPTER_CONFIG} is needed")
    name = directory.resolve().name
    if not is_adapter(directory):
        return ModelKind(name, False, _read_model_type(directory / MODEL_CONFIG))
    base_config = Path(read_adapter_config(directory).base) / MODEL_CONFIG
    return ModelKind(name, True, _read_model_type(base_config) if base_config.is_file() else None)


def _inspect_hub_model(model: str) -> ModelKind:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = model.rpartition("/")[2]
    with translate_read_errors(model):
        try:
            hf_hub_download(model, ADAPTER_CONFIG)
        except LocalEntryNotFoundError as error:  # neither here nor to be asked for; an EntryNotFoundError, too
            raise HubUnavailableError(
                f"{model} is no folder here, and the Hub cannot be asked for it; give a folder, or unset HF_HUB_OFFLINE"
            ) from error
        except EntryNotFoundError:
            return ModelKind(name, False, _read_model_type(Path(hf_hub_download(model, MODEL_CONFIG))))
    return ModelKind(name, True, None)


def _read_model_type(config: Path) -> str:
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{config} does not say what the model is ({error!r}); give another model") from error


HARNESS_VERSION: Final = "0.7.3"
"""The version of lmms-eval whose calls are written and whose results files are read. Some on PyPI (0.6.1, 0.7.0, 0.7.2)
lack the files of these very tasks."""
JUDGE_MODEL: Final = "gpt-4o-2024-11-20"
"""The model that lmms-eval has judge where MODEL_VERSION names no other."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark in lmms-eval.

    Attributes:
        name (`str`): as the paper has it, one of `paper_scores.BENCHMARKS`.
        task (`str`): lmms-eval's.
        metric (`str`): that of the task's metrics which the paper reports.
        scale (`float`): what brings the metric to the paper's unit: 100 where lmms-eval writes a share.
        needs_judge (`bool`): a model of OpenAI's grades the answers, which takes a key and costs money.
    """

    name: str
    task: str
    metric: str
    scale: float = 1.0
    needs_judge: bool = False


_BENCHMARK_ARGS: Final = {
    "InfoVQA": ("infovqa_val", "anls", 100.0, False),
    "SEED-Bench-2-Plus": ("seedbench_2_plus", "seedbench_2_plus_all", 100.0, False),
    # Perception alone: LLaVA-665K's 1478 is out of its 2000 points; cognition would add 800 more.
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
"""The task of our own held-out questions; its metrics are `accuracy`, `accuracy_k1`, `accuracy_k2`, ..., as shares."""


_ADAPTER_MODEL_TYPE: Final = "llava"
"""What an adapter's base is taken for where it is not here to be looked at: a LLaVA, as in the paper."""
INSTALL_COMMAND: Final = ("pip", "install", f"lmms-eval[video-legacy]=={HARNESS_VERSION}", "transformers>=5.23")
"""The extra brings decord, which `llava_hf` imports whether there is a video or not."""


@dataclass(frozen=True, slots=True)
class BenchmarkCommands:
    """The commands, each as its arguments, in the order in which they are to be run.

    Attributes:
        benchmarks (`tuple[Benchmark, ...]`): those that are asked for.
        install (`tuple[str, ...]`): brings lmms-eval, in the version that the others are written for.
        merge (`tuple[str, ...]`): makes a model of an adapter; empty for a whole model.
        heldout (`tuple[str, ...]`): writes the task of our own held-out questions; empty where none were asked for.
        evaluate (`tuple[str, ...]`): lmms-eval.
        table (`tuple[str, ...]`): prints the table of what it wrote.
    """

    benchmarks: tuple[Benchmark, ...]
    install: tuple[str, ...]
    merge: tuple[str, ...]
    heldout: tuple[str, ...]
    evaluate: tuple[str, ...]
    table: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the commands as a shell takes them."""
        commands = (self.install, self.merge, self.heldout, self.evaluate, self.table)
        return [shlex.join(command) for command in commands if command]

    def to_json(self) -> dict[str, Any]:
        """Return the commands, and of each benchmark its task and metric."""
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
    """Return the calls that judge a model on the paper's benchmarks.

    Args:
        model (`str | Path`): a folder or a repository: a LLaVA, or a LoRA adapter of one.
        out (`str | Path`, *optional*, defaults to `benchmarks`): the folder that merged model and results are to go to.
        with_judge (`bool`, *optional*, defaults to True): with the two benchmarks that a paid model grades.
        heldout (`str`, *optional*): a release whose held-out questions are asked too; as `benchmark_tasks` takes it.
        gpus (`int`, *optional*, defaults to 1): that share the questions, each with a copy of the model.
        device (`str`, *optional*, defaults to `cuda`): where a single copy runs, such as `cuda:1` or `cpu`.

    Raises:
        EvaluationError: the model cannot be found, or is of a family that lmms-eval does not run.
        HubError: the Hub does not say what it is.
        UsageError: a setting makes no sense, or lmms-eval could not be given this path.
    """
    if gpus < 1 or (gpus > 1 and device != "cuda"):
        raise UsageError(f"got {gpus} GPUs and the device {device!r}; give 1 or more, and a device only with one")
    kind, out = inspect_model(str(model)), Path(out)
    harness_model = get_family(kind.model_type or _ADAPTER_MODEL_TYPE).lmms_eval_model
    if harness_model is None:
        known = ", ".join(family.label for family in iter_families() if family.lmms_eval_model)
        raise EvaluationError(
            f"{model} is a {kind.model_type}, and these calls are for {known}; `lmms-eval models` lists what runs it"
        )
    model_path = str(out / kind.name) if kind.is_adapter else str(model)
    for path in (model_path, str(out)):
        if "," in path:
            raise UsageError(f"{path!r} has a comma, where lmms-eval would cut it; give a path without")
    benchmarks = tuple(benchmark for benchmark in HARNESS_BENCHMARKS if with_judge or not benchmark.needs_judge)
    tasks_directory, results_directory = out / "tasks", out / "results"
    task_names = [benchmark.task for benchmark in benchmarks] + ([HELDOUT_TASK] if heldout else [])
    launcher = ("accelerate", "launch", "--num_processes", str(gpus), "-m", "lmms_eval")
    # Without a device map, which several processes must not have, transformers loads nothing.
    device_args = "" if gpus > 1 else f",device={device},device_map={device}"
    evaluate = (
        *(launcher if gpus > 1 else ("lmms-eval",)),
        *("--model", harness_model, "--model_args", f"pretrained={model_path}{device_args}"),
        *("--tasks", ",".join(task_names)),
        *(("--include_path", str(tasks_directory)) if heldout else ()),
        # It refuses to ask this model more than one question at once.
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


_HELDOUT_FILES: Final = "data/k*/validation-*.parquet"


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
    dataset_settings, out = _build_dataset_settings(str(dataset)), Path(out)
    package = files("compact_hf")
    task = package / "evaluation" / "benchmarks" / "heldout_task"
    settings = "".join(f"{name}: {json.dumps(value)}\n" for name, value in dataset_settings.items())  # JSON is YAML
    texts = {
        f"{HELDOUT_TASK}.yaml": (task / f"{HELDOUT_TASK}.yaml").read_text(encoding="utf-8") + settings,
        f"{HELDOUT_TASK}.py": (task / f"{HELDOUT_TASK}.py").read_text(encoding="utf-8"),
        "compact_answers.py": (package / "answers.py").read_text(encoding="utf-8"),
    }
    with translate_disk_errors(EvaluationError, out, "give another folder as --out"):
        out.mkdir(parents=True, exist_ok=True)
        if unknown := sorted({path.name for path in out.iterdir()} - texts.keys() - {"__pycache__"}):
            raise UsageError(f"{out} holds {unknown[0]}; lmms-eval reads all of it, so give a new or empty folder")
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    return out


def _build_dataset_settings(dataset: str) -> dict[str, Any]:
    """Return where the questions lie, as settings of a task."""
    # By their files, not by the config, for which `datasets` would fetch and prepare the training split too.
    dataset_kwargs: dict[str, Any] = {"data_files": {"validation": _HELDOUT_FILES}}
    directory = Path(dataset)
    if directory.exists():
        if not any(directory.glob(_HELDOUT_FILES)):
            raise EvaluationError(
                f"{dataset} has no held-out questions ({_HELDOUT_FILES}); give a release with a validation split"
            )
        return {"dataset_path": str(directory.resolve()), "dataset_kwargs": dataset_kwargs}
    ref = RepoRef.parse(dataset)
    if ref is None:
        raise UsageError(
            f"{dataset!r} is neither a folder here nor a repository; give a release as a folder, org/name or "
            "org/name@revision (of reserved scenes, make one by compact generate and assemble)"
        )
    revision = {"revision": ref.revision} if ref.revision else {}
    return {"dataset_path": ref.repo_id, "dataset_kwargs": dataset_kwargs | revision}
