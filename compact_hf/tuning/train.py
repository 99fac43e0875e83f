"""Tuning: a recipe in, a trained model's folder and its loss curve out.

The work is done by the real `trl sft --config RECIPE [--key value ...]`, run as a child process of the same Python,
so that what runs here is what the recipe's own first lines say to run by hand.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from compact_hf.errors import TuningError
from compact_hf.tuning.model_card import write_card
from compact_hf.tuning.recipes import read_recipe, recipe_path

# The launcher's own "CalledProcessError" follows the training script's error and says nothing.
_TELLING: Final = re.compile(
    r"^(?:\[rank\d+\]: )?(?:[\w.]*(?:Error|Exception|Interrupt)\b(?<!CalledProcessError)|.*: error): .+"
)
_GRACE: Final = 10.0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished training run left.

    Attributes:
        output_dir (`Path`): the model's folder (an adapter's, where the recipe says `use_peft`).
        steps (`int`): optimizer steps taken, as far as a checkpoint tells; 0 where the recipe saves none.
        loss (`tuple[tuple[int, float], ...]`): (step, training loss in nats per answer token) as logged.
        seconds (`float`): wall time of the whole command, start-up included.
    """

    output_dir: Path
    steps: int
    loss: tuple[tuple[int, float], ...]
    seconds: float


def tune(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Run `trl sft` with a recipe and wait for its end.

    Args:
        recipe (`Path` or `str`): a YAML file or a shipped recipe's name.
        overrides (`Mapping[str, str]`, *optional*): settings that replace the recipe's: `{"output_dir": "student"}`.
        log (`Path`, *optional*): a file for everything TRL prints.
        on_line (`Callable[[str], None]`, *optional*): called with each line, progress lines too, as they come.

    Raises:
        TuningError: no such recipe, TRL is not installed, no `output_dir`, or the run failed; the message carries
            the line that tells why, the log has the rest.
    """
    path = recipe_path(recipe)
    settings = {**read_recipe(path), **overrides}
    if find_spec("trl") is None:
        raise TuningError("tuning needs TRL, which is not installed: pip install 'compact_hf[tune]'")
    if not settings.get("output_dir"):
        raise TuningError(f"recipe {path} says no output_dir, and none was given; add one to either")
    options = [part for key, value in overrides.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "trl.cli.main", "sft", "--config", str(path), *options]
    began, wall_clock = time.monotonic(), time.time()
    last_telling, status = _run(command, log=log, on_line=on_line)
    if status != 0:
        more = f"; all it said is in {log}" if log else ""
        raise TuningError(f"trl sft ended with status {status}: {last_telling}{more}")
    output_dir = Path(str(settings["output_dir"]))
    steps, loss = _curve(output_dir, since=wall_clock)
    write_card(output_dir, settings=settings)
    return TrainingResult(output_dir, steps=steps, loss=loss, seconds=time.monotonic() - began)


def _run(command: list[str], *, log: Path | None, on_line: Callable[[str], None] | None) -> tuple[str, int]:
    """Run the command; return the last line that tells what went wrong, and the exit status."""
    last = telling = ""
    with _writing(log) as kept, _child(command) as child:
        for raw in child.stdout or ():
            line = raw.rstrip()
            if not line:
                continue
            if kept:
                kept.write(line + "\n")
            if on_line:
                on_line(line)
            last = line
            if _TELLING.match(line):
                telling = line
        status = child.wait()
    return telling or last, status


@contextmanager
def _writing(log: Path | None) -> Iterator[IO[str] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as kept:
        yield kept


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a session of its own, so that all it starts can be stopped together.

    Where this very process is killed, the pipe breaks, which ends them at the next line they write.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,  # also turns the progress bars' carriage returns into line ends
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                _stop(child)


def _stop(child: subprocess.Popen[str]) -> None:
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


def _curve(output_dir: Path, *, since: float) -> tuple[int, tuple[tuple[int, float], ...]]:
    """Return steps and loss from the newest checkpoint of this run; an older run's do not count."""
    states = [path for path in output_dir.glob("checkpoint-*/trainer_state.json") if path.stat().st_mtime >= since]
    if not states:
        return 0, ()
    state = json.loads(max(states, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8"))
    logged = ((entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry)
    return state["global_step"], tuple(logged)
