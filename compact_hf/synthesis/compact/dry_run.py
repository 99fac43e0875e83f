"""`compact generate ... --dry-run`: what the same command without it will take; nobody is asked and nothing written.

compact generate photos --out run --dry-run
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from compact_hf.engine.journal import FILE_NAME
from compact_hf.engine.rates import Limits
from compact_hf.errors import IdentityError, UsageError
from compact_hf.images.encode import MAX_EDGE
from compact_hf.synthesis.compact.forecast import Forecast, forecast_for
from compact_hf.synthesis.compact.generate import default_teacher
from compact_hf.synthesis.compact.preset import METHOD, preset_named
from compact_hf.synthesis.compact.sampling import MAX_K
from compact_hf.synthesis.compact.status import Status, status
from compact_hf.synthesis.run import DEFAULT_CONCURRENCY, Terms
from compact_hf.synthesis.shards import Shard
from compact_hf.synthesis.sources import open_source
from compact_hf.teachers.registry import open_teacher
from compact_hf.teachers.teacher import Role

_BATCHES: Final = "gemini-batch"
_SERVICES: Final = ("gemini", _BATCHES, "openai")
"""Teachers that want a key when they are opened; these are only named here."""


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
    noise: float = 0.0,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Forecast:
    """Say what `generate` with these arguments will take: requests, tokens, US dollars and time. No key is needed.

    Where `out` holds the run already, its own means are used, and what is finished is left out.

    Args:
        source, out, teacher, verifier, ks, preset, strict, max_edge, seed, shard, noise, limit, concurrency, rpm, tpm,
            price_in, price_out: as for `generate`.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such source.
        JournalError: the run that `out` holds cannot be read.
    """
    terms = Terms(limit, concurrency, rpm, tpm, price_in=price_in, price_out=price_out)
    part = None if shard is None else Shard.parse(shard)
    terms = terms.of(part)
    pictures = open_source(source)
    teacher = teacher or default_teacher(pictures)
    names: dict[Role, str] = {
        "teacher": _name_of(teacher, Path(out), noise=noise),
        "verifier": _name_of(verifier or teacher, Path(out)),
    }
    chosen = preset_named(preset, strict=strict, in_batches=any(name.startswith(_BATCHES) for name in names.values()))
    chosen = replace(chosen, ks=tuple(sorted(set(ks or chosen.ks))))
    for k in chosen.ks:
        if not 1 <= k <= MAX_K:
            raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
    settings = {
        "source": pictures.identity,
        "seed": seed,
        "teacher": names["teacher"],
        "verifier": names["verifier"],
        "shard": None if part is None else str(part),
        "k": list(chosen.ks),
        "method": METHOD,
        "preset": chosen.preset_version,
        "max_edge": max_edge,
    }
    measured = _measured(Path(out), settings)
    refs = sorted(pictures.refs())
    count = len(refs if part is None else part.own(refs))
    return forecast_for(
        count if terms.limit is None else min(count, terms.limit),
        chosen,
        teachers=names,
        prices=terms.prices(names),
        limits=Limits(terms.concurrency, terms.rpm, terms.tpm),
        measured=measured,
    )


def _name_of(spec: str, out: Path, *, noise: float = 0.0) -> str:
    """Return the name that a teacher has once it is open."""
    name, _, model = spec.partition(":")
    if name not in _SERVICES or noise:
        return open_teacher(spec, noise=noise, state_dir=out).name
    if not model and name != "openai":
        from compact_hf.teachers.gemini import DEFAULT_MODEL

        model = DEFAULT_MODEL
    return f"{name}:{model}"


def _measured(out: Path, settings: dict[str, Any]) -> Status | None:
    if not (out / FILE_NAME).is_file():
        return None
    found = status(out)
    differences = {
        name: (found.identity.get(name), value) for name, value in settings.items() if found.identity.get(name) != value
    }
    if differences:
        raise IdentityError(str(out), differences)
    return found
