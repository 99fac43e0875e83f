"""Tunes a model with a recipe, in child processes.

    compact tune llava15-7b-lora --dataset_name release --output_dir student

A child process of the same Python, `python -m compact_hf.training.launch --config RECIPE`, starts as many training
processes as the recipe configures. Each of them runs TRL's `sft` with our trainer (sft.py). The same call resumes from
the last complete checkpoint, and returns at once if training is finished.
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
from io import FileIO
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from types import MappingProxyType
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.card import CARD, is_edited, read_card
from compact_hf.models.registry import iter_families
from compact_hf.storage import translate_disk_errors
from compact_hf.training.checkpoints import init_output_dir, pin_base, pin_revision, read_finished_record
from compact_hf.training.child_output import ChildOutput, is_own_error
from compact_hf.training.inputs import bind_inputs
from compact_hf.training.model_card import write_card
from compact_hf.training.recipes import read_recipe, recipe_path
from compact_hf.training.trained_parts import PROJECTOR_LR_RATIO, format_train, parse_train

_DEFAULT_LEARNING_RATE: Final = 2e-5
"""TRL's default, for recipes without a learning rate."""
_COMMAND_LINE_OPTIONS: Final = {
    "dataset_revision": "--revision",
    "projector_learning_rate": "--projector-lr",
    "train": "--train",
}
"""Arguments of the training script that TRL does not have, which a recipe may not contain, and their options."""
_STOP_TIMEOUT: Final = 900.0
"""Seconds after Ctrl-C in which the current step and a checkpoint have to be finished."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a finished training run.

    Attributes:
        output_dir (`Path`): directory of the model, or of the adapter if the recipe sets `use_peft`.
        steps (`int`): number of optimizer steps.
        loss (`tuple[tuple[int, float], ...]`): (step, training loss in nats per answer token) as logged.
        seconds (`float`): training time without start-up, over all calls that resumed the run.
        was_finished (`bool`): whether training had finished before this call, which then did nothing.
    """

    output_dir: Path
    steps: int
    loss: tuple[tuple[int, float], ...]
    seconds: float
    was_finished: bool = False


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A recipe with all settings that replace its own or are added to them.

    Attributes:
        recipe (`Path`): the YAML file.
        settings (`Mapping[str, Any]`): the recipe's settings with the overrides applied.
        options (`tuple[str, ...]`): options for the training script, after `--config RECIPE`.
        output_dir (`Path`): the directory that the model is written to.
    """

    recipe: Path
    settings: Mapping[str, Any]
    options: tuple[str, ...]
    output_dir: Path


def build_job(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
    train: str | None = None,
) -> TrainingJob:
    """Return the job for a recipe with overrides applied, and dataset and base pinned to their commits.

    Args:
        recipe (`Path` or `str`): as for `tune`.
        overrides (`Mapping[str, str]`, *optional*): as for `tune`.
        revision (`str`, *optional*): as for `tune`.
        projector_learning_rate (`float`, *optional*): as for `tune`.
        train (`str`, *optional*): as for `tune`.

    Raises:
        UsageError: if `train` cannot be parsed, the recipe was not found, or names no `output_dir`.
        TuningError: if the recipe has a key of ours, or TRL is not installed.
        HubError: if the dataset's revision cannot be found on the Hub, or the Hub cannot be reached.
    """
    path = recipe_path(recipe)
    recipe_settings = read_recipe(path)
    for key, option in _COMMAND_LINE_OPTIONS.items():
        if key in recipe_settings:
            raise TuningError(
                f"recipe {path} has the key {key}, which plain trl sft does not accept: remove it and give {option} "
                "on the command line"
            )
    settings: dict[str, Any] = {**recipe_settings, **overrides}
    # Looked up without importing it, because the import takes seconds.
    if find_spec("trl") is None:
        raise TuningError("tuning needs TRL, which is not installed: pip install 'compact_hf[tune]'")
    if not settings.get("output_dir"):
        raise UsageError(f"recipe {path} has no output_dir, and none was given: give --output_dir")
    # Options of the training script: only what differs from the recipe, which the script reads itself.
    script_settings = dict(overrides)
    if not settings.get("datasets"):
        name, commit = pin_revision(str(settings.get("dataset_name", "")), revision)
        script_settings["dataset_name"] = settings["dataset_name"] = name
        revision = commit
    elif revision:
        raise TuningError(
            "a revision can only be given for dataset_name, but the recipe has a mixture of `datasets`: leave it out"
        )
    if base_revision := pin_base(str(settings.get("model_name_or_path", "")), settings.get("model_revision")):
        script_settings["model_revision"] = settings["model_revision"] = base_revision
    if train is not None:
        parts = parse_train(
            train,
            # Booleans in a recipe, texts in overrides.
            use_peft=str(settings.get("use_peft", "")).lower() == "true",
            learning_rate=_get_learning_rate(settings),
            projector_learning_rate=projector_learning_rate,
        )
        # The parts now contain the projector's learning rate.
        train, projector_learning_rate = format_train(parts), None
    elif projector_learning_rate is None and _saves_projector(settings):
        # LLaVA's default, for a LoRA with a projector that is trained in full.
        projector_learning_rate = PROJECTOR_LR_RATIO * _get_learning_rate(settings)
    extras = {"dataset_revision": revision, "projector_learning_rate": projector_learning_rate, "train": train}
    script_settings |= {key: str(value) for key, value in extras.items() if value is not None}
    options = tuple(argument for key, value in script_settings.items() for argument in (f"--{key}", value))
    return TrainingJob(path, {**settings, **extras}, options, Path(str(settings["output_dir"])))


def _get_learning_rate(settings: Mapping[str, Any]) -> float:
    return float(settings.get("learning_rate", _DEFAULT_LEARNING_RATE))


def _saves_projector(settings: Mapping[str, Any]) -> bool:
    """Return whether a recipe trains a LoRA with a projector in full; any family's projector counts."""
    saved = str(settings.get("lora_modules_to_save") or "")
    projectors = (family.parts["projector"] for family in iter_families() if "projector" in family.parts)
    return any(module in saved for projector in projectors for module in projector.modules)


def tune(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
    train: str | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train with a recipe and wait until training ends; the same call resumes an interrupted run.

    To train on several machines, make the call on each of them, with its own `machine_rank` and with the same
    `num_machines`, `main_process_ip` and `main_process_port`, as for `accelerate launch`. All of them need access to
    `output_dir`, on a shared disk.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.
        overrides (`Mapping[str, str]`, *optional*): settings that replace the recipe's: `{"output_dir": "student"}`.
        revision (`str`, *optional*): branch, tag or commit of the repository `dataset_name`, which may also be written
            as `dataset_name@revision`. The run is pinned to its current commit.
        projector_learning_rate (`float`, *optional*): the projector's own learning rate; defaults to a tenth of
            `learning_rate` if the recipe trains a LoRA with the projector in full, as LLaVA does, else to
            `learning_rate`.
        train (`str`, *optional*): the parts of the model to train, with methods and learning rates, as `parse_train`
            reads them: `projector:full@2e-5,language_model:lora,tower:lora`. By default the recipe decides.
        log (`Path`, *optional*): file for the output of training; later calls append to it.
        on_line (`Callable[[str], None]`, *optional*): called with each line of output, progress bars included, except
            the line of the error that is raised.

    Returns:
        `TrainingResult`: the directory of the model, steps, loss and time.

    Raises:
        UsageError: if `output_dir` holds something else, a run with other settings, or one that was started with other
            contents of data, base or chat template; `train` cannot be parsed or names a part that the base's family
            does not have; there is no `output_dir`; or the recipe, the base, or the config or split of the dataset does
            not exist.
        StoppedEarly: on Ctrl-C; the same call resumes.
        TuningError: if recipe, base or dataset cannot be read, TRL is not installed, or training failed. The message
            has the line with the cause, the log the whole output.
        HubError: if the dataset's revision cannot be found on the Hub.
    """
    job = build_job(
        recipe,
        overrides=overrides,
        revision=revision,
        projector_learning_rate=projector_learning_rate,
        train=train,
    )
    init_output_dir(job.output_dir, job.settings)
    bind_inputs(job.output_dir, job.settings, on_note=on_line or (lambda line: None))
    # Training had finished before this call: nothing is left to do.
    if record := read_finished_record(job.output_dir):
        # Without a card if the disk was full, or the process was killed before it wrote one.
        if not (job.output_dir / CARD).exists():
            write_card(job.output_dir, settings=record["settings"])
        return _build_result(job.output_dir, record, was_finished=True)
    if is_edited(read_card(job.output_dir)):
        raise UsageError(
            f"{job.output_dir / CARD} was edited by hand and training would replace it: move it to another directory, "
            "and put it back after training"
        )
    _check_bfloat16_support(job)
    command = [sys.executable, "-m", "compact_hf.training.launch", "--config", str(job.recipe), *job.options]
    output, status = _run_child(command, log=log, on_line=on_line, output_dir=job.output_dir)
    record = read_finished_record(job.output_dir)
    if status != 0:
        raise output.build_error(status, log)
    if record is None:
        raise TuningError(
            f"{job.output_dir} has no training record: output_dir has to be on a disk that all machines share"
        )
    # With several machines, only the main one writes the card.
    if str(job.settings.get("machine_rank", 0)) == "0":
        write_card(job.output_dir, settings=record["settings"])
    return _build_result(job.output_dir, record, was_finished=False)


def _build_result(output_dir: Path, record: Mapping[str, Any], *, was_finished: bool) -> TrainingResult:
    loss = tuple((int(step), float(value)) for step, value in record["loss"])
    return TrainingResult(
        output_dir, steps=record["steps"], loss=loss, seconds=record["seconds"], was_finished=was_finished
    )


def _check_bfloat16_support(job: TrainingJob) -> None:
    """Raise if the recipe trains in bfloat16 on a GPU and torch finds none that supports it."""

    def is_true(key: str) -> bool:
        return str(job.settings.get(key, "")).lower() == "true"

    if not is_true("bf16") or is_true("use_cpu"):
        return
    from transformers.utils import is_torch_bf16_gpu_available

    if not is_torch_bf16_gpu_available():
        raise TuningError(
            f"recipe {job.recipe.stem} trains in bfloat16, but torch finds no GPU that supports it: use a machine with "
            "such a GPU, or try `--dry-run` or `compact tune tiny-cpu` on this one"
        )


def _run_child(
    command: list[str], *, log: Path | None, on_line: Callable[[str], None] | None, output_dir: Path
) -> tuple[ChildOutput, int]:
    """Run the command until it ends; return the relevant lines of its output and its exit status.

    Raises:
        StoppedEarly: on Ctrl-C, after the child has ended.
    """
    output = ChildOutput()

    def read_line(line: str) -> None:
        output.add_line(line)
        # One of our own errors is raised when the child has ended, and would be shown twice.
        if on_line and not is_own_error(line):
            on_line(line)

    with _open_log(log) as log_file, _start_child(command) as child:
        try:
            for line in _iter_lines(child, log_file):
                read_line(line)
        except KeyboardInterrupt:
            # Keep reading until the training processes have saved a checkpoint and ended.
            with _request_stop(child):
                for line in _iter_lines(child, log_file):
                    read_line(line)
            raise output.build_stop_error(output_dir) from None
        status = child.wait()
    # Popen reports a signal as its negative number; shells and the launcher report 128 + its number.
    return output, status if status >= 0 else 128 - status


def _iter_lines(child: Popen[str], log_file: FileIO | None) -> Iterator[str]:
    """Yield the child's lines that are not blank, and write them to the log."""
    # Ends when all processes that hold the pipe have ended, including the training processes of the launcher.
    for raw_line in child.stdout or ():
        if line := raw_line.rstrip():
            if log_file:
                advice = "free disk space and run the same command again to resume"
                with translate_disk_errors(TuningError, log_file.name, advice):
                    log_file.write(f"{line}\n".encode())
            yield line


@contextmanager
def _open_log(log: Path | None) -> Iterator[FileIO | None]:
    """Open the log for appending, if there is one."""
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    # Without a buffer, whose contents could not be written when the file is closed.
    with log.open("ab", buffering=0) as log_file:
        yield log_file


@contextmanager
def _start_child(command: list[str]) -> Iterator[Popen[str]]:
    """Start the command in a new session, so that it and all its child processes can be stopped together.

    If this process is killed, the pipe breaks, which ends them when they write their next line.
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
        start_new_session=True,  # Ctrl-C in the terminal does not reach the child; `_request_stop` stops it
    ) as child:
        try:
            yield child
        finally:
            # Leave no training process running in the background, whatever error occurred here.
            _send_signal(child, signal.SIGKILL)


@contextmanager
def _request_stop(child: Popen[str]) -> Iterator[None]:
    """Send the stop signal once per second until the block ends; kill the processes after `_STOP_TIMEOUT`.

    The signal is repeated because a training process may not have installed its handler yet.
    """
    finished = threading.Event()

    def send_requests() -> None:
        deadline = time.monotonic() + _STOP_TIMEOUT
        while time.monotonic() < deadline:
            _send_signal(child, signal.SIGUSR1)
            if finished.wait(1):
                return
        _send_signal(child, signal.SIGKILL)

    thread = threading.Thread(target=send_requests, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _send_signal(child: Popen[str], signal_number: signal.Signals) -> None:
    # The child leads a session of its own, so its process id is also that of the group. If there is no such group, all
    # of its processes have ended.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal_number)
