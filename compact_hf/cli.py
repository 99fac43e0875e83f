"""The command `compact`: parsing and talking only; each command is one call of the Python API.

Data goes to stdout, talk to stderr. Exit 0: done, 1: failed, 2: wrong usage, 3: stopped early and the same command
goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import CompactError, UsageError
from compact_hf.talk import Bar, end_of_data, printable, say, silence, tell, tell_json, tell_table

_EXTRAS: Final = {
    "torch": "tune",
    "transformers": "tune",
    "trl": "tune",
    "peft": "tune",
    "accelerate": "tune",
    "openai": "openai",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        status: int = chosen.run(chosen)
        end_of_data()
    except CompactError as error:
        if chosen.debug:
            raise
        say(f"compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("compact: interrupted; what was finished is kept, run the same command again")
        return 3
    except BrokenPipeError:
        # Whoever read stdout has had enough (`| head`).
        silence(sys.stdout)
        return 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if chosen.debug or package not in _EXTRAS:
            raise
        say(f"compact: this needs {package}, which is not installed; pip install 'compact_hf[{_EXTRAS[package]}]'")
        return 1
    return status


def _demo(chosen: argparse.Namespace) -> int:
    from compact_hf.demo.way import run_demo

    bars: dict[str, Bar] = {}

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = Bar(stage)
        bars[stage].show(done, total, note)

    result = run_demo(chosen.out, scenes=chosen.scenes, steps=chosen.steps, on_progress=show)
    for bar in bars.values():
        bar.close()
    tell(result.summary)
    return 0


def _generate(chosen: argparse.Namespace) -> int:
    from compact_hf.synthesis.compact.generate import generate
    from compact_hf.synthesis.standing import Standing

    with Bar("pictures") as bar:
        failures = 0

        def show(standing: Standing) -> None:
            nonlocal failures
            if standing.failures > failures:
                failures = standing.failures
                bar.note(f"compact: trying again: {standing.last_failure}")
            bar.show(standing.finished, standing.pictures, f"{standing.accepted} questions")

        standing = generate(
            chosen.source,
            chosen.out,
            teacher=chosen.teacher,
            teacher_url=chosen.teacher_url,
            verifier=chosen.verifier,
            verifier_url=chosen.verifier_url,
            ks=chosen.k,
            preset=chosen.preset,
            strict=chosen.strict,
            max_edge=chosen.max_edge,
            seed=chosen.seed,
            shard=chosen.shard,
            noise=chosen.noise,
            limit=chosen.limit,
            concurrency=chosen.concurrency,
            rpm=chosen.rpm,
            tpm=chosen.tpm,
            max_requests=chosen.max_requests,
            max_cost=chosen.max_cost,
            price_in=chosen.price_in,
            price_out=chosen.price_out,
            on_progress=show,
            on_wait=lambda line: bar.note(f"compact: {line}"),
        )
    say(
        f"{standing.kept} of {standing.finished} pictures kept, {standing.accepted} questions accepted; next: "
        f"compact status {chosen.out}, compact assemble {chosen.out} --out release --version 1.0.0"
    )
    return 0


def _status(chosen: argparse.Namespace) -> int:
    from compact_hf.synthesis.compact.status import status
    from compact_hf.synthesis.compact.tables import Table, status_parts

    found = status(chosen.run_folder, price_in=chosen.price_in, price_out=chosen.price_out)
    if chosen.json:
        tell_json(asdict(found))
        return 0
    for part in status_parts(found):
        if isinstance(part, Table):
            tell_table(part.head, part.rows)
        else:
            tell(part)
    return 0


def _assemble(chosen: argparse.Namespace) -> int:
    from compact_hf.release.assemble import assemble

    facts = assemble(
        chosen.runs,
        chosen.out,
        version=chosen.version,
        instruction=chosen.instruction,
        image_root=chosen.image_root,
        instruction_fraction=chosen.instruction_fraction,
        instruction_rows=chosen.instruction_rows,
        seed=chosen.seed,
    )
    tell_table(
        ("config", "train", "validation"),
        [
            (name, facts.rows(*leaves, split="train"), facts.rows(*leaves, split="validation"))
            for name, leaves in facts.configs.items()
        ],
    )
    tell_table(("dropped at", "reason", "count"), [(*why, count) for why, count in sorted(facts.rejects.items())])
    say(f'next: compact validate {chosen.out}; in Python: load_dataset("{chosen.out}")')
    return 0


def _validate(chosen: argparse.Namespace) -> int:
    from compact_hf.release.validate import validate

    report = validate(chosen.release)
    for problem in report.problems:
        tell(printable(f"{problem.check}: {' '.join(filter(None, (problem.file, problem.row, problem.detail)))}"))
    for check, count in report.counts.items():
        say(f"{check}: {count}")
    if not report.is_valid:
        say(f"compact: {chosen.release} is not a valid release: {sum(report.counts.values())} problems")
        return 1
    say(f"{chosen.release} is valid: {sum(report.rows.values())} rows")
    return 0


def _publish(chosen: argparse.Namespace) -> int:
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from compact_hf.release.publish import publish

    if not sys.stderr.isatty():
        disable_progress_bars()
    published = publish(
        chosen.release, chosen.repository, private=chosen.private, dry_run=chosen.dry_run, on_progress=say
    )
    if published.pushed is None:
        tell_table(("file", "bytes"), list(published.files.items()))
        say(f"{published.tag} would be {len(published.files)} files, {sum(published.files.values()):,} bytes")
        return 0
    say(f"next: in Python: load_dataset({chosen.repository!r}, revision={published.tag!r})")
    tell(published.pushed.url)
    return 0


def _tune(chosen: argparse.Namespace) -> int:
    from compact_hf.tuning.train import tune

    result = tune(chosen.recipe, overrides=_overrides(chosen.settings), on_line=say)
    say(
        f"{result.steps} steps in {result.seconds:.0f} s; next: compact evaluate {result.output_dir} scenes:200 --out D"
    )
    tell(str(result.output_dir))
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from compact_hf.evaluation.evaluate import evaluate

    with Bar("questions") as bar:
        results = evaluate(
            chosen.model,
            chosen.dataset,
            chosen.out,
            split=chosen.split,
            swap_pictures=chosen.swap_pictures,
            on_progress=bar.show,
        )
    rows = [("all", results.overall), *((f"k = {k}", score) for k, score in results.by_k.items())]
    rows += results.by_capability.items()
    tell_table(
        ("questions", "n", "accuracy", "95% interval", "majority answer"),
        [
            (
                name,
                score.n,
                f"{score.accuracy:.3f}",
                f"{score.low:.3f} to {score.high:.3f}",
                f"{score.majority.accuracy:.3f}",
            )
            for name, score in rows
        ],
    )
    say(f"all of it is in {chosen.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compact",
        description="Make compositional visual instruction data from your own pictures, tune with it, judge by k.",
        epilog="example: compact demo --out demo-out",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"compact_hf {version('compact_hf')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "the whole way, offline, in minutes", "compact demo --out demo-out")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="a new folder; again: goes on")
    demo.add_argument("--scenes", type=int, default=400, metavar="N", help="pictures to draw (default: 400)")
    demo.add_argument("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")

    _add_data_commands(commands)
    _add_model_commands(commands)
    return parser


def _add_data_commands(commands: Any) -> None:
    generate = _command(
        commands, "generate", _generate, "ask a teacher about pictures", "compact generate photos --out run --limit 20"
    )
    generate.add_argument("source", help="a folder of pictures, or scenes:N")
    generate.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder; again: goes on")
    generate.add_argument(
        "--teacher",
        metavar="NAME[:MODEL]",
        help="gemini, gemini-batch, local, openai, scenes (default: by the source)",
    )
    generate.add_argument("--teacher-url", metavar="URL", help="another server of the teacher's protocol, such as vLLM")
    generate.add_argument("--verifier", metavar="NAME[:MODEL]", help="who judges (default: the teacher)")
    generate.add_argument("--verifier-url", metavar="URL", help="as --teacher-url")
    generate.add_argument("--k", type=_ks, metavar="1,2,3", help="draw each picture's k from these (default: 1,2,3)")
    generate.add_argument("--limit", type=int, metavar="N", help="work on N pictures only, drawn by the seed")
    generate.add_argument(
        "--preset",
        default="paper",
        help="paper (default): a question a request; efficient: several, a third of the price",
    )
    generate.add_argument(
        "--strict", action="store_true", help="check answers too: confirmed by the verifier, not guessed blindly"
    )
    generate.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    generate.add_argument("--concurrency", type=int, default=16, metavar="C", help="requests in flight (default: 16)")
    generate.add_argument("--rpm", type=float, metavar="N", help="at most N requests a minute")
    generate.add_argument("--tpm", type=float, metavar="N", help="at most N tokens a minute")
    generate.add_argument("--max-requests", type=int, metavar="N", help="stop after N answered requests in all")
    generate.add_argument("--max-cost", type=float, metavar="USD", help="stop after so many US dollars in all")
    generate.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    generate.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")
    generate.add_argument(
        "--max-edge", type=int, default=1024, metavar="PX", help="of the pictures that are sent (default: 1024)"
    )
    generate.add_argument("--shard", metavar="I/N", help="the I-th of N parts only; numbers are those of all parts")
    generate.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="faults that the teacher scenes plants, 0 to 1"
    )

    status = _command(commands, "status", _status, "what a run has done so far", "compact status run")
    status.add_argument("run_folder", metavar="RUN", type=Path, help="a run, or a folder that holds its shards")
    status.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    status.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")
    status.add_argument("--json", action="store_true", help="for machines")

    assemble = _command(
        commands, "assemble", _assemble, "write a release", "compact assemble run --out release --version 1.0.0"
    )
    assemble.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    assemble.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty, or an earlier release")
    assemble.add_argument("--version", required=True, metavar="X.Y.Z", help="the release's version")
    assemble.add_argument("--instruction", type=Path, metavar="FILE", help="a JSON list in LLaVA's format")
    assemble.add_argument(
        "--image-root", type=Path, metavar="DIR", help="where its image paths start (default: beside it)"
    )
    share = assemble.add_mutually_exclusive_group()
    share.add_argument("--instruction-fraction", type=float, metavar="SHARE", help="of its rows (default: 0.05)")
    share.add_argument("--instruction-rows", type=int, metavar="N", help="so many of its rows")
    assemble.add_argument("--seed", type=int, default=0, help="decides which rows (default: 0)")

    validate = _command(commands, "validate", _validate, "check a release", "compact validate release")
    validate.add_argument("release", type=Path, metavar="DIR")

    publish = _command(
        commands, "publish", _publish, "put a release on the Hub, in one piece", "compact publish release org/compact"
    )
    publish.add_argument("release", type=Path, metavar="DIR")
    publish.add_argument("repository", metavar="ORG/NAME", help="a data set's; created where it is not there")
    publish.add_argument("--private", action="store_true", help="create it private; refuse a public one")
    publish.add_argument("--dry-run", action="store_true", help="check, and list the files only")


def _add_model_commands(commands: Any) -> None:
    tune = _command(
        commands, "tune", _tune, "train: trl sft --config RECIPE", "compact tune tiny-cpu --dataset_name release"
    )
    tune.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    tune.add_argument("settings", nargs=argparse.REMAINDER, metavar="...", help="settings that replace the recipe's")

    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "accuracy by k and by capability",
        "compact evaluate student scenes:200 --out results",
    )
    evaluate.add_argument("model", metavar="MODEL", help="a folder or a repository: a model or an adapter")
    evaluate.add_argument("dataset", metavar="DATASET", help="a release, a repository, or scenes:N (reserved scenes)")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or begun by this same command")
    evaluate.add_argument(
        "--swap-pictures", action="store_true", help="a control: each question about another question's picture"
    )
    evaluate.add_argument("--split", choices=("train", "validation"), default="validation", help="of a release")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], purpose: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, description=purpose, epilog=f"example: {example}", allow_abbrev=False
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)
    return parser


def _ks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give numbers with commas between, such as 1,2,3") from None


def _overrides(settings: Sequence[str]) -> dict[str, str]:
    pairs = dict(zip(settings[::2], settings[1::2], strict=False))
    if len(settings) % 2 or not all(name.startswith("--") for name in pairs):
        raise UsageError(f"got the settings {' '.join(settings)!r}; give them as trl sft takes them: --name value")
    return {name.removeprefix("--"): value for name, value in pairs.items()}
