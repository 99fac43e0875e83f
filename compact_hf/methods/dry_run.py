"""Forecasts what a run will take, without sending any request: `compact generate ... --dry-run`.

It needs no API key. The images are listed but not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from compact_hf.errors import SettingsMismatchError
from compact_hf.images.source import ImageSource
from compact_hf.methods.base import RunSetup
from compact_hf.methods.forecast import Forecast, estimate_by_role, forecast_run
from compact_hf.methods.generate import CompactKeywords, MethodCall, method_keywords
from compact_hf.methods.registry import DEFAULT_METHOD
from compact_hf.methods.status import RunStatus, status
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.runs.sources import SCENES, describe_teachers
from compact_hf.teachers.prices import is_free


@method_keywords(CompactKeywords)
def dry_run(source: str, out: str | Path, *, method: str = DEFAULT_METHOD, **options: Any) -> Forecast:
    """Forecast what `generate` with these arguments will take: requests, tokens, US dollars and time.

    Args:
        source (`str`): as for `generate`.
        out (`str | Path`): the run directory. If the run exists already, its measured averages replace assumptions.
        method (`str`, *optional*, defaults to `compact`): as for `generate`.
        options: as for `generate`.

    Raises:
        UsageError: an argument is invalid, or `out` holds another run.
        SourceError: there are no images to work on.
        JournalError: `out` holds a run that cannot be read.
    """
    call = MethodCall.parse(method, options)
    shard = call.run.parse_shard()
    # A shard has its share of the images, rates and budget of the whole run.
    limits = call.run.for_shard(shard)
    images = call.open_source(source)
    infos = describe_teachers(images, call.run, roles=call.method.roles)
    teachers = {role: info.name for role, info in infos.items()}
    # Described, not opened: `start` needs the names and abilities of the models, but no key.
    started = call.method.start(RunSetup(images, infos, call.run, call.options))
    identity = RunIdentity(
        source=images.identity,
        method=call.name,
        seed=call.run.seed,
        # Free backends are not compared: a run names them with details, such as a directory or the planted faults.
        teachers={role: name for role, name in teachers.items() if not is_free(name)},
        shard=None if shard is None else str(shard),
        settings=call.settings(started),
    )
    run_status = _read_status(Path(out), identity)
    refs = list(images.refs())
    # Unusable and duplicate images are known only to a run that has read them.
    count = len(refs if shard is None else shard.select(refs)) - _count_unusable(run_status)
    forecast = forecast_run(
        count if limits.limit is None else min(count, limits.limit),
        started.estimate or partial(estimate_by_role, call.method.roles),
        teachers=teachers,
        prices=limits.prices(teachers),
        rate_limits=RateLimits(limits.concurrency, limits.rpm, limits.tpm),
        status=run_status,
    )
    return replace(forecast, basis=(*forecast.basis, *_iter_source_notes(images)))


def _count_unusable(run_status: RunStatus | None) -> int:
    """Return the number of images that a run has found to be unusable or duplicates."""
    rejects = run_status.rejects if run_status else ()
    return sum(reject_count.count for reject_count in rejects if reject_count.stage == "picture")


def _iter_source_notes(images: ImageSource) -> Iterator[str]:
    """Yield lines about what the number of images does and does not include."""
    if images.identity != SCENES:
        yield "images are listed, not read: unusable ones and duplicates count until a run has read them"
    if note := images.describe_skipped():
        yield note


def _read_status(out: Path, identity: RunIdentity) -> RunStatus | None:
    """Return the status of the run in `out`, or None if there is no run, or one that the planned run replaces.

    Raises:
        SettingsMismatchError: the run was started with other settings.
    """
    if not (out / FILE_NAME).is_file():
        return None
    run_status = status(out)
    # Only the planned names are compared: the stored identity may also name free teachers (see above).
    planned = {"shard": None, **identity.to_json()}
    existing = {name: run_status.identity.get(name) for name in planned}
    if existing == planned:
        return run_status
    differences = {name: (existing[name], planned[name]) for name in planned if existing[name] != planned[name]}
    with Journal.read(out) as journal:
        if journal.can_be_replaced(differences):
            return None
    raise SettingsMismatchError(str(out), differences)
