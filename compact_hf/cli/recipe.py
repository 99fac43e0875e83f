"""`compact recipe list`, `show` and `copy`: parsing and talking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_hf.cli.console import say, tell, tell_json, tell_table
from compact_hf.cli.parser import command


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "the training recipes that come along"
    recipe = commands.add_parser(
        "recipe", help=purpose, description=purpose, epilog="example: compact recipe list", allow_abbrev=False
    )
    verbs = recipe.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = command(verbs, "list", _list, "their names and what they are for", "compact recipe list")
    listed.add_argument("--json", action="store_true", help="as JSON")
    show = command(verbs, "show", _show, "print one: a YAML for trl sft", "compact recipe show llava15-7b-lora")
    show.add_argument("name", metavar="NAME", help="of the list")
    copy = command(
        verbs,
        "copy",
        _copy,
        "write one and the chat template side by side, to change them or for another base",
        "compact recipe copy llava15-7b-lora-1gpu --out mine --model org/base",
    )
    copy.add_argument("name", metavar="NAME", help="of the list")
    copy.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="a folder (default: this one)")
    copy.add_argument("--model", metavar="ID", help="the base to start from: a repository or a folder")


def _list(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_names, recipe_purpose

    purposes = {name: recipe_purpose(name) for name in recipe_names()}
    if chosen.json:
        tell_json(purposes)
    else:
        tell_table(("recipe", "what it is for"), list(purposes.items()))
    return 0


def _show(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_path

    tell(recipe_path(chosen.name).read_text(encoding="utf-8").rstrip())
    return 0


def _copy(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import copy_recipe

    copy = copy_recipe(chosen.name, chosen.out, model=chosen.model)
    say(f"the chat template is in {copy.template}; next: trl sft --config {copy.recipe} --output_dir OUT")
    tell(str(copy.recipe))
    return 0
