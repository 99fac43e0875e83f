"""Makes a dataset release from a config file that pins all settings, and publishes it.

    python dataset_script/build_compact.py dataset_script/compact-scenes.yaml --out build
    python dataset_script/build_compact.py dataset_script/compact-v1.yaml --out build --dry-run
    python dataset_script/build_compact.py dataset_script/compact-v1.yaml --out build --publish

The config is a YAML file such as compact-scenes.yaml. The run is written to `build/run` and the release, which
`load_dataset` reads, to `build/release`. With --publish the release is also published as the tag vX.Y.Z of the config's
repository. If the command is killed at any stage, running it again resumes it: answered requests are not sent again,
and the data files are the same, byte for byte. Only the card may differ, because it names the days of the replies.
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
from compact_hf.images.json_rows import iter_json_rows
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.forecast import Forecast
from compact_hf.methods.tables import format_forecast
from compact_hf.runs.image_index import shuffle_refs
from compact_hf.runs.options import DEFAULT_CONCURRENCY
from compact_hf.runs.sources import open_source
from compact_hf.storage import write_atomically
from compact_hf.wording import format_count

_LIMIT_FILE: Final = "pictures"
"""File beside the run with the number of images of the current round, so that a killed command resumes this round."""
_MIN_KEPT_SHARE: Final = 0.05
"""Lower bound on the assumed fraction of images that become conversations, when the size of a round is computed."""
_SAMPLE_SIZE: Final = 200
"""Number of images that a dry run reads to estimate their mean size."""
_JOURNAL_BYTES_PER_REQUEST: Final = 1500
"""Approximate size of a request with its reply in the journal."""


class Instruction(BaseModel):
    """The instruction part of a release.

    Attributes:
        file (`Path`): a JSON list in LLaVA's format.
        image_root (`Path`): the directory that its image paths are relative to.
        fraction (`float`): the fraction of its rows to take, 0 to 1.
    """

    model_config = ConfigDict(extra="forbid")

    file: Path
    image_root: Path
    fraction: float


class Config(BaseModel):
    """All settings of a release. Most are options of `compact generate` and `compact assemble` with the same name.

    Paths are relative to the current directory.

    Attributes:
        conversations (`int`, *optional*): number of conversations to make, about images drawn at random from the
            source; by default all images of the source are used.
        repository (`str`, *optional*): the Hub repository for --publish.
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
        """Refuse a Hub dataset without a fixed revision, whose contents may change."""
        # Other branches pass, because their names cannot be distinguished from those of tags.
        if source.startswith(HUB_PREFIX) and Address.parse(source).revision in ("", "main"):
            raise ValueError(f"{source} has no fixed revision, so its contents may change: add @ and a tag or commit")
        return source


def build(config: Config, out: Path, *, concurrency: int = DEFAULT_CONCURRENCY, max_cost: float | None = None) -> Path:
    """Make the release and return its directory, `out/release`.

    Args:
        config (`Config`): the settings of the release.
        out (`Path`): the directory for run and release.
        concurrency (`int`, *optional*, defaults to 16): number of requests in flight.
        max_cost (`float`, *optional*): stop when the total cost reaches this number of US dollars.

    Returns:
        `Path`: the directory of the release.

    Raises:
        CompactError: a step failed or was stopped; the same call resumes it.
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
    # Stage 1: generate. A call that resumes sends only the requests that have no reply yet.
    with ProgressBar("images") as bar:
        _generate_rounds(config, out, run_options, bar)
    # Stage 2: write the release from the run; the same run gives the same data files.
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
    # Stage 3: check the files as written, before they can be published.
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid ({report.counts}): run `compact validate {release}` for details")
    return release


def _generate_rounds(config: Config, out: Path, run_options: dict[str, Any], bar: ProgressBar) -> None:
    """Generate in rounds until enough images became conversations.

    The number of images of a round is saved before the round starts, and a round is finished before the next one is
    planned. So the images that are used do not depend on when the command was killed.
    """
    limit_file = out / _LIMIT_FILE
    # A saved limit is that of the round in which an earlier call was stopped.
    limit = int(limit_file.read_text()) if limit_file.is_file() else config.conversations
    # Invariant: the limit of a round is on disk before the first request of that round is sent.
    while True:
        if limit is not None:
            write_atomically(limit_file, str(limit))
        progress = generate(
            config.source,
            out / "run",
            limit=limit,
            on_progress=lambda current: bar.show(
                current.finished, current.images, format_count(current.accepted, "question")
            ),
            **run_options,
        )
        # Finished: all images of the source are used, or enough of them became conversations.
        if config.conversations is None or limit is None or progress.kept >= config.conversations:
            return
        # The source has fewer images than this round was allowed to use, so another round would find no more.
        if progress.images < limit:
            raise ReleaseError(
                f"{config.source} gave only {format_count(progress.kept, 'conversation')} from all of its "
                f"{format_count(progress.images, 'image')}, but {config.conversations} are requested: request fewer "
                "conversations or add images"
            )
        # Take as many more images as are missing, if the same fraction of them becomes conversations.
        kept_share = max(_MIN_KEPT_SHARE, progress.kept / progress.finished)
        limit += math.ceil((config.conversations - progress.kept) / kept_share)


def check_publishable(config: Config) -> str:
    """Return the repository of the config, after checking that the Hub accepts the token, before money is spent.

    Raises:
        UsageError: the config has no repository.
        HubError: the Hub cannot be reached, or refuses the token.
    """
    from huggingface_hub import HfApi

    if config.repository is None:
        raise UsageError("--publish needs `repository: org/name` in the config")
    # The call changes nothing on the Hub, and fails if the token is missing or invalid.
    with translate_write_errors(config.repository):
        HfApi().whoami()
    return config.repository


def publish_once(release: Path, repository: str, *, version: str, pull_request: bool = True) -> str:
    """Publish a release, unless a killed command has already published it, and return the URL of the tag.

    Args:
        release (`Path`): the directory of the release.
        repository (`str`): the Hub repository.
        version (`str`): the version of the release, without the `v` of the tag.
        pull_request (`bool`, *optional*, defaults to True): publish by a pull request instead of a branch.

    Raises:
        CompactError: publishing failed, for example because the version exists with other rows.
    """
    from huggingface_hub import HfApi

    tag = f"v{version}"
    if tag in get_remote_state(repository, repo_type="dataset").tags:
        with translate_write_errors(repository, release):
            remote_files = get_repo_files(HfApi(), repository, repo_type="dataset", revision=tag)
        # Compare only the data files: the card and the changelog contain the date on which they were written.
        if not any(path.startswith("data/") for path in iter_differences(remote_files, release)):
            return f"{HfApi().endpoint}/datasets/{repository}/tree/{tag}"
    # If the tag exists with other data files, this call raises the error.
    push_result = publish(release, repository, pull_request=pull_request, on_progress=log).pushed
    assert push_result is not None, "only a dry run pushes nothing"
    return push_result.url


def print_forecast(config: Config, out: Path, *, concurrency: int) -> None:
    """Print the settings of the release, the requests, cost and time that it will take, and the disk space.

    Args:
        config (`Config`): the settings of the release.
        out (`Path`): the directory for run and release.
        concurrency (`int`): number of requests in flight.

    Raises:
        CompactError: the source cannot be read, or `out` has a run with other settings.
    """
    forecast = _forecast_run(config, out, concurrency)
    instruction = config.instruction
    instruction_rows = (
        round(instruction.fraction * sum(1 for _ in iter_json_rows(instruction.file))) if instruction else 0
    )
    print_data(f"release {config.version} of {config.source}, to {config.repository or 'no repository: none is set'}")
    print_data(f"teacher {config.teacher}, verifier {config.verifier}, preset {config.preset}, seed {config.seed}")
    if instruction:
        print_data(
            f"instruction part: {format_count(instruction_rows, 'row')}, {instruction.fraction:.0%} of "
            f"{instruction.file}"
        )
    # A string is a line of text; any other item is a table.
    for item in format_forecast(forecast):
        if isinstance(item, str):
            print_data(item)
        else:
            print_table(item.head, item.rows)
    _print_disk_usage(config, out, forecast, instruction_rows)


def _forecast_run(config: Config, out: Path, concurrency: int) -> Forecast:
    """Return the forecast for the number of images that the requested conversations will take."""

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
    # The first forecast gives the share of images that become conversations, the second one is for the images needed
    # then.
    initial = make_forecast(config.conversations)
    return make_forecast(math.ceil(config.conversations * initial.pictures / max(1, initial.kept)))


def _print_disk_usage(config: Config, out: Path, forecast: Forecast, instruction_rows: int) -> None:
    """Print the disk space that run and release will take, and the free space."""
    mean_bytes = _measure_mean_bytes(config)
    # `disk_usage` needs an existing path: the closest parent if `out` does not exist yet.
    existing = next(directory for directory in (out.resolve(), *out.resolve().parents) if directory.exists())
    # Images are almost all of a release. Those of the instruction part are assumed to have the same mean size.
    release_bytes = (forecast.kept + instruction_rows) * mean_bytes
    journal_bytes = forecast.requests * _JOURNAL_BYTES_PER_REQUEST
    print_table(
        ("disk", "MB"),
        [
            ("journal", round(journal_bytes / 1e6)),
            ("release", round(release_bytes / 1e6)),
            ("temporary copy, when a release is replaced", round(release_bytes / 1e6)),
            ("free now", round(shutil.disk_usage(existing).free / 1e6)),
        ],
    )


def _measure_mean_bytes(config: Config) -> float:
    """Return the mean size in bytes of the first images of the run."""
    source = open_source(config.source)
    # The order of the run, so these are the images that it reads first.
    refs = shuffle_refs(source, config.seed)[:_SAMPLE_SIZE]
    return sum(len(source.read(ref)) for ref in refs) / len(refs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", type=Path, help="a YAML file with the settings of the release")
    parser.add_argument("--out", type=Path, required=True, help="directory for run and release")
    parser.add_argument("--publish", action="store_true", help="publish the release to the repository in the config")
    parser.add_argument(
        "--no-pr",
        action="store_false",
        dest="pull_request",
        help="with --publish: upload to a branch and commit to main, for a Hub without pull requests",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print requests, tokens, cost, time and disk space, without any request or API key",
    )
    parser.add_argument(
        "--conversations", type=int, metavar="N", help="number of conversations to make, instead of the config's"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=DEFAULT_CONCURRENCY,
        metavar="C",
        help="number of requests in flight (default: %(default)s)",
    )
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop when the total cost reaches USD US dollars")
    args = parser.parse_args(arguments)
    try:
        _run(args)
    except CompactError as error:
        log(f"build_compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        log("build_compact: interrupted; finished work is kept: run the same command again to resume")
        # The exit status of commands of `compact` that were stopped early.
        return 3
    return 0


def _run(args: argparse.Namespace) -> None:
    """Print the forecast, or build the release and publish it if requested. Prints its directory or its URL."""
    config = read_config(args.config, Config, example="compact-scenes.yaml")
    if not args.pull_request and not args.publish:
        raise UsageError("--no-pr can only be used with --publish")
    if args.conversations is not None:
        # A release of another size than its config says could not be made again from the config.
        if args.publish:
            raise UsageError(
                "--conversations and --publish cannot be combined: set `conversations` in the config to publish it"
            )
        if args.conversations < 1:
            raise UsageError(f"got --conversations {args.conversations}; give at least 1")
        config = config.model_copy(update={"conversations": args.conversations})
    if args.dry_run:
        print_forecast(config, args.out, concurrency=args.concurrency)
        return
    repository = check_publishable(config) if args.publish else None
    release = build(config, args.out, concurrency=args.concurrency, max_cost=args.max_cost)
    if repository is None:
        print_data(str(release))
    else:
        print_data(publish_once(release, repository, version=config.version, pull_request=args.pull_request))


if __name__ == "__main__":
    sys.exit(main())
