"""`compact export`: in goes a release, a folder or on the Hub, out comes a folder in another training code's format.

compact export release --format llava --out llava
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compact_hf.dataset.formats import FORMATS
from compact_hf.dataset.layout import DEFAULT_CONFIG
from compact_hf.dataset.records import Part, open_part
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.storage import replace_directory


def export(
    release: str | Path,
    out: str | Path,
    *,
    format: str,
    config: str = DEFAULT_CONFIG,
    split: str | None = None,
) -> dict[str, int]:
    """Write a release in another format. Pictures keep their bytes; memory holds one row group at a time.

    `k`, capabilities, licences and the other columns of a release have no place in these formats; the `id` of `llava`
    and `messages` leads back to them.

    Args:
        release (`str | Path`): a folder, or `org/name[@revision]` of a data set on the Hub.
        out (`str | Path`): a folder that is new or empty; it is there completely or not at all.
        format (`str`): `llava`, `finevision` or `messages` (exports/formats.py says what each holds).
        config (`str`, *optional*, defaults to `all`): one of the configs in the release's card.
        split (`str`, *optional*): `train` or `validation`; both by default.

    Returns:
        Split -> rows that were written.

    Raises:
        UsageError: no such release, format, config or split.
        ReleaseError: `out` is not empty or cannot be written, or the release is damaged.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    if format not in FORMATS:
        raise UsageError(f"got the format {format!r}; there are {', '.join(FORMATS)}")
    out = Path(out)
    _refuse_taken(out)
    part = open_part(release, config=config, split=split)
    try:
        with replace_directory(out, ours=lambda folder: False) as folder:
            return _written(part, folder, FORMATS[format])
    except OSError as error:
        raise ReleaseError(
            f"{out} cannot be written ({error.strerror or error}); "
            "nothing was left there, make room or choose another --out"
        ) from error


def _written(part: Part, folder: Path, write_split: Callable[..., int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for split in part.files:
        counts[split] = write_split(part.records(split), folder, config=part.config, split=split)
    return counts


def _refuse_taken(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ReleaseError(f"{out} is not empty; an export is written to a new or empty folder, choose another --out")
