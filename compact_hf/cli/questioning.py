"""`compact annotate` and `augment`: parsing and talking."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from compact_hf.cli.console import Bar, say, tell, tell_json, tell_table
from compact_hf.cli.options import TERMS, add_terms, shown_on
from compact_hf.cli.parser import command

_DATASET: Final = "org/name[@revision][/config] on the Hub, a folder such as a release, or LLaVA's JSON file"
_ASKED: Final = ("split", "image_root", "verifier", "verifier_url", "max_edge", "seed", *TERMS)
_WRITTEN: Final = ("teacher", "teacher_url", "strict")


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    annotate = command(
        commands,
        "annotate",
        _annotate,
        "say what the questions of a data set need",
        "compact annotate llava_v1_5_mix665k.json --image-root pool --out run --limit 500",
    )
    annotate.add_argument("--json", action="store_true", help="for machines")
    augment = command(
        commands,
        "augment",
        _augment,
        "rewrite the questions of a data set to need one capability more",
        "compact augment org/name --split train --out run --limit 20",
    )
    augment.add_argument("--teacher", metavar="NAME[:MODEL]", help="who rewrites (default: gemini)")
    augment.add_argument("--teacher-url", metavar="URL", help="another server of the teacher's protocol, such as vLLM")
    augment.add_argument(
        "--strict", action="store_true", help="check answers too: confirmed by the verifier, not guessed blindly"
    )
    for parser, judge in ((annotate, "gemini"), (augment, "the teacher")):
        _add_common(parser, judge)


def _add_common(parser: argparse.ArgumentParser, judge: str) -> None:
    parser.add_argument("dataset", metavar="DATASET", help=_DATASET)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder; again: goes on")
    parser.add_argument("--split", metavar="NAME", help="one split of it (default: all)")
    parser.add_argument("--image-root", metavar="DIR", help="where a JSON file's paths start (default: beside it)")
    parser.add_argument("--verifier", metavar="NAME[:MODEL]", help=f"who judges (default: {judge})")
    parser.add_argument("--verifier-url", metavar="URL", help="another server of the verifier's protocol")
    parser.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    parser.add_argument(
        "--max-edge", type=int, default=1024, metavar="PX", help="of the pictures that are sent (default: 1024)"
    )
    add_terms(parser)


def _annotate(chosen: argparse.Namespace) -> int:
    from compact_hf.methods.annotate.annotate import FILE_NAME, annotate, summary_parts

    with Bar("pictures") as bar:
        found = annotate(chosen.dataset, chosen.out, **_settings(chosen, bar, _ASKED))
    if chosen.json:
        tell_json(asdict(found))
        return 0
    for part in summary_parts(found):
        if isinstance(part, str):
            tell(part)
        else:
            tell_table(part.head, part.rows)
    say(f'all of it: load_dataset("parquet", data_files="{chosen.out / FILE_NAME}")')
    return 0


def _augment(chosen: argparse.Namespace) -> int:
    from compact_hf.methods.augment.augment import augment

    with Bar("pictures") as bar:
        standing = augment(chosen.dataset, chosen.out, **_settings(chosen, bar, (*_ASKED, *_WRITTEN)))
    say(
        f"{standing.kept} of {standing.finished} pictures kept, {standing.accepted} questions accepted; next: "
        f"compact status {chosen.out}, compact assemble {chosen.out} --out release --version 1.0.0"
    )
    return 0


def _settings(chosen: argparse.Namespace, bar: Bar, names: tuple[str, ...]) -> dict[str, Any]:
    given = {name: getattr(chosen, name) for name in names}
    return {**given, "on_progress": shown_on(bar), "on_wait": lambda line: bar.note(f"compact: {line}")}
