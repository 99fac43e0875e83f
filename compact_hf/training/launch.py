"""Starts the training processes of a recipe through accelerate, as `trl sft` does, but with our training script.

    python -m compact_hf.training.launch --config recipe.yaml --output_dir student

Keys of the recipe or of the command line that the training script does not know (`accelerate_config`, `num_processes`,
`num_machines`, ...) are passed to `accelerate launch`. If accelerate would start a single process, training runs in
this one: a second interpreter would import torch and TRL again, which takes longer than a short training run.
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
from compact_hf.training.arguments import make_parser, parse_settings
from compact_hf.training.child_output import KILLED_STATUS
from compact_hf.training.recipes import check_recipe_keys

_LATE_VARIABLES: Final = ("ACCELERATE_", "MASTER_", "OMP_NUM_THREADS", "KMP_")
"""Variables that still take effect, or do not matter, after torch was imported: the KMP ones are Intel OpenMP's, which
PyPI's torch is not built with, and torch can set the number of threads later."""


def main(arguments: Sequence[str]) -> None:
    """Start the training script in the configured number of processes and wait until they end.

    Args:
        arguments (`Sequence[str]`): `--config RECIPE` and options that replace the recipe's settings.

    Raises:
        UsageError: if the recipe has a key that neither TRL nor accelerate knows.
        SystemExit: if a training process fails, with its exit status.
    """
    from accelerate.commands import launch as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    check_recipe_keys(parse_settings(arguments))
    # SIGUSR1 asks the training processes to stop. It would kill the launcher, which would leave them running.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    *_, recipe_args, option_args = make_parser("compact tune").parse_args_and_config(
        arguments, return_remaining_strings=True, separate_remaining_strings=True
    )
    launcher_args = resolve_accelerate_config_argument([*recipe_args, *option_args])
    # Remove the launcher's options from the arguments; the rest, in order, are the training script's.
    remaining = iter(option_args)
    next_option = next(remaining, None)
    script_args: list[str] = []
    for argument in arguments:
        if argument == next_option:
            next_option = next(remaining, None)
        else:
            script_args.append(argument)
    launch_args = accelerate_launch.launch_command_parser().parse_args(
        [*launcher_args, "--module", sft.__name__, *script_args]
    )
    if launch_args.num_processes is not None:
        os.environ[sft.PROCESSES_VARIABLE] = str(launch_args.num_processes)
    # accelerate chooses the launcher from its configuration file and the devices. Replacing `simple_launcher` affects
    # only the case of a single process.
    accelerate_launch.simple_launcher = partial(_train_in_process, script_args, accelerate_launch.simple_launcher)
    try:
        accelerate_launch.launch_command(launch_args)
    except CalledProcessError as error:
        # A process killed by a signal has a negative return code; shells report 128 + the signal's number.
        raise SystemExit(error.returncode if error.returncode > 0 else 128 - error.returncode) from None
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode != -signal.SIGKILL:
            raise
        raise SystemExit(KILLED_STATUS) from None


def _train_in_process(
    script_args: Sequence[str], start_process: Callable[[Namespace], None], launch_args: Namespace
) -> None:
    """Train in this process instead of starting one, unless that one needs another environment."""
    import torch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    _, environment = prepare_simple_launcher_cmd_env(launch_args)
    changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    # Other variables are read only once: CUDA_VISIBLE_DEVICES, for example, when CUDA is initialized.
    if launch_args.mpirun_hostfile is not None or not all(name.startswith(_LATE_VARIABLES) for name in changed):
        start_process(launch_args)
        return
    os.environ |= changed
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sft.prepare_process()
    sft.main(script_args)


if __name__ == "__main__":
    sys.exit(sft.run(main, sys.argv[1:]))
