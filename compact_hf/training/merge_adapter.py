"""Merges an adapter into the weights of its base and saves the result as a plain model.

    compact adapter merge student --out merged

Many servers, converters and benchmarks do not support adapters and need a merged model. The output directory contains
safetensors shards, the adapter's processor with its chat template, a card, and the training record, so that
`compact publish` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.files import check_publishable
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import AdapterInfo, load_merged_model
from compact_hf.models.loading import (
    LOAD_ERRORS,
    find_commit,
    first_line,
    is_adapter,
    load_config,
    load_processor,
    resolve_model,
    without_progress_bars,
)
from compact_hf.models.saving import translate_save_errors
from compact_hf.records import to_json
from compact_hf.regular_files import read_regular
from compact_hf.storage import check_free_space, replace_directory, translate_disk_errors
from compact_hf.training.inputs import find_trained_base
from compact_hf.training.model_card import is_repository, write_card
from compact_hf.training.training_record import (
    RECORD_FILE,
    TrainingRecord,
    read_adapter_info,
    read_training_record,
)

_LICENSE_PATTERNS: Final = ("LICENSE*", "NOTICE*")  # copied from the base, since its weights are distributed too


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """Merge an adapter into its base and save the model.

    Args:
        adapter (`str | Path`): a directory or a repository's name.
        out (`str | Path`): a new or empty directory; it appears only when it is complete.
        base (`str | Path`, *optional*, defaults to the base in the adapter's config): a directory, or a repository with
            an optional `@revision`. The merged model's card names it, unless it is a directory and the adapter's base a
            repository, of which it may be a copy.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        `Path`: `out`. The weights have the precision of the base's config. Peak memory is one copy of the base plus
            the adapter.

    Raises:
        UsageError: if `out` is not empty, `adapter` is a whole model, or a license of the base is a link to a file
            elsewhere, or `adapter` or `base` is neither a directory of a model nor the name of a repository.
        TuningError: if adapter or base cannot be found or read, the adapter was made for another base or, unless `base`
            is given, for other weights at its path, its processor does not fit the base, or `out` cannot be written.
    """
    adapter, out = str(adapter), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: give a new or empty directory as --out")
    directory = resolve_model(adapter)
    if not is_adapter(directory):
        raise UsageError(f"{adapter} is a whole model, not an adapter: there is nothing to merge")
    info = read_adapter_info(directory)
    base_directory = find_trained_base(directory, str(base) if base else None)
    # Before the merge, which takes long. The merged weights have the shapes and dtypes of the base's.
    _find_licenses(base_directory)
    processor = _load_processor(directory, base_directory)
    check_free_space(
        out,
        sum(path.stat().st_size for path in base_directory.glob("*.safetensors")),
        error_type=TuningError,
        advice="free disk space or choose another --out",
    )
    on_progress(f"merging {adapter} into {base or info.base}")
    with (
        translate_disk_errors(TuningError, out, "free disk space and retry"),
        translate_save_errors(),
        replace_directory(out, is_replaceable=lambda directory: False, error_type=UsageError) as temp_directory,
    ):
        record = _record_base(read_training_record(directory), info, str(base or info.base))
        _save_merged(directory, base_directory, processor, temp_directory, replace(record, adapter=adapter))
    return out


def _record_base(record: TrainingRecord, adapter: AdapterInfo, base: str) -> TrainingRecord:
    """Return the record with the base that was merged, if it is not a local copy of the adapter's base on the Hub."""
    if base == adapter.base or (Path(base).exists() and is_repository(adapter.base)):
        return record
    ref = None if Path(base).exists() else RepoRef.parse(base)
    if ref is None:
        return replace(record, base=base, base_revision=None)
    return replace(record, base=ref.repo_id, base_revision=find_commit(ref.repo_id, revision=ref.revision))


def _find_licenses(base: Path) -> list[Path]:
    """Return the paths of the licenses of a base.

    Raises:
        UsageError: if one of them is a link to a file elsewhere, which would be published with the merged model.
    """
    from huggingface_hub import constants

    paths = sorted(path for pattern in _LICENSE_PATTERNS for path in base.glob(pattern))
    # In the cache of the Hub, all files are links.
    if not base.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        check_publishable(base, [path.name for path in paths])
    return paths


def _load_processor(adapter: Path, base: Path) -> Any:
    """Return the processor of an adapter, completed from the configuration of its base."""
    try:
        return load_processor(adapter, load_config(base))
    except LOAD_ERRORS as error:
        raise TuningError(f"adapter {adapter} cannot be merged: {first_line(error)}") from error


def _save_merged(adapter: Path, base: Path, processor: Any, out: Path, record: TrainingRecord) -> None:
    """Write weights, processor, licenses, training record and card of the merged model."""
    with without_progress_bars():
        model = load_merged_model(adapter, base)
        model.save_pretrained(out)
        processor.save_pretrained(out)
    for path in _find_licenses(base):
        (out / path.name).write_bytes(read_regular(path))
    (out / RECORD_FILE).write_text(to_json(record) + "\n", encoding="utf-8")
    write_card(out)
