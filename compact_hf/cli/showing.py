"""`compact show`: parsing and talking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_hf.cli.console import say, tell
from compact_hf.cli.parser import command


def add(commands: Any) -> None:
    """Add this command to the parser."""
    show = command(
        commands,
        "show",
        _show,
        "look at pictures with their questions: a contact sheet, HTML and PNG",
        "compact show run --capability counting --rejects",
    )
    show.add_argument("where", metavar="RUN_OR_DIR_OR_REPO", help="a run, a release, or org/name[@revision] on the Hub")
    show.add_argument("--k", type=int, metavar="K", help="only pictures of this k")
    show.add_argument("--capability", metavar="NAME", help="only questions that were to need it, such as counting")
    show.add_argument("--rejects", action="store_true", help="of a run: the drafts that were dropped, and why")
    show.add_argument("--n", type=int, default=12, metavar="N", help="so many pictures, 1 to 120 (default: 12)")
    show.add_argument("--seed", type=int, default=0, help="another one shows other pictures (default: 0)")
    show.add_argument("--out", type=Path, metavar="DIR", help="for the two files (default: NAME-sheet, here)")


def _show(chosen: argparse.Namespace) -> int:
    from compact_hf.dataset.show import show

    sheet = show(
        chosen.where,
        chosen.out,
        k=chosen.k,
        capability=chosen.capability,
        rejects=chosen.rejects,
        n=chosen.n,
        seed=chosen.seed,
    )
    say(f"{sheet.shown} {'picture' if sheet.shown == 1 else 'pictures'}; open the page in a browser")
    tell(str(sheet.page))
    tell(str(sheet.picture))
    return 0
