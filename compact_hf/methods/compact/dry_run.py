"""`compact generate ... --dry-run`: what a run will take from here on, before anything is asked. It needs no key.

In: what `generate` takes. Out: a `Forecast`. The images are listed, not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compact_hf.errors import SettingsMismatchError
from compact_hf.images.codec import MAX_EDGE
from compact_hf.methods.compact.forecast import Forecast, forecast_run
from compact_hf.methods.compact.preset import get_preset
from compact_hf.methods.compact.status import RunStatus, status
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.runs.run import DEFAULT_CONCURRENCY, RunLimits
from compact_hf.runs.shards import Shard
from compact_hf.runs.sources import check_source_type, default_teacher, open_source
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import FREE_TEACHERS
from compact_hf.teachers.registry import BATCH_TEACHERS, full_name, get_ks, get_source_type


def dry_run(
    source: str,
    out: str | Path,
    *,
    teacher: str | None = None,
    verifier: str | None = None,
    ks: tuple[int, ...] | None = None,
    preset: str = "paper",
    strict: bool = False,
    max_edge: int = MAX_EDGE,
    seed: int = 0,
    shard: str | None = None,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Forecast:
    """Say what `generate` with these settings will take: requests, tokens, US dollars, time.

    Args:
        all as for `generate`. Where `out` holds the run already, its own means are used instead of assumptions.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there are no images to work on.
        JournalError: `out` holds a run that cannot be read.
    """
    parsed_shard = None if shard is None else Shard.parse(shard)
    limits = RunLimits(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out).for_shard(
        parsed_shard
    )
    images = open_source(source)
    teacher_name = full_name(teacher or default_teacher(images))
    teachers: dict[Role, str] = {"teacher": teacher_name, "verifier": full_name(verifier) if verifier else teacher_name}
    for name in teachers.values():
        check_source_type(name, get_source_type(name), images)
    is_batch = any(name.partition(":")[0] in BATCH_TEACHERS for name in teachers.values())
    run_preset = get_preset(preset, strict=strict, is_batch=is_batch)
    run_preset = run_preset.with_overrides(
        ks, max_edge=max_edge, teacher=teacher_name, supported_ks=get_ks(teacher_name)
    )
    settings = {
        "source": images.identity,
        "seed": seed,
        "max_edge": max_edge,
        "k": list(run_preset.ks),
        "preset": run_preset.preset_version,
        "shard": None if parsed_shard is None else str(parsed_shard),
        # What runs here has names of its own, of folders and of planted faults.
        **{str(role): name for role, name in teachers.items() if name.partition(":")[0] not in FREE_TEACHERS},
    }
    refs = list(images.refs())
    count = len(refs if parsed_shard is None else parsed_shard.select(refs))
    return forecast_run(
        count if limits.limit is None else min(count, limits.limit),
        run_preset,
        teachers=teachers,
        prices=limits.prices(teachers),
        rate_limits=RateLimits(limits.concurrency, limits.rpm, limits.tpm),
        status=_read_status(Path(out), settings),
    )


def _read_status(out: Path, settings: dict[str, Any]) -> RunStatus | None:
    if not (out / FILE_NAME).is_file():
        return None
    run_status = status(out)
    identity = {name: run_status.identity.get(name) for name in settings}
    if identity != settings:
        raise SettingsMismatchError(
            str(out), {name: (identity[name], settings[name]) for name in identity if identity[name] != settings[name]}
        )
    return run_status
