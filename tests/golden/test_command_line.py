"""Every command's options, and the exit status of typical calls, are golden.

The options are read from the parsers, without the sentences that explain them. The calls are really made, in this
process, in a copy of what version 0.1.0 left.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main, make_parser

Golden = Callable[[str, str], None]

FIXTURES = Path(__file__).parent / "made_by_0_1_0"

CALLS = """
--version
--help
genrate
generate --help
generate
generate scenes:39-45 --teacher scenes --seed 7 --out run
generate scenes:2 --out new
generate scenes:2 --out new --seed 1
generate scenes:3 --out small --max-requests 1
generate scenes:3 --out small
generate scenes:2 --out dry --dry-run
generate scenes:0 --out bad
generate scenes:2 --out bad --k 0
generate scenes:2 --out bad --k one
generate scenes:2 --out bad --preset fast
generate scenes:2 --out bad --shard 3/2
generate scenes:2 --out bad --runner ray
generate scenes:2 --out images
generate nowhere --out bad --teacher gemini
generate images --out bad
status run
status run --json
status shards
status nowhere
status run --jsn
annotate questions.json --image-root scenes:39-45 --seed 7 --verifier scenes --out annotated
annotate questions.json --image-root scenes:39-45 --seed 7 --verifier scenes --out annotated --json
annotate questions.json --image-root scenes:39-45 --seed 8 --verifier scenes --out annotated
annotate questions.json --image-root scenes:39-45 --verifier scenes --out short --max-requests 1
annotate nowhere.json --verifier scenes --out bad
augment questions.json --image-root scenes:39-45 --seed 7 --teacher scenes --out augmented
augment questions.json --image-root scenes:39-45 --teacher nobody --out bad
augment nowhere --out bad
assemble run --version 1.0.0 --out images
assemble run --version one --out bad
assemble run --out bad
assemble run --version 1.0.0 --out bad --keep-similar --max-similarity 0.5
assemble run --version 1.0.0 --out bad --questions 1000
assemble run --version 1.0.0 --out bad --image-root images
assemble nowhere --version 1.0.0 --out bad
assemble annotated --version 1.0.0 --out bad
export dataset --format llava --out llava
export dataset --format messages --out images
export dataset --format other --out bad
export nowhere --format llava --out bad
validate dataset
validate images
validate nowhere
diff dataset dataset
diff dataset dataset --json
diff dataset nowhere
publish dataset org/name --dry-run
publish dataset name
publish dataset org/name
publish nowhere org/name
publish dataset org/name --base org/base
show run --out sheet
show dataset --out sheet-k1 --k 1
show dataset --out sheet --rejects
show nowhere --out sheet
tune lora.yaml --output_dir lora
tune lora.yaml --output_dir lora --learning_rate 0.1
tune lora.yaml --output_dir images
tune lora.yaml --output_dir lora --json
tune tiny-gpu
tune tiny-cpu output_dir x
evaluate base dataset --split train --out evaluation --match relaxed
evaluate base dataset --split test --out bad
evaluate base scenes:4 --out plan --dry-run
evaluate base base scenes:4 --out bad
evaluate base --out bad
evaluate nowhere scenes:4 --out bad
evaluate base scenes:4 --out images
evaluate base scenes:4 --out bad --limit 0
analyze dataset
analyze annotated --json
analyze dataset --config a,b,c
analyze nowhere
benchmarks command base
benchmarks command nowhere
benchmarks tasks dataset --out tasks
benchmarks tasks nowhere --out bad
benchmarks table evaluation
benchmarks table nowhere
benchmarks table nowhere --markdown --json
ablate experiment.yaml --out ablation --dry-run
ablate k-range --show
ablate experiment.yaml
ablate nothing --out bad
ablate experiment.yaml --out images
base
base assemble --out base --language-model nowhere --vision-tower nowhere --projector nowhere
base assemble --out bad --dtype int8
recipe list
recipe show tiny-cpu
recipe show tiny-gpu
recipe copy tiny-cpu --out recipes
adapter merge lora --out images
adapter merge base --out bad
adapter merge nowhere --out bad
demo --out images
demo --out bad --scenes 3
completion bash
completion fish
"""
"""One call a line, in this order: a later one may build on what an earlier one left. None may need the network.

That assemble, adapter merge, evaluate and ablate end with 0 is seen in test_made_by_0_1_0.py: they take seconds.
"""


def describe_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a parser's lines, arguments in their order and options by name, then those of its commands."""
    exclusives = {
        id(member): group._group_actions
        for group in parser._mutually_exclusive_groups
        for member in group._group_actions
    }
    commands: dict[str, argparse.ArgumentParser] = {}
    arguments, options = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands |= action.choices
            arguments.append(f"  COMMAND: {', '.join(sorted(commands))}{'' if action.required else '; optional'}")
        else:
            others = [member for member in exclusives.get(id(action), ()) if member is not action]
            line = f"  {_describe_action(action, others)}"
            (options if action.option_strings else arguments).append(line)
    yield from (parser.prog, *arguments, *sorted(options), "")
    for name in sorted(commands):
        yield from describe_parser(commands[name])


def _describe_action(action: argparse.Action, exclusives: Sequence[argparse.Action]) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    kind = action.type.__name__ if action.type in (int, float) else "text"
    default = None if action.default is argparse.SUPPRESS else action.default
    if isinstance(default, Path | tuple):
        default = str(default) if isinstance(default, Path) else list(default)
    properties = {
        "metavar": action.metavar if action.option_strings else None,
        # How an option's text is checked shows in the exit statuses.
        "takes": "nothing" if action.nargs == 0 else kind,
        "nargs": action.nargs or None,
        "choices": list(action.choices) if action.choices else None,
        "default": default,
        "sets": action.const if type(action).__name__ == "_StoreConstAction" else None,
        "repeats": True if type(action).__name__ == "_AppendAction" else None,
        "required": True if action.option_strings and action.required else None,
        "excludes": sorted(member.option_strings[0] for member in exclusives) or None,
    }
    text = "; ".join(f"{key} {value!r}" for key, value in properties.items() if value is not None)
    return f"{name}: {text}"


def test_the_options_of_every_command_are_golden(golden: Golden) -> None:
    golden("command_options.txt", "\n".join(describe_parser(make_parser())))


def test_the_options_of_tune_behind_the_recipe_are_golden(golden: Golden) -> None:
    """What follows RECIPE is TRL's; what is ours among it is taken out by a parser of its own."""
    parsers: list[argparse.ArgumentParser] = []

    def capture(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
        parsers.append(parser)
        return real_parse(parser, *args, **kwargs)

    real_parse = argparse.ArgumentParser.parse_known_args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", capture)
        assert main(["tune", "no-such-recipe"]) == 2
    golden("command_options_tune.txt", "\n".join(describe_parser(parsers[-1])))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_exit_statuses_are_golden(
    tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(FIXTURES, directory)
    monkeypatch.chdir(directory)
    lines = [f"{exit_status(call.split())}  compact {call}" for call in CALLS.strip().splitlines()]
    capsys.readouterr()
    golden("exit_statuses.txt", "\n".join([*lines, ""]))


def exit_status(arguments: list[str]) -> int | str | None:
    """Return the status with which `compact` ends."""
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code
