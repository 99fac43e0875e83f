"""The calls that judge a model on the paper's benchmarks: a model or an adapter in, command lines out; runs nothing.

    compact benchmarks command student

lmms-eval's model `llava_hf` reads a transformers LLaVA with its own processor and chat template, so a model of ours is
asked in the words, and sees the pictures as, it was trained on. It takes no adapter, hence the merge.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.benchmarks.lmms_eval import EIGHT, HARNESS, HELDOUT, Benchmark
from compact_hf.evaluation.benchmarks.model import kind_of

MODEL: Final = "llava_hf"
INSTALL: Final = ("pip", "install", f"lmms-eval[video-legacy]=={HARNESS}", "transformers>=5.23")
"""The extra brings decord, which `llava_hf` imports whether there is a video or not."""


@dataclass(frozen=True, slots=True)
class Calls:
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
            "lmms_eval": HARNESS,
            "benchmarks": {
                one.name: {"task": one.task, "metric": one.metric, "scale": one.scale, "judged": one.judged}
                for one in self.benchmarks
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
    judged: bool = True,
    heldout: str | None = None,
    gpus: int = 1,
    device: str = "cuda",
) -> Calls:
    """Return the calls that judge a model on the paper's benchmarks.

    Args:
        model (`str | Path`): a folder or a repository: a LLaVA, or a LoRA adapter of one.
        out (`str | Path`, *optional*, defaults to `benchmarks`): the folder that merged model and results are to go to.
        judged (`bool`, *optional*, defaults to True): with the two benchmarks that a paid model grades.
        heldout (`str`, *optional*): a release whose held-out questions are asked too; as `benchmark_tasks` takes it.
        gpus (`int`, *optional*, defaults to 1): that share the questions, each with a copy of the model.
        device (`str`, *optional*, defaults to `cuda`): where a single copy runs, such as `cuda:1` or `cpu`.

    Raises:
        EvaluationError: the model cannot be found, or is no LLaVA.
        HubError: the Hub does not say what it is.
        UsageError: a setting makes no sense, or lmms-eval could not be given this path.
    """
    if gpus < 1 or (gpus > 1 and device != "cuda"):
        raise UsageError(f"got {gpus} GPUs and the device {device!r}; give 1 or more, and a device only with one")
    kind, out = kind_of(str(model)), Path(out)
    if kind.architecture not in (None, "llava"):
        raise EvaluationError(
            f"{model} is a {kind.architecture}, and these calls are for a LLaVA; `lmms-eval models` lists what runs it"
        )
    whole = str(out / kind.name) if kind.adapter else str(model)
    for path in (whole, str(out)):
        if "," in path:
            raise UsageError(f"{path!r} has a comma, where lmms-eval would cut it; give a path without")
    benchmarks = tuple(one for one in EIGHT if judged or not one.judged)
    tasks, results = out / "tasks", out / "results"
    asked = [one.task for one in benchmarks] + ([HELDOUT] if heldout else [])
    several = ("accelerate", "launch", "--num_processes", str(gpus), "-m", "lmms_eval")
    # Without a device map, which several processes must not have, transformers loads nothing.
    where = "" if gpus > 1 else f",device={device},device_map={device}"
    evaluate = (
        *(several if gpus > 1 else ("lmms-eval",)),
        *("--model", MODEL, "--model_args", f"pretrained={whole}{where}"),
        *("--tasks", ",".join(asked)),
        *(("--include_path", str(tasks)) if heldout else ()),
        # It refuses to ask this model more than one question at once.
        *("--batch_size", "1", "--num_fewshot", "0", "--seed", "0"),
        *("--log_samples", "--output_path", str(results)),
    )
    return Calls(
        benchmarks,
        install=INSTALL,
        merge=("compact", "adapter", "merge", str(model), "--out", whole) if kind.adapter else (),
        heldout=("compact", "benchmarks", "tasks", heldout, "--out", str(tasks)) if heldout else (),
        evaluate=evaluate,
        table=("compact", "benchmarks", "table", str(results)),
    )
