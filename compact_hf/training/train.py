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
from compact_hf.models.registry import iter_families
from compact_hf.training.checkpoints import init_output_dir, pin_revision, read_finished_record
from compact_hf.training.child_output import ChildOutput
from compact_hf.training.model_card import write_card
from compact_hf.training.recipes import read_recipe, recipe_path
from compact_hf.training.trained_parts import PROJECTOR_LR_RATIO, format_train, parse_train

_DEFAULT_LEARNING_RATE: Final = 2e-5
"""TRL's, for recipes that say none."""
_COMMAND_LINE_OPTIONS: Final = {
    "dataset_revision": "--revision",
    "projector_learning_rate": "--projector-lr",
    "train": "--train",
}
"""The training script's arguments that are not TRL's, and so in no recipe, with the options that give them."""
_STOP_TIMEOUT: Final = 900.0
"""Seconds that a step and a checkpoint may take after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished training run left.

    Attributes:
        output_dir (`Path`): the model's folder (an adapter's, where the recipe says `use_peft`).
        steps (`int`): optimizer steps taken.
        loss (`tuple[tuple[int, float], ...]`): (step, training loss in nats per answer token) as logged.
        seconds (`float`): training time over all the times it was gone on with, start-up not included.
        was_finished (`bool`): it was finished before this call, which did nothing.
    """

    output_dir: Path
    steps: int
    loss: tuple[tuple[int, float], ...]
    seconds: float
    was_finished: bool = False


@dataclass(frozen=True, slots=True)
class TrainingJob:
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


def build_job(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
    train: str | None = None,
) -> TrainingJob:
    """Return what a recipe comes to; arguments and errors as for `tune`."""
    path = recipe_path(recipe)
    recipe_settings = read_recipe(path)
    for key, option in _COMMAND_LINE_OPTIONS.items():
        if key in recipe_settings:
            raise TuningError(
                f"recipe {path} has the key {key}, which plain trl sft does not know; take it out, and give {option} "
                "on the command line"
            )
    settings: dict[str, Any] = {**recipe_settings, **overrides}
    if find_spec("trl") is None:
        raise TuningError("tuning needs TRL, which is not installed: pip install 'compact_hf[tune]'")
    if not settings.get("output_dir"):
        raise TuningError(f"recipe {path} says no output_dir, and none was given; add one to either")
    script_settings = dict(overrides)
    if not settings.get("datasets"):
        name, commit = pin_revision(str(settings.get("dataset_name", "")), revision)
        script_settings["dataset_name"] = settings["dataset_name"] = name
        revision = commit
    elif revision:
        raise TuningError("a revision goes with one dataset_name, not with a mixture of `datasets`; leave it out")
    if train is not None:
        parts = parse_train(
            train,
            use_peft=str(settings.get("use_peft", "")).lower() == "true",
            learning_rate=_get_learning_rate(settings),
            projector_learning_rate=projector_learning_rate,
        )
        train, projector_learning_rate = format_train(parts), None
    elif projector_learning_rate is None and _saves_projector(settings):
        projector_learning_rate = PROJECTOR_LR_RATIO * _get_learning_rate(settings)
    extras = {"dataset_revision": revision, "projector_learning_rate": projector_learning_rate, "train": train}
    script_settings |= {key: str(value) for key, value in extras.items() if value is not None}
    options = tuple(argument for key, value in script_settings.items() for argument in (f"--{key}", value))
    return TrainingJob(path, {**settings, **extras}, options, Path(str(settings["output_dir"])))


def _get_learning_rate(settings: Mapping[str, Any]) -> float:
    return float(settings.get("learning_rate", _DEFAULT_LEARNING_RATE))


def _saves_projector(settings: Mapping[str, Any]) -> bool:
    """Return whether a recipe trains a model family's projector in full beside a LoRA; the base is not looked at."""
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
        train (`str`, *optional*): the parts of the model that are trained, in full or by LoRA, at which rates, as
            `parse_train` reads it: `projector:full@2e-5,language_model:lora,tower:lora`; by default what the recipe
            says.
        log (`Path`, *optional*): a file for everything that training prints; a later call adds to it.
        on_line (`Callable[[str], None]`, *optional*): called with each line, progress lines too, as they come.

    Raises:
        UsageError: `output_dir` holds something else, or a run with other settings; or `train` cannot be read, or names
            a part that the base's family does not have.
        StoppedEarly: Ctrl-C; the same call goes on.
        TuningError: no such recipe, base or dataset, TRL is not installed, no `output_dir`, or training failed; the
            message carries the line that tells why, the log has the rest.
        HubError: the dataset's revision cannot be found on the Hub.
    """
    job = build_job(
        recipe,
        overrides=overrides,
        revision=revision,
        projector_learning_rate=projector_learning_rate,
        train=train,
    )
    init_output_dir(job.output_dir, job.settings)
    if record := read_finished_record(job.output_dir):
        return _build_result(job.output_dir, record, was_finished=True)
    _check_bfloat16_support(job)
    command = [sys.executable, "-m", "compact_hf.training.launch", "--config", str(job.recipe), *job.options]
    output, status = _run_child(command, log=log, on_line=on_line, output_dir=job.output_dir)
    record = read_finished_record(job.output_dir)
    if status != 0:
        raise output.build_error(status, log)
    if record is None:
        raise TuningError(f"no record is in {job.output_dir}; it has to lie on a disk that all machines share")
    if str(job.settings.get("machine_rank", 0)) == "0":
        write_card(job.output_dir, settings=record["settings"])
    return _build_result(job.output_dir, record, was_finished=False)


def _build_result(output_dir: Path, record: Mapping[str, Any], *, was_finished: bool) -> TrainingResult:
    loss = tuple((int(step), float(value)) for step, value in record["loss"])
    return TrainingResult(
        output_dir, steps=record["steps"], loss=loss, seconds=record["seconds"], was_finished=was_finished
    )


def _check_bfloat16_support(job: TrainingJob) -> None:
    def is_true(key: str) -> bool:
        return str(job.settings.get(key, "")).lower() == "true"

    if not is_true("bf16") or is_true("use_cpu"):
        return
    from transformers.utils import is_torch_bf16_gpu_available

    if not is_torch_bf16_gpu_available():
        raise TuningError(
            f"recipe {job.recipe.stem} trains in bfloat16, which takes a GPU, and torch sees none that can; run it "
            "where there is one, try `--dry-run` here, or `compact tune tiny-cpu`"
        )


def _run_child(
    command: list[str], *, log: Path | None, on_line: Callable[[str], None] | None, output_dir: Path
) -> tuple[ChildOutput, int]:
    """Run the command; return what it said and its exit status.

    Raises:
        StoppedEarly: Ctrl-C; the child has ended.
    """
    output = ChildOutput()
    with _open_log(log) as log_file, _start_child(command) as child:
        try:
            for line in _iter_lines(child, log_file):
                output.add_line(line)
                if on_line:
                    on_line(line)
        except KeyboardInterrupt:
            with _request_stop(child):
                for line in _iter_lines(child, log_file):
                    output.add_line(line)
                    if on_line:
                        on_line(line)
            raise output.build_stop_error(output_dir) from None
        status = child.wait()
    # A signal's number as a shell and the launcher report it, behind 128.
    return output, status if status >= 0 else 128 - status


def _iter_lines(child: Popen[str], log_file: IO[str] | None) -> Iterator[str]:
    for raw_line in child.stdout or ():
        if line := raw_line.rstrip():
            if log_file:
                log_file.write(line + "\n")
            yield line


@contextmanager
def _open_log(log: Path | None) -> Iterator[IO[str] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as log_file:
        yield log_file


@contextmanager
def _start_child(command: list[str]) -> Iterator[Popen[str]]:
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
            _send_signal(child, signal.SIGKILL)


@contextmanager
def _request_stop(child: Popen[str]) -> Iterator[None]:
    """Ask again and again, as the training processes may not listen yet; after the grace, end them."""
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
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal_number)
