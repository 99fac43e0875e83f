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
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compact_hf import CompactError, assemble, generate, publish, validate
from compact_hf.cli.console import Bar, say, tell, tell_table
from compact_hf.config import read_config
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.errors import writing
from compact_hf.hub.files import differences, tree
from compact_hf.hub.push import standing
from compact_hf.images.address import HUB, Address
from compact_hf.images.conversations import items_of
from compact_hf.methods.compact.dry_run import plan
from compact_hf.methods.compact.forecast import Forecast
from compact_hf.methods.compact.tables import forecast_parts
from compact_hf.runs.image_index import drawn
from compact_hf.runs.run import DEFAULT_CONCURRENCY
from compact_hf.runs.sources import open_source

_PICTURES: Final = "pictures"
"""File beside the run: how many pictures the round takes that has begun. A kill must not change it."""
_LEAST_KEPT: Final = 0.05
"""Share of pictures that are taken to become conversations, at least, when more of them are drawn."""
_SAMPLE: Final = 200
"""Pictures that a dry run reads to know how large they are."""
_JOURNAL_BYTES: Final = 1500
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
    def _pinned(cls, source: str) -> str:
        if source.startswith(HUB) and Address.parse(source).revision in ("", "main"):
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
    asked: dict[str, Any] = {
        "teacher": config.teacher,
        "verifier": config.verifier,
        "preset": config.preset,
        "strict": config.strict,
        "ks": tuple(config.k),
        "seed": config.seed,
        "concurrency": concurrency,
        "max_cost": max_cost,
    }
    with Bar("pictures") as bar:
        _ask(config, out, asked, bar)
    release = out / "release"
    part = config.instruction
    assemble(
        [out / "run"],
        release,
        version=config.version,
        max_similarity=config.max_similarity,
        balance=config.balance,
        instruction=part.file if part else None,
        image_root=part.image_root if part else None,
        instruction_fraction=part.fraction if part else None,
        seed=config.seed,
        exclude_ids=config.exclude_ids,
        exclude_images_of=config.exclude_images_of,
        group_similar=config.group_similar,
        image_license=config.image_license,
        license=config.license,
        on_note=say,
    )
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid: {report.counts}; `compact validate {release}` says where")
    return release


def _ask(config: Config, out: Path, asked: dict[str, Any], bar: Bar) -> None:
    """Ask about pictures, in rounds, until enough of them became conversations.

    Each round's number of pictures is written down before it begins, and is finished before the next is decided upon:
    what is asked does not depend on where a kill fell.
    """
    noted = out / _PICTURES
    limit = int(noted.read_text()) if noted.is_file() else config.conversations
    while True:
        if limit is not None:
            _write_at_once(noted, str(limit))
        standing = generate(
            config.source,
            out / "run",
            limit=limit,
            on_progress=lambda at: bar.show(at.finished, at.pictures, f"{at.accepted} questions"),
            **asked,
        )
        if config.conversations is None or limit is None or standing.kept >= config.conversations:
            return
        if standing.pictures < limit:
            raise ReleaseError(
                f"{config.source} gave {standing.kept} conversations of {standing.pictures} pictures, all there are, "
                f"and {config.conversations} are wanted; ask for fewer or give more pictures"
            )
        kept = max(_LEAST_KEPT, standing.kept / standing.finished)
        limit += math.ceil((config.conversations - standing.kept) / kept)


def _write_at_once(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def refuse_unpublishable(config: Config) -> str:
    """Return the repository, before anything is spent on what could not be published.

    Raises:
        UsageError: the config names none.
        HubError: the Hub cannot be reached, or does not take the token.
    """
    from huggingface_hub import HfApi

    if config.repository is None:
        raise UsageError("--publish needs `repository: org/name` in the config")
    with writing(config.repository):
        HfApi().whoami()
    return config.repository


def publish_once(release: Path, repository: str, *, version: str) -> str:
    """Publish, unless a kill came after the tag was set, and return the page of the tag.

    Raises:
        CompactError: what `publish` raises, such as that the version exists with other rows.
    """
    from huggingface_hub import HfApi

    tag = f"v{version}"
    if tag in standing(repository, repo_type="dataset").tags:
        with writing(repository, release):
            there = tree(HfApi(), repository, repo_type="dataset", revision=tag)
        # The card and the changelog name the day on which they were written.
        if not any(found.startswith("data/") for found in differences(there, release)):
            return f"{HfApi().endpoint}/datasets/{repository}/tree/{tag}"
    pushed = publish(release, repository, on_progress=say).pushed
    assert pushed is not None, "only a dry run pushes nothing"
    return pushed.url


def tell_forecast(config: Config, out: Path, *, concurrency: int) -> None:
    """Print what the release is made of, what it will take, and the disk that it needs.

    Raises:
        CompactError: the source is not there, or `out` holds another run.
    """
    found = _forecast(config, out, concurrency)
    part = config.instruction
    rows = round(part.fraction * sum(1 for _ in items_of(part.file))) if part else 0
    tell(f"release {config.version} of {config.source}, to {config.repository or 'nowhere: the config has none'}")
    tell(f"teacher {config.teacher}, verifier {config.verifier}, preset {config.preset}, seed {config.seed}")
    if part:
        tell(f"instruction part: {rows:,} rows, {part.fraction:.0%} of {part.file}")
    for told in forecast_parts(found):
        if isinstance(told, str):
            tell(told)
        else:
            tell_table(told.head, told.rows)
    _tell_disk(config, out, found, rows)


def _forecast(config: Config, out: Path, concurrency: int) -> Forecast:
    """Return the forecast for as many pictures as the wanted conversations will take."""

    def of(limit: int | None) -> Forecast:
        return plan(
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
        return of(None)
    first = of(config.conversations)
    return of(math.ceil(config.conversations * first.pictures / max(1, first.kept)))


def _tell_disk(config: Config, out: Path, found: Forecast, rows: int) -> None:
    mean = _mean_bytes(config)
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    release = (found.kept + rows) * mean
    journal = found.requests * _JOURNAL_BYTES
    tell_table(
        ("disk", "MB"),
        [
            ("journal", round(journal / 1e6)),
            ("release", round(release / 1e6)),
            ("a second release, while one replaces another", round(release / 1e6)),
            ("free now", round(shutil.disk_usage(there).free / 1e6)),
        ],
    )


def _mean_bytes(config: Config) -> float:
    """Return the mean size of the pictures that the run begins with."""
    source = open_source(config.source)
    chosen = drawn(source, config.seed)[:_SAMPLE]
    return sum(len(source.read(ref)) for ref in chosen) / len(chosen)


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
    chosen = parser.parse_args(arguments)
    try:
        _carry_out(chosen)
    except CompactError as error:
        say(f"build_compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("build_compact: interrupted; what was finished is kept, run the same command again")
        return 3
    return 0


def _carry_out(chosen: argparse.Namespace) -> None:
    config = read_config(chosen.config, Config, example="compact-scenes.yaml")
    if chosen.conversations is not None:
        if chosen.publish:
            raise UsageError("--conversations makes another release than the config's; write it there to publish it")
        if chosen.conversations < 1:
            raise UsageError(f"got --conversations {chosen.conversations}; give at least 1")
        config = config.model_copy(update={"conversations": chosen.conversations})
    if chosen.dry_run:
        tell_forecast(config, chosen.out, concurrency=chosen.concurrency)
        return
    repository = refuse_unpublishable(config) if chosen.publish else None
    release = build(config, chosen.out, concurrency=chosen.concurrency, max_cost=chosen.max_cost)
    print(release if repository is None else publish_once(release, repository, version=config.version))


if __name__ == "__main__":
    sys.exit(main())
