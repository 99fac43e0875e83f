"""`compact generate ... --dry-run`: what a run will take from here on, before anything is asked. It needs no key.

In: what `generate` takes. Out: a `Forecast`. The pictures are listed, not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compact_hf.errors import IdentityError
from compact_hf.images.codec import MAX_EDGE
from compact_hf.methods.compact.forecast import Forecast, forecast_for
from compact_hf.methods.compact.preset import preset_named
from compact_hf.methods.compact.status import Status, status
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.rate_limit import Limits
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Terms
from compact_hf.runs.shards import Shard
from compact_hf.runs.sources import check_pictures, default_teacher, open_source
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import FREE
from compact_hf.teachers.registry import IN_BATCHES, full_name, ks_of, sources_of


def plan(
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
        SourceError: there are no pictures to work on.
        JournalError: `out` holds a run that cannot be read.
    """
    part = None if shard is None else Shard.parse(shard)
    terms = Terms(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out).of(part)
    pictures = open_source(source)
    writer = full_name(teacher or default_teacher(pictures))
    teachers: dict[Role, str] = {"teacher": writer, "verifier": full_name(verifier) if verifier else writer}
    for name in teachers.values():
        check_pictures(name, sources_of(name), pictures)
    in_batches = any(name.partition(":")[0] in IN_BATCHES for name in teachers.values())
    chosen = preset_named(preset, strict=strict, in_batches=in_batches)
    chosen = chosen.asked_for(ks, max_edge=max_edge, teacher=writer, possible=ks_of(writer))
    settings = {
        "source": pictures.identity,
        "seed": seed,
        "max_edge": max_edge,
        "k": list(chosen.ks),
        "preset": chosen.preset_version,
        "shard": None if part is None else str(part),
        # What runs here has names of its own, of folders and of planted faults.
        **{str(role): name for role, name in teachers.items() if name.partition(":")[0] not in FREE},
    }
    refs = list(pictures.refs())
    count = len(refs if part is None else part.own(refs))
    return forecast_for(
        count if terms.limit is None else min(count, terms.limit),
        chosen,
        teachers=teachers,
        prices=terms.prices(teachers),
        limits=Limits(terms.concurrency, terms.rpm, terms.tpm),
        measured=_so_far(Path(out), settings),
    )


def _so_far(out: Path, settings: dict[str, Any]) -> Status | None:
    if not (out / FILE_NAME).is_file():
        return None
    found = status(out)
    held = {name: found.identity.get(name) for name in settings}
    if held != settings:
        raise IdentityError(
            str(out), {name: (held[name], settings[name]) for name in held if held[name] != settings[name]}
        )
    return found
