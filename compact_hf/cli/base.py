"""`compact base assemble`: parsing and talking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_hf.cli.console import Bar, bars_on_a_terminal, say, tell, tell_table
from compact_hf.cli.parser import command

_MEGA = 1_000_000


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "the model that instruction tuning starts from"
    base = commands.add_parser(
        "base",
        help=purpose,
        description=purpose,
        epilog="example: compact base assemble --out base",
        allow_abbrev=False,
    )
    ones = base.add_subparsers(title="commands", metavar="COMMAND", required=True)
    assemble = command(
        ones,
        "assemble",
        _assemble,
        "put a LLaVA-1.5 together as it is before instruction tuning, from Vicuna, CLIP and the pre-trained projector",
        "compact base assemble --out llava-base",
    )
    assemble.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty, or the same base")
    place = "a folder, or ORG/NAME[@REVISION] on the Hub"
    assemble.add_argument("--language-model", metavar="PLACE", help=f"a Llama: {place} (default: lmsys/vicuna-7b-v1.5)")
    assemble.add_argument(
        "--vision-tower", metavar="PLACE", help=f"a CLIP: {place} (default: openai/clip-vit-large-patch14-336)"
    )
    assemble.add_argument(
        "--projector", metavar="PLACE", help=f"mm_projector.bin, or {place} with it (default: LLaVA-1.5's for the two)"
    )
    assemble.add_argument(
        "--dtype",
        choices=("stored", "float16", "bfloat16", "float32"),
        default="stored",
        help="round all weights to it (default: each as it is stored; loading rounds)",
    )
    assemble.add_argument("--push", metavar="ORG/NAME", help="publish it as a model repository too, in one piece")
    assemble.add_argument("--private", action="store_true", help="create that repository private; refuse a public one")
    assemble.add_argument("--dry-run", action="store_true", help="look the parts up and say what it would take, only")


def _assemble(chosen: argparse.Namespace) -> int:
    from compact_hf.models.llava.assemble import assemble_base

    bars_on_a_terminal()
    given = {
        "language_model": chosen.language_model,
        "vision_tower": chosen.vision_tower,
        "projector": chosen.projector,
    }
    with Bar("megabytes written") as bar:
        assembled = assemble_base(
            chosen.out,
            **{name: place for name, place in given.items() if place is not None},
            dtype=chosen.dtype,
            push_to=chosen.push,
            private=chosen.private,
            dry_run=chosen.dry_run,
            on_note=bar.note,
            on_progress=lambda done, total: bar.show(done // _MEGA, total // _MEGA),
        )
    if chosen.dry_run:
        tell_table(("part",), [(part,) for part in assembled.parts])
        say(
            f"{assembled.out} would be at most {-(-assembled.room.out // _MEGA)} MB with {assembled.rows} rows of "
            f"vocabulary; to download: {-(-assembled.room.download // _MEGA)} MB"
        )
        return 0
    say(f"next: compact tune RECIPE --model_name_or_path {chosen.push or assembled.out}")
    tell(assembled.pushed.url if assembled.pushed else str(assembled.out))
    return 0
