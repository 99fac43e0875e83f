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
from compact_hf.training.arguments import make_parser, parse_settings
from compact_hf.training.child_output import KILLED_STATUS
from compact_hf.training.recipes import check_recipe_keys

_LATE_VARIABLES: Final = ("ACCELERATE_", "MASTER_", "OMP_NUM_THREADS", "KMP_")
"""Variables that need not be set before torch is imported. The KMP ones are Intel OpenMP's, which PyPI's torch is not
built with; the number of threads can be set later by torch itself."""


def main(arguments: Sequence[str]) -> None:
    """Start the script in as many processes as recipe and command line say, and wait for their end."""
    from accelerate.commands import launch as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    check_recipe_keys(parse_settings(arguments))
    # Only the training processes act on it; a launcher that is ended by it would leave them behind.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    *_, recipe_args, option_args = make_parser("compact tune").parse_args_and_config(
        arguments, return_remaining_strings=True, separate_remaining_strings=True
    )
    launcher_args = resolve_accelerate_config_argument([*recipe_args, *option_args])
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
    # Which launcher it takes, accelerate alone decides, from its configuration file and the devices that there are.
    accelerate_launch.simple_launcher = partial(_train_in_process, script_args, accelerate_launch.simple_launcher)
    try:
        accelerate_launch.launch_command(launch_args)
    except CalledProcessError as error:
        # As a shell tells it, a signal's number behind 128.
        raise SystemExit(error.returncode if error.returncode > 0 else 128 - error.returncode) from None
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode != -signal.SIGKILL:
            raise
        raise SystemExit(KILLED_STATUS) from None


def _train_in_process(
    script_args: Sequence[str], start_process: Callable[[Namespace], None], launch_args: Namespace
) -> None:
    """Train in this process as in the one that accelerate would start; start it if it needs another environment."""
    import torch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    _, environment = prepare_simple_launcher_cmd_env(launch_args)
    changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    # CUDA_VISIBLE_DEVICES, for one, has no effect once CUDA is initialized.
    if launch_args.mpirun_hostfile is not None or not all(name.startswith(_LATE_VARIABLES) for name in changed):
        start_process(launch_args)
        return
    os.environ |= changed
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sft.prepare_process()
    sft.main(script_args)


if __name__ == "__main__":
    sys.exit(sft.run(main, sys.argv[1:]))
