"""`compact adapter merge`: in goes an adapter, out comes a plain model of its base with the adapter in its weights.

    compact adapter merge student --out merged

For what takes no adapters, as many servers, converters and benchmarks do not. The folder holds safetensors in shards,
the adapter's processor with its chat template, a card, and the training's facts, so that `compact publish` takes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.models.adapter import AdapterInfo, check_adapter_base, load_merged_model
from compact_hf.models.loading import is_adapter, load_processor, resolve_model, without_progress_bars
from compact_hf.records import to_json
from compact_hf.storage import translate_disk_errors
from compact_hf.training.model_card import is_repository, write_card
from compact_hf.training.training_record import RECORD_FILE, read_adapter_info, read_training_record

_LICENSE_PATTERNS: Final = ("LICENSE*", "NOTICE*")  # that the base's weights come with, here as there


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """Merge an adapter into its base and save the model.

    Args:
        adapter (`str | Path`): a folder, or a repository's name.
        out (`str | Path`): a folder that does not exist yet, or is empty; it appears when it is whole.
        base (`str | Path`, *optional*): where the base lies now, by default where the adapter says.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Returns:
        `Path`: `out`. Weights are in the precision that the base is loaded in (its config's). The peak memory is one
            copy of the base, and the adapter.

    Raises:
        UsageError: `out` already holds something, `adapter` is a whole model, or `base` is another repository than the
            one that the adapter names.
        TuningError: one of them cannot be found or read, the adapter was made for another base, or `out` cannot be
            written.
    """
    adapter, out = str(adapter), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already holds something; give a new or empty folder as --out")
    directory = resolve_model(adapter)
    if not is_adapter(directory):
        raise UsageError(f"{adapter} is a whole model, not an adapter; there is nothing to merge")
    info = read_adapter_info(directory)
    base_directory = _find_base(info, str(base) if base else None)
    check_adapter_base(directory, base_directory)
    on_progress(f"merging {adapter} into {base or info.base}")
    temp_directory = out.absolute().parent / f".{out.absolute().name}.half"
    try:
        with translate_disk_errors(TuningError, out, "make room and run it again"):
            shutil.rmtree(temp_directory, ignore_errors=True)
            _save_merged(directory, base_directory, temp_directory, name=adapter)
            temp_directory.rename(out)
    finally:
        shutil.rmtree(temp_directory, ignore_errors=True)
    return out


def _find_base(adapter: AdapterInfo, base: str | None) -> Path:
    """Return the folder with the base; a name that differs from the adapter's is taken for a mistake."""
    if base is None:
        return resolve_model(adapter.base, revision=adapter.base_revision)
    if is_repository(base) and is_repository(adapter.base) and base != adapter.base:
        raise UsageError(f"the adapter was made for {adapter.base}, not for {base}; give that, or leave out --base")
    return resolve_model(base, revision=adapter.base_revision if base == adapter.base else None)


def _save_merged(adapter: Path, base: Path, out: Path, *, name: str) -> None:
    with without_progress_bars():
        load_merged_model(adapter, base).save_pretrained(out)
        load_processor(adapter).save_pretrained(out)
    for path in (path for pattern in _LICENSE_PATTERNS for path in sorted(base.glob(pattern))):
        shutil.copyfile(path, out / path.name)
    record = replace(read_training_record(adapter), adapter=name)
    (out / RECORD_FILE).write_text(to_json(record) + "\n", encoding="utf-8")
    write_card(out)
