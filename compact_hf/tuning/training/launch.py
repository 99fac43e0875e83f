"""What `trl sft` does with a recipe, for our script: the recipe's keys in, its processes started by accelerate out.

    python -m compact_hf.tuning.training.launch --config recipe.yaml --output_dir student

Keys that the training script does not know (`accelerate_config`, `num_processes`, `num_machines`, ...) go to
`accelerate launch`, from the recipe as from the command line.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from subprocess import CalledProcessError

from compact_hf.tuning.recipes import refuse_unknown_keys
from compact_hf.tuning.training.inputs import make_parser, settings_of
from compact_hf.tuning.training.sft import PROCESSES, run
from compact_hf.tuning.training.words import KILLED


def main(arguments: Sequence[str]) -> None:
    """Start the script in as many processes as recipe and command line say, and wait for their end."""
    from accelerate.commands.launch import launch_command, launch_command_parser
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
    launched = launch_command_parser().parse_args([*launcher, "--module", "compact_hf.tuning.training.sft", *scripts])
    if launched.num_processes is not None:
        os.environ[PROCESSES] = str(launched.num_processes)
    try:
        launch_command(launched)
    except CalledProcessError as failed:
        # As a shell tells it, a signal's number behind 128.
        raise SystemExit(failed.returncode if failed.returncode > 0 else 128 - failed.returncode) from None
    except ChildFailedError as failed:
        if failed.get_first_failure()[1].exitcode != -signal.SIGKILL:
            raise
        raise SystemExit(KILLED) from None


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
