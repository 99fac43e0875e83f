"""`compact adapter merge`: parsing and talking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_hf.cli.console import say, tell
from compact_hf.cli.parser import command


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "what to do with a LoRA adapter"
    adapter = commands.add_parser("adapter", help=purpose, description=purpose, allow_abbrev=False)
    merge = command(
        adapter.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "merge",
        _merge,
        "make one model of a base and its adapter",
        "compact adapter merge student --out merged",
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="a folder, or a repository on the Hub")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty")
    merge.add_argument(
        "--base", metavar="DIR_OR_REPO", help="where its base lies now (default: where the adapter's config says)"
    )


def _merge(chosen: argparse.Namespace) -> int:
    from compact_hf.training.merge_adapter import merge_adapter

    out = merge_adapter(chosen.adapter, chosen.out, base=chosen.base, on_progress=say)
    say(f"next: compact publish {out} ORG/NAME")
    tell(str(out))
    return 0
