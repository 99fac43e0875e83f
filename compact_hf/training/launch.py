"""What `trl sft` does with a recipe, for our script: the recipe's keys in, its processes started by accelerate out.

    python -m compact_hf.training.launch --config recipe.yaml --output_dir student

Keys that the training script does not know (`accelerate_config`, `num_processes`, `num_machines`, ...) go to
`accelerate launch`, from the recipe as from the command line. If accelerate would start a single process, training runs
in this one: a second interpreter would import torch and TRL again, which takes longer than a short training run.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from subprocess import CalledProcessError
from typing import Final

from compact_hf.training import sft
from compact_hf.training.arguments import make_parser, settings_of
from compact_hf.training.child_output import KILLED
from compact_hf.training.recipes import refuse_unknown_keys

_READ_LATE: Final = ("ACCELERATE_", "MASTER_", "OMP_NUM_THREADS", "KMP_")
"""Variables that need not be set before torch is imported. The KMP ones are Intel OpenMP's, which PyPI's torch is not
built with; the number of threads can be set later by torch itself."""


def main(arguments: Sequence[str]) -> None:
    """Start the script in as many processes as recipe and command line say, and wait for their end."""
    from accelerate.commands import launch as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    refuse_unknown_keys(settings_of(arguments))
    # Only the training processes act on it; a launcher that is ended by it would leave them behind.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    *_, of_recipe, of_options = make_parser("compact tune").parse_args_and_config(
        arguments, return_remaining_strings=True, separate_remaining_strings=True
    )
    launcher = resolve_accelerate_config_argument([*of_recipe, *of_options])
    rest = iter(of_options)
    awaited = next(rest, None)
    scripts: list[str] = []
    for argument in arguments:
        if argument == awaited:
            awaited = next(rest, None)
        else:
            scripts.append(argument)
    launched = accelerate_launch.launch_command_parser().parse_args([*launcher, "--module", sft.__name__, *scripts])
    if launched.num_processes is not None:
        os.environ[sft.PROCESSES] = str(launched.num_processes)
    # Which launcher it takes, accelerate alone decides, from its configuration file and the devices that there are.
    accelerate_launch.simple_launcher = partial(_train, scripts, accelerate_launch.simple_launcher)
    try:
        accelerate_launch.launch_command(launched)
    except CalledProcessError as failed:
        # As a shell tells it, a signal's number behind 128.
        raise SystemExit(failed.returncode if failed.returncode > 0 else 128 - failed.returncode) from None
    except ChildFailedError as failed:
        if failed.get_first_failure()[1].exitcode != -signal.SIGKILL:
            raise
        raise SystemExit(KILLED) from None


def _train(scripts: Sequence[str], start_process: Callable[[Namespace], None], launched: Namespace) -> None:
    """Train in this process as in the one that accelerate would start; start it if it needs another environment."""
    import torch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    _, environment = prepare_simple_launcher_cmd_env(launched)
    changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    # CUDA_VISIBLE_DEVICES, for one, has no effect once CUDA is initialized.
    if launched.mpirun_hostfile is not None or not all(name.startswith(_READ_LATE) for name in changed):
        start_process(launched)
        return
    os.environ |= changed
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sft.prepare_process()
    sft.main(scripts)


if __name__ == "__main__":
    sys.exit(sft.run(main, sys.argv[1:]))
