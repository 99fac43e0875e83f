"""`compact generate`, `annotate`, `augment` and `status`: parsing and output."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import Bar, say, tell, tell_json, tell_table
from compact_hf.cli.options import TERMS, add_terms, ks_in, shown_on
from compact_hf.cli.parser import command
from compact_hf.errors import UsageError

if TYPE_CHECKING:
    from compact_hf.methods.compact.tables import Table
    from compact_hf.runs.run import Standing

_DATASET: Final = "org/name[@revision][/config] on the Hub, a folder such as a release, or LLaVA's JSON file"
_ASKED: Final = ("split", "image_root", "verifier", "verifier_url", "max_edge", "seed", *TERMS)
_WRITTEN: Final = ("teacher", "teacher_url", "strict")


def add_questioning(commands: Any) -> None:
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


_PLANNED: Final = (
    *("teacher", "verifier", "ks", "preset", "strict", "max_edge", "seed", "shard", "limit"),
    *("concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out"),
)
"""What decides how much is asked, and of which run."""
_MORE: Final = ("teacher_url", "verifier_url", "noise")


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    generate = command(
        commands, "generate", _generate, "ask a teacher about pictures", "compact generate photos --out run --limit 20"
    )
    generate.add_argument(
        "source",
        help="a folder of pictures, scenes:N, or hf://datasets/org/name[@revision][/config][?split=NAME] "
        "(of Parquet files only what is asked about is fetched)",
    )
    generate.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder; again: goes on")
    generate.add_argument(
        "--teacher",
        metavar="NAME[:MODEL]",
        help="gemini, gemini-batch, local, openai, scenes (default: by the source)",
    )
    generate.add_argument("--teacher-url", metavar="URL", help="another server of the teacher's protocol, such as vLLM")
    generate.add_argument("--verifier", metavar="NAME[:MODEL]", help="who judges (default: the teacher)")
    generate.add_argument("--verifier-url", metavar="URL", help="as --teacher-url")
    generate.add_argument(
        "--k", dest="ks", type=ks_in, metavar="1,2,3", help="draw each picture's k from these (default: 1,2,3)"
    )
    generate.add_argument(
        "--preset",
        default="paper",
        help="paper (default): a question a request; efficient: several, a quarter of the requests",
    )
    generate.add_argument(
        "--strict", action="store_true", help="check answers too: confirmed by the verifier, not guessed blindly"
    )
    generate.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    generate.add_argument(
        "--max-edge", type=int, default=1024, metavar="PX", help="of the pictures that are sent (default: 1024)"
    )
    add_terms(generate)
    generate.add_argument("--dry-run", action="store_true", help="say what it will take, and ask nothing; needs no key")
    generate.add_argument("--shard", metavar="I/N", help="the I-th of N parts only; numbers are those of all parts")
    generate.add_argument(
        "--runner", choices=("local", "ray"), default="local", help="ray: on the cluster that there is (default: local)"
    )
    generate.add_argument("--shards", type=int, metavar="N", help="with --runner ray: parts to cut the run into")
    generate.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="faults that the teacher scenes plants, 0 to 1"
    )

    status = command(commands, "status", _status, "what a run has done so far", "compact status run")
    status.add_argument("run_folder", metavar="RUN", type=Path, help="a run, or a folder that holds its shards")
    status.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    status.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")
    status.add_argument("--json", action="store_true", help="for machines")


def _generate(chosen: argparse.Namespace) -> int:
    settings = {name: getattr(chosen, name) for name in (*_PLANNED, *_MORE)}
    if chosen.runner == "ray" and (chosen.shards is None or chosen.shard is not None):
        raise UsageError("--runner ray cuts the run itself: give --shards N, and no --shard")
    if chosen.runner == "local" and chosen.shards is not None:
        raise UsageError("--shards N needs --runner ray; for one part of a run on this machine give --shard I/N")
    if chosen.dry_run:
        return _plan(chosen.source, chosen.out, {name: settings[name] for name in _PLANNED})
    with Bar("pictures") as bar:
        standing = _generated(chosen, settings, bar)
    say(
        f"{standing.kept} of {standing.finished} pictures kept, {standing.accepted} questions accepted; next: "
        f"compact status {chosen.out}, compact assemble {chosen.out} --out release --version 1.0.0"
    )
    return 0


def _generated(chosen: argparse.Namespace, settings: dict[str, Any], bar: Bar) -> Standing:
    from compact_hf.methods.compact.generate import generate

    if chosen.runner == "ray":
        from compact_hf.runs.ray import generate_on_ray

        del settings["shard"]
        return generate_on_ray(
            generate, chosen.source, chosen.out, shards=chosen.shards, on_progress=shown_on(bar), **settings
        )

    def wait(line: str) -> None:
        bar.note(f"compact: {line}")

    return generate(chosen.source, chosen.out, on_progress=shown_on(bar), on_wait=wait, **settings)


def _plan(source: str, out: Path, settings: dict[str, Any]) -> int:
    from compact_hf.methods.compact.dry_run import plan
    from compact_hf.methods.compact.tables import forecast_parts

    _tell_parts(forecast_parts(plan(source, out, **settings)))
    return 0


def _status(chosen: argparse.Namespace) -> int:
    from compact_hf.methods.compact.status import status
    from compact_hf.methods.compact.tables import status_parts

    found = status(chosen.run_folder, price_in=chosen.price_in, price_out=chosen.price_out)
    if chosen.json:
        tell_json(asdict(found))
        return 0
    _tell_parts(status_parts(found))
    return 0


def _tell_parts(parts: Iterator[str | Table]) -> None:
    for part in parts:
        if isinstance(part, str):
            tell(part)
        else:
            tell_table(part.head, part.rows)
