"""Tuning: a recipe in, a trained model's folder, its loss curve and its record out.

The work is done by a child process of the same Python, `python -m compact_hf.training.launch --config RECIPE`,
which starts as many processes as the recipe says. Each is TRL's `sft` with our trainer (sft.py). The same call goes on
from the last whole checkpoint, and does nothing where training is finished.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from types import MappingProxyType
from typing import IO, Any, Final

from compact_hf.errors import TuningError
from compact_hf.training.checkpoints import claim, pinned, record_of
from compact_hf.training.child_output import Words
from compact_hf.training.model_card import write_card
from compact_hf.training.recipes import read_recipe, recipe_path

_GRACE: Final = 900.0
"""Seconds that a step and a checkpoint may take after Ctrl-C."""
LLAVA_RATIO: Final = 0.1
"""LLaVA's projector is trained at 2e-5 where its LoRA is at 2e-4 (scripts/v1_5/finetune_lora.sh)."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished training run left.

    Attributes:
        output_dir (`Path`): the model's folder (an adapter's, where the recipe says `use_peft`).
        steps (`int`): optimizer steps taken.
        loss (`tuple[tuple[int, float], ...]`): (step, training loss in nats per answer token) as logged.
        seconds (`float`): training time over all the times it was gone on with, start-up not included.
        resumed (`bool`): it was finished before this call, which did nothing.
    """

    output_dir: Path
    steps: int
    loss: tuple[tuple[int, float], ...]
    seconds: float
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run: a recipe with everything that replaces or adds to it.

    Attributes:
        recipe (`Path`): the YAML file.
        settings (`Mapping[str, Any]`): the recipe's, with what replaced them.
        options (`tuple[str, ...]`): for the training script, after `--config RECIPE`.
        output_dir (`Path`): where the model goes.
    """

    recipe: Path
    settings: Mapping[str, Any]
    options: tuple[str, ...]
    output_dir: Path


def job_of(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
) -> Job:
    """Return what a recipe comes to; arguments and errors as for `tune`."""
    path = recipe_path(recipe)
    settings: dict[str, Any] = {**read_recipe(path), **overrides}
    if find_spec("trl") is None:
        raise TuningError("tuning needs TRL, which is not installed: pip install 'compact_hf[tune]'")
    if not settings.get("output_dir"):
        raise TuningError(f"recipe {path} says no output_dir, and none was given; add one to either")
    replaced = dict(overrides)
    if not settings.get("datasets"):
        name, commit = pinned(str(settings.get("dataset_name", "")), revision)
        replaced["dataset_name"] = settings["dataset_name"] = name
        revision = commit
    elif revision:
        raise TuningError("a revision goes with one dataset_name, not with a mixture of `datasets`; leave it out")
    if projector_learning_rate is None and "multi_modal_projector" in str(settings.get("lora_modules_to_save")):
        projector_learning_rate = LLAVA_RATIO * float(settings.get("learning_rate", 2e-5))
    extras = {"dataset_revision": revision, "projector_learning_rate": projector_learning_rate}
    replaced |= {key: str(value) for key, value in extras.items() if value is not None}
    options = tuple(part for key, value in replaced.items() for part in (f"--{key}", value))
    return Job(path, {**settings, **extras}, options, Path(str(settings["output_dir"])))


def tune(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train with a recipe and wait for the end; the same call goes on where an earlier one stopped.

    On several machines each makes the call, with its own `machine_rank` and `num_machines`, `main_process_ip` and
    `main_process_port` the same, as `accelerate launch` takes them; `output_dir` lies on a disk that they share.

    Args:
        recipe (`Path` or `str`): a YAML file or a shipped recipe's name.
        overrides (`Mapping[str, str]`, *optional*): settings that replace the recipe's: `{"output_dir": "student"}`.
        revision (`str`, *optional*): branch, tag or commit of the repository `dataset_name`, where it may also stand
            behind an @. It is taken at the commit that it stands for now.
        projector_learning_rate (`float`, *optional*): the projector's own; by default a tenth of `learning_rate` where
            the recipe trains a LoRA with the projector in full, as LLaVA does, and `learning_rate` elsewhere.
        log (`Path`, *optional*): a file for everything that training prints; a later call adds to it.
        on_line (`Callable[[str], None]`, *optional*): called with each line, progress lines too, as they come.

    Raises:
        UsageError: `output_dir` holds something else, or a run with other settings.
        StoppedEarly: Ctrl-C; the same call goes on.
        TuningError: no such recipe, base or data set, TRL is not installed, no `output_dir`, or training failed; the
            message carries the line that tells why, the log has the rest.
        HubError: the data set's revision cannot be found on the Hub.
    """
    job = job_of(recipe, overrides=overrides, revision=revision, projector_learning_rate=projector_learning_rate)
    claim(job.output_dir, job.settings)
    if record := record_of(job.output_dir):
        return _result(job.output_dir, record, resumed=True)
    _refuse_bfloat16_without_gpu(job)
    command = [sys.executable, "-m", "compact_hf.training.launch", "--config", str(job.recipe), *job.options]
    words, status = _run(command, log=log, on_line=on_line, output_dir=job.output_dir)
    record = record_of(job.output_dir)
    if status != 0:
        raise words.error(status, log)
    if record is None:
        raise TuningError(f"no record is in {job.output_dir}; it has to lie on a disk that all machines share")
    if str(job.settings.get("machine_rank", 0)) == "0":
        write_card(job.output_dir, settings=record["settings"])
    return _result(job.output_dir, record, resumed=False)


def _result(output_dir: Path, record: Mapping[str, Any], *, resumed: bool) -> TrainingResult:
    loss = tuple((int(step), float(value)) for step, value in record["loss"])
    return TrainingResult(output_dir, steps=record["steps"], loss=loss, seconds=record["seconds"], resumed=resumed)


def _refuse_bfloat16_without_gpu(job: Job) -> None:
    def on(key: str) -> bool:
        return str(job.settings.get(key, "")).lower() == "true"

    if not on("bf16") or on("use_cpu"):
        return
    from transformers.utils import is_torch_bf16_gpu_available

    if not is_torch_bf16_gpu_available():
        raise TuningError(
            f"recipe {job.recipe.stem} trains in bfloat16, which takes a GPU, and torch sees none that can; run it "
            "where there is one, try `--dry-run` here, or `compact tune tiny-cpu`"
        )


def _run(
    command: list[str], *, log: Path | None, on_line: Callable[[str], None] | None, output_dir: Path
) -> tuple[Words, int]:
    """Run the command; return what it said and its exit status.

    Raises:
        StoppedEarly: Ctrl-C; the child has ended.
    """
    words = Words()
    with _writing(log) as kept, _child(command) as child:
        try:
            for line in _lines(child, kept):
                words.read(line)
                if on_line:
                    on_line(line)
        except KeyboardInterrupt:
            with _asking_to_stop(child):
                for line in _lines(child, kept):
                    words.read(line)
                    if on_line:
                        on_line(line)
            raise words.stopped(output_dir) from None
        status = child.wait()
    # A signal's number as a shell and the launcher report it, behind 128.
    return words, status if status >= 0 else 128 - status


def _lines(child: Popen[str], kept: IO[str] | None) -> Iterator[str]:
    for raw in child.stdout or ():
        if line := raw.rstrip():
            if kept:
                kept.write(line + "\n")
            yield line


@contextmanager
def _writing(log: Path | None) -> Iterator[IO[str] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as kept:
        yield kept


@contextmanager
def _child(command: list[str]) -> Iterator[Popen[str]]:
    """Start the command in a session of its own, so that all it starts can be stopped together.

    Where this very process is killed, the pipe breaks, which ends them at the next line they write.
    """
    with Popen(
        command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,  # also turns the progress bars' carriage returns into line ends
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            # Whatever went wrong here, nothing may go on training unseen.
            _send(child, signal.SIGKILL)


@contextmanager
def _asking_to_stop(child: Popen[str]) -> Iterator[None]:
    """Ask again and again, as the training processes may not listen yet; after the grace, end them."""
    over = threading.Event()

    def ask() -> None:
        patience = time.monotonic() + _GRACE
        while time.monotonic() < patience:
            _send(child, signal.SIGUSR1)
            if over.wait(1):
                return
        _send(child, signal.SIGKILL)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _send(child: Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
