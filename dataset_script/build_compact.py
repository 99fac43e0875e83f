"""One command makes a release from a config in which every step is pinned, goes on where it stopped, and publishes.

    python dataset_script/build_compact.py dataset_script/compact-scenes.yaml --out build
    python dataset_script/build_compact.py dataset_script/compact-v1.yaml --out build --dry-run
    python dataset_script/build_compact.py dataset_script/compact-v1.yaml --out build --publish

In: a YAML file such as compact-scenes.yaml. Out: `build/run`, the journal; `build/release`, for `load_dataset`; with
--publish also the tag vX.Y.Z of the config's repository. After a kill at any stage the same command goes on: no
answered request is asked again, and the data files that come out are the same, byte for byte (the card besides says on
which days the replies came).
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compact_hf import CompactError, assemble, generate, publish, validate
from compact_hf.cli.console import ProgressBar, log, print_data, print_table
from compact_hf.config import read_config
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.errors import translate_write_errors
from compact_hf.hub.files import get_repo_files, iter_differences
from compact_hf.hub.push import get_remote_state
from compact_hf.images.address import HUB_PREFIX, Address
from compact_hf.images.conversations import iter_json_items
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.forecast import Forecast
from compact_hf.methods.tables import format_forecast
from compact_hf.runs.image_index import shuffle_refs
from compact_hf.runs.options import DEFAULT_CONCURRENCY
from compact_hf.runs.sources import open_source
from compact_hf.storage import write_atomically

_LIMIT_FILE: Final = "pictures"
"""File beside the run: how many images the round takes that has begun. A kill must not change it."""
_MIN_KEPT_SHARE: Final = 0.05
"""Share of images that are taken to become conversations, at least, when more of them are drawn."""
_SAMPLE_SIZE: Final = 200
"""Images that a dry run reads to know how large they are."""
_JOURNAL_BYTES_PER_REQUEST: Final = 1500
"""For each request, about."""


class Instruction(BaseModel):
    """The instruction part: a file in LLaVA's format, where its pictures are, and the share to take."""

    model_config = ConfigDict(extra="forbid")

    file: Path
    image_root: Path
    fraction: float


class Config(BaseModel):
    """Everything that decides what the release holds. Paths are relative to the folder in which the command is run.

    Attributes:
        conversations (`int`, *optional*): pictures, drawn at random from the source, until so many became
            conversations; the whole source where it is left out.
        repository (`str`, *optional*): where --publish puts it.
    """

    model_config = ConfigDict(extra="forbid")

    version: str
    source: str
    teacher: str
    verifier: str
    preset: str
    strict: bool
    k: list[int]
    seed: int
    max_similarity: float
    balance: bool
    conversations: int | None = Field(default=None, ge=1)
    instruction: Instruction | None = None
    exclude_ids: Path | None = None
    exclude_images_of: list[str] = []
    group_similar: int | None = None
    image_license: str | None = None
    license: str | None = None
    repository: str | None = None

    @field_validator("source")
    @classmethod
    def _check_pinned(cls, source: str) -> str:
        if source.startswith(HUB_PREFIX) and Address.parse(source).revision in ("", "main"):
            raise ValueError(f"{source} is another pool tomorrow; name a tag or a commit after an @")
        return source


def build(config: Config, out: Path, *, concurrency: int = DEFAULT_CONCURRENCY, max_cost: float | None = None) -> Path:
    """Make the release in `out/release` and return that folder.

    Args:
        config (`Config`): what to make.
        out (`Path`): the folder for run and release.
        concurrency (`int`, *optional*, defaults to 16): requests in flight.
        max_cost (`float`, *optional*): stop after so many US dollars in all.

    Raises:
        CompactError: a step failed or was stopped; the same call goes on there.
    """
    run_options: dict[str, Any] = {
        "teacher": config.teacher,
        "verifier": config.verifier,
        "preset": config.preset,
        "strict": config.strict,
        "ks": tuple(config.k),
        "seed": config.seed,
        "concurrency": concurrency,
        "max_cost": max_cost,
    }
    with ProgressBar("pictures") as bar:
        _generate_rounds(config, out, run_options, bar)
    release = out / "release"
    instruction = config.instruction
    assemble(
        [out / "run"],
        release,
        version=config.version,
        max_similarity=config.max_similarity,
        balance=config.balance,
        instruction=instruction.file if instruction else None,
        image_root=instruction.image_root if instruction else None,
        instruction_fraction=instruction.fraction if instruction else None,
        seed=config.seed,
        exclude_ids=config.exclude_ids,
        exclude_images_of=config.exclude_images_of,
        group_similar=config.group_similar,
        image_license=config.image_license,
        license=config.license,
        on_note=log,
    )
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid: {report.counts}; `compact validate {release}` says where")
    return release


def _generate_rounds(config: Config, out: Path, run_options: dict[str, Any], bar: ProgressBar) -> None:
    """Ask about images, in rounds, until enough of them became conversations.

    Each round's number of images is written down before it begins, and is finished before the next is decided upon:
    what is asked does not depend on where a kill fell.
    """
    limit_file = out / _LIMIT_FILE
    limit = int(limit_file.read_text()) if limit_file.is_file() else config.conversations
    while True:
        if limit is not None:
            write_atomically(limit_file, str(limit))
        progress = generate(
            config.source,
            out / "run",
            limit=limit,
            on_progress=lambda current: bar.show(current.finished, current.images, f"{current.accepted} questions"),
            **run_options,
        )
        if config.conversations is None or limit is None or progress.kept >= config.conversations:
            return
        if progress.images < limit:
            raise ReleaseError(
                f"{config.source} gave {progress.kept} conversations of {progress.images} pictures, all there are, "
                f"and {config.conversations} are wanted; ask for fewer or give more pictures"
            )
        kept_share = max(_MIN_KEPT_SHARE, progress.kept / progress.finished)
        limit += math.ceil((config.conversations - progress.kept) / kept_share)


def check_publishable(config: Config) -> str:
    """Return the repository, before anything is spent on what could not be published.

    Raises:
        UsageError: the config names none.
        HubError: the Hub cannot be reached, or does not take the token.
    """
    from huggingface_hub import HfApi

    if config.repository is None:
        raise UsageError("--publish needs `repository: org/name` in the config")
    with translate_write_errors(config.repository):
        HfApi().whoami()
    return config.repository


def publish_once(release: Path, repository: str, *, version: str) -> str:
    """Publish, unless a kill came after the tag was set, and return the page of the tag.

    Raises:
        CompactError: what `publish` raises, such as that the version exists with other rows.
    """
    from huggingface_hub import HfApi

    tag = f"v{version}"
    if tag in get_remote_state(repository, repo_type="dataset").tags:
        with translate_write_errors(repository, release):
            remote_files = get_repo_files(HfApi(), repository, repo_type="dataset", revision=tag)
        # The card and the changelog name the day on which they were written.
        if not any(path.startswith("data/") for path in iter_differences(remote_files, release)):
            return f"{HfApi().endpoint}/datasets/{repository}/tree/{tag}"
    push_result = publish(release, repository, on_progress=log).pushed
    assert push_result is not None, "only a dry run pushes nothing"
    return push_result.url


def print_forecast(config: Config, out: Path, *, concurrency: int) -> None:
    """Print what the release is made of, what it will take, and the disk that it needs.

    Raises:
        CompactError: the source is not there, or `out` holds another run.
    """
    forecast = _forecast_run(config, out, concurrency)
    instruction = config.instruction
    instruction_rows = (
        round(instruction.fraction * sum(1 for _ in iter_json_items(instruction.file))) if instruction else 0
    )
    print_data(f"release {config.version} of {config.source}, to {config.repository or 'nowhere: the config has none'}")
    print_data(f"teacher {config.teacher}, verifier {config.verifier}, preset {config.preset}, seed {config.seed}")
    if instruction:
        print_data(f"instruction part: {instruction_rows:,} rows, {instruction.fraction:.0%} of {instruction.file}")
    for item in format_forecast(forecast):
        if isinstance(item, str):
            print_data(item)
        else:
            print_table(item.head, item.rows)
    _print_disk_usage(config, out, forecast, instruction_rows)


def _forecast_run(config: Config, out: Path, concurrency: int) -> Forecast:
    """Return the forecast for as many images as the wanted conversations will take."""

    def make_forecast(limit: int | None) -> Forecast:
        return dry_run(
            config.source,
            out / "run",
            teacher=config.teacher,
            verifier=config.verifier,
            ks=tuple(config.k),
            preset=config.preset,
            strict=config.strict,
            limit=limit,
            concurrency=concurrency,
        )

    if config.conversations is None:
        return make_forecast(None)
    initial = make_forecast(config.conversations)
    return make_forecast(math.ceil(config.conversations * initial.pictures / max(1, initial.kept)))


def _print_disk_usage(config: Config, out: Path, forecast: Forecast, instruction_rows: int) -> None:
    mean_bytes = _measure_mean_bytes(config)
    existing = next(directory for directory in (out.resolve(), *out.resolve().parents) if directory.exists())
    release_bytes = (forecast.kept + instruction_rows) * mean_bytes
    journal_bytes = forecast.requests * _JOURNAL_BYTES_PER_REQUEST
    print_table(
        ("disk", "MB"),
        [
            ("journal", round(journal_bytes / 1e6)),
            ("release", round(release_bytes / 1e6)),
            ("a second release, while one replaces another", round(release_bytes / 1e6)),
            ("free now", round(shutil.disk_usage(existing).free / 1e6)),
        ],
    )


def _measure_mean_bytes(config: Config) -> float:
    """Return the mean size of the images that the run begins with."""
    source = open_source(config.source)
    refs = shuffle_refs(source, config.seed)[:_SAMPLE_SIZE]
    return sum(len(source.read(ref)) for ref in refs) / len(refs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", type=Path, help="a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="where run and release lie")
    parser.add_argument("--publish", action="store_true", help="put it into the config's repository at the end")
    parser.add_argument("--dry-run", action="store_true", help="say what it will take, and ask nothing; needs no key")
    parser.add_argument("--conversations", type=int, metavar="N", help="make a smaller or larger one than the config's")
    parser.add_argument("--concurrency", type=int, default=DEFAULT_CONCURRENCY, metavar="C", help="requests in flight")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop after so many US dollars in all")
    args = parser.parse_args(arguments)
    try:
        _run(args)
    except CompactError as error:
        log(f"build_compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        log("build_compact: interrupted; what was finished is kept, run the same command again")
        return 3
    return 0


def _run(args: argparse.Namespace) -> None:
    config = read_config(args.config, Config, example="compact-scenes.yaml")
    if args.conversations is not None:
        if args.publish:
            raise UsageError("--conversations makes another release than the config's; write it there to publish it")
        if args.conversations < 1:
            raise UsageError(f"got --conversations {args.conversations}; give at least 1")
        config = config.model_copy(update={"conversations": args.conversations})
    if args.dry_run:
        print_forecast(config, args.out, concurrency=args.concurrency)
        return
    repository = check_publishable(config) if args.publish else None
    release = build(config, args.out, concurrency=args.concurrency, max_cost=args.max_cost)
    print(release if repository is None else publish_once(release, repository, version=config.version))


if __name__ == "__main__":
    sys.exit(main())
