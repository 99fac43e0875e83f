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
from compact_hf.models.adapter import Adapter, adapted, refuse_other_base
from compact_hf.models.loading import first_line, is_adapter, located, without_progress_bars
from compact_hf.records import to_json
from compact_hf.training.model_card import is_repository, write_card
from compact_hf.training.training_record import FACTS, adapter_of, facts_of

_TERMS: Final = ("LICENSE*", "NOTICE*")  # that the base's weights come with, here as there


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    on_progress: Callable[[str], None] = lambda told: None,
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
    folder = located(adapter)
    if not is_adapter(folder):
        raise UsageError(f"{adapter} is a whole model, not an adapter; there is nothing to merge")
    read = adapter_of(folder)
    found = _base(read, str(base) if base else None)
    refuse_other_base(folder, found)
    on_progress(f"merging {adapter} into {base or read.base}")
    half = out.absolute().parent / f".{out.absolute().name}.half"
    try:
        shutil.rmtree(half, ignore_errors=True)
        _save(folder, found, half, name=adapter)
        half.rename(out)
    except OSError as error:
        raise TuningError(f"{out} cannot be written ({first_line(error)}); make room and run it again") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return out


def _base(adapter: Adapter, given: str | None) -> Path:
    """Return the folder with the base; a name that differs from the adapter's is taken for a mistake."""
    if given is None:
        return located(adapter.base, revision=adapter.base_revision)
    if is_repository(given) and is_repository(adapter.base) and given != adapter.base:
        raise UsageError(f"the adapter was made for {adapter.base}, not for {given}; give that, or leave out --base")
    return located(given, revision=adapter.base_revision if given == adapter.base else None)


def _save(adapter: Path, base: Path, out: Path, *, name: str) -> None:
    from transformers import AutoProcessor

    with without_progress_bars():
        adapted(adapter, base).save_pretrained(out)
        AutoProcessor.from_pretrained(adapter).save_pretrained(out)
    for path in (path for pattern in _TERMS for path in sorted(base.glob(pattern))):
        shutil.copyfile(path, out / path.name)
    facts = replace(facts_of(adapter), adapter=name)
    (out / FACTS).write_text(to_json(facts) + "\n", encoding="utf-8")
    write_card(out)
