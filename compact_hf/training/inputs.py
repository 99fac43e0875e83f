"""Binds a training run to the contents of the files that it reads: data, base and chat template.

    OUTPUT/.compact-tune-inputs    input -> name of each of its files -> [SHA-256, numbers of `get_stamp`]

A path does not identify contents: other data may be copied to it between two calls. A file is hashed once; later calls
read it again only if its stamp is another one. The hashes depend on names and contents only, and so are the same on all
machines. A dataset or base on the Hub is identified by its commit: the settings pin it (checkpoints.py), except for a
mixture of datasets, whose commits are recorded here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import ContentsMismatchError, TuningError
from compact_hf.hub.cache import resolve_commit
from compact_hf.hub.card import CARD
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import check_adapter_base, find_base
from compact_hf.models.loading import list_model_files
from compact_hf.parsing import read_card_header
from compact_hf.records import digest
from compact_hf.regular_files import get_stamp, hash_regular, list_regular_files, read_regular
from compact_hf.storage import translate_disk_errors, write_atomically
from compact_hf.training.checkpoints import RECORD_FILE, find_last_checkpoint
from compact_hf.training.training_record import read_adapter_info
from compact_hf.wording import format_count

INPUTS_FILE: Final = ".compact-tune-inputs"
_BASE: Final = "base "
_IMAGES: Final = "images that rows name by path"
_CARD_KEYS: Final = ("configs", "dataset_info")
"""Keys in the header of a dataset's card that decide which files are loaded and how."""
_MAX_BYTES: Final = 2**30  # of the file with the hashes: about 150 bytes for each file of the data
_LARGE_BYTES: Final = 10**9
_MOVED_ADVICE: Final = (
    "a mixture takes the current commit of a repository: choose another output_dir, and give the files of a commit as "
    "a directory to keep them"
)
_MAX_NAMES: Final = 3
"""Number of files that an error names, of each kind of change."""

FileState = list[Any]
"""SHA-256 of a file, and its stamp if `get_stamp` returned one."""
Inputs = dict[str, dict[str, FileState]]
"""Input, such as `data release` -> relative path of each of its files -> state."""


def bind_inputs(output_dir: Path, settings: Mapping[str, Any], *, on_note: Callable[[str], None]) -> None:
    """Record the contents of a run's inputs, or compare them with those that the run was started with.

    Until there is a complete checkpoint, nothing depends on the inputs, and they may change.

    Args:
        output_dir (`Path`): the run's output directory.
        settings (`Mapping[str, Any]`): all settings of the run.
        on_note (`Callable[[str], None]`): called with a message about what takes long or cannot be checked.

    Raises:
        ContentsMismatchError: if an input has other contents.
        TuningError: if an input cannot be read.
        HubError: if the commit of a dataset of a mixture cannot be found on the Hub.
    """
    path, is_started = output_dir / INPUTS_FILE, _is_started(output_dir)
    if is_started and not path.is_file():
        on_note(
            f"{output_dir} has no {INPUTS_FILE}, since version 0.1.0 did not write it: whether its data and base are "
            "still those that it was started with cannot be checked"
        )
        return
    stored = _read_inputs(path) if path.is_file() else {}
    current = {
        name: _hash_files(name, files, stored.get(name, {}), on_note=on_note)
        for name, files in (_find_inputs(settings) | _find_images(stored)).items()
        if files
    }
    current |= (commits := _find_commits(settings))
    if is_started:
        changes = {name: _describe_change(stored[name], current[name]) for name in stored.keys() & current.keys()}
        if changes := {name: change for name, change in sorted(changes.items()) if change}:
            advice = _MOVED_ADVICE if changes.keys() & commits.keys() else ""
            raise ContentsMismatchError(str(output_dir), changes, option="output_dir", advice=advice)
        for name in sorted(stored.keys() - current.keys()):
            on_note(f"{name} was not found: whether it is as it was when {output_dir} was started cannot be checked")
        current = {**stored, **current}
    if current != stored or not path.is_file():  # without local inputs, too, so that images can be added
        _write_inputs(path, current)


def record_images(output_dir: Path, rows: Iterable[Any], *, on_note: Callable[[str], None]) -> None:
    """Record the contents of image files that rows name by path, of a run that has no checkpoint yet.

    They may be anywhere, so that only the rows, which the training script reads, say which files they are. Later,
    `bind_inputs` compares them with the others.

    Args:
        output_dir (`Path`): the run's output directory, after `bind_inputs`.
        rows (`Iterable[datasets.Dataset]`): the rows of each split, with the column `images`.
        on_note (`Callable[[str], None]`): as for `bind_inputs`.

    Raises:
        TuningError: if a file cannot be read.
    """
    path = output_dir / INPUTS_FILE
    if _is_started(output_dir) or not path.is_file():
        return
    stored = _read_inputs(path)
    files = {name: Path(name) for name in sorted({name for split in rows for name in _iter_image_paths(split)})}
    files = {name: file for name, file in files.items() if file.is_file()}  # screening drops rows without them
    current = {name: states for name, states in stored.items() if name != _IMAGES}  # those of an earlier call
    if files:
        current[_IMAGES] = _hash_files(_IMAGES, files, stored.get(_IMAGES, {}), on_note=on_note)
    if current != stored:
        _write_inputs(path, current)


def find_trained_base(adapter: Path, base: str | None = None) -> Path:
    """Return the directory of an adapter's base, after checking that the adapter was trained on it.

    Args:
        adapter (`Path`): directory of the adapter.
        base (`str`, *optional*, defaults to the base in the adapter's config): as for `find_base`. Its weights need not
            be those that were recorded in training.

    Raises:
        TuningError: if the base was not found or cannot be read, the adapter does not fit it or, unless `base` is
            given, was trained on other weights at its path.
        UsageError: as for `find_base`.
    """
    info = read_adapter_info(adapter)
    directory = find_base(info, base)
    if base is None and _has_other_weights(adapter, directory):
        raise TuningError(
            f"the base {info.base} has other weights than those that {adapter} was trained on: put the earlier ones "
            f"back, or give --base {info.base} to use these"
        )
    check_adapter_base(adapter, directory)
    return directory


def _has_other_weights(adapter: Path, base: Path) -> bool:
    """Return whether a base has other weights than those that an adapter was trained on, as far as that is recorded."""
    path = adapter / INPUTS_FILE
    stored = _read_inputs(path) if path.is_file() else {}
    weights = {
        name: state
        for input_name, files in stored.items()
        if input_name.startswith(_BASE)
        for name, state in files.items()
        if name.endswith(".safetensors") and (base / name).is_file()
    }
    current = _hash_files(str(base), {name: base / name for name in weights}, weights, on_note=lambda line: None)
    return bool(_describe_change(weights, current))


def _iter_image_paths(rows: Any) -> Iterator[str]:
    """Yield the paths of the images that are not embedded in the rows."""
    import pyarrow.compute as pc
    from datasets import Image

    # Screening reports a column that is missing or has another type.
    if not isinstance(getattr(rows.features.get("images"), "feature", None), Image):
        return
    for chunk in rows.data.column("images").chunks:
        # A struct of `bytes` and `path` for each image of a row.
        images = chunk.flatten()
        yield from pc.unique(images.field("path").filter(pc.is_null(images.field("bytes")))).drop_null().to_pylist()


def _find_images(stored: Inputs) -> dict[str, dict[str, Path]]:
    files = {name: Path(name) for name in stored.get(_IMAGES, {})}
    return {_IMAGES: {name: file for name, file in files.items() if file.is_file()}}


def _is_started(output_dir: Path) -> bool:
    return find_last_checkpoint(output_dir) is not None or (output_dir / RECORD_FILE).is_file()


def _write_inputs(path: Path, inputs: Inputs) -> None:
    with translate_disk_errors(TuningError, path, "free disk space and retry"):
        write_atomically(path, json.dumps(inputs, ensure_ascii=False))


def _read_inputs(path: Path) -> Inputs:
    try:
        inputs: Inputs = {
            name: dict(files) for name, files in json.loads(read_regular(path, max_bytes=_MAX_BYTES)).items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TuningError(
            f"{path} cannot be read ({error}): remove it to resume without a check of data and base"
        ) from error
    return inputs


def _find_inputs(settings: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """Return local input -> name -> path of each of its files; no files if it does not exist."""
    inputs: dict[str, dict[str, Path]] = {}
    for part in _list_datasets(settings):
        # Parts of a mixture may have the same name: `path: json`, and different `data_files`.
        inputs.setdefault(f"data {part['path']}", {}).update(_list_data_files(part))
    base = Path(str(settings.get("model_name_or_path")))
    if base.is_dir():
        inputs[f"{_BASE}{base}"] = {path.name: path for path in list_model_files(base)}
    template = settings.get("chat_template_path")
    if template and Path(str(template)).is_file():
        inputs[f"chat template {template}"] = {Path(str(template)).name: Path(str(template))}
    return inputs


def _find_commits(settings: Mapping[str, Any]) -> Inputs:
    """Return the current commit of each dataset on the Hub in a mixture, as the state of a file named `commit`."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    inputs: Inputs = {}
    for name in {str(part["path"]) for part in _list_datasets(settings) if settings.get("datasets")}:
        if RepoRef.parse(name) is None or Path(name).exists():
            continue
        # Offline, the commit may be unknown, although the tables are cached.
        with translate_read_errors(name), suppress(OfflineModeIsEnabled):
            inputs[f"data {name}"] = {"commit": [resolve_commit(name, repo_type="dataset")]}
    return inputs


def _list_datasets(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the datasets of a run as in TRL's mixture: `path`, and optionally `name`, `data_dir` and `data_files`."""
    if mixture := settings.get("datasets"):
        # Training reports parts that are not mappings, or have no path.
        return [part for part in mixture if isinstance(part, Mapping) and part.get("path")]
    name = settings.get("dataset_name")
    return [{"path": name, "name": settings.get("dataset_config")}] if name else []


def _list_data_files(dataset: Mapping[str, Any]) -> dict[str, Path]:
    """Return the local files of a dataset by name; none if it is on the Hub or was not found."""
    root, patterns = Path(str(dataset["path"])), list(_iter_strings(dataset.get("data_files")))
    if root.is_dir():
        return _list_directory(root, patterns or _read_patterns(root, dataset.get("name")))
    # `path: json` is a format of `datasets`, and the files are named separately.
    files = _list_directory(Path(str(dataset["data_dir"])), patterns) if dataset.get("data_dir") else {}
    return files | {name: Path(name) for pattern in patterns for name in sorted(glob(pattern, recursive=True))}


def _list_directory(root: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Return the files in a directory that match patterns by relative path; all files without a match.

    Of texts, only the card is included, because it names the data files. Links to directories are followed, as
    `datasets` does if a pattern names them.
    """
    card = root / CARD
    names = {name for pattern in patterns for name in glob(os.path.join(escape(str(root)), pattern), recursive=True)}
    with translate_disk_errors(TuningError, root, "remove that file", is_reading=True):
        matches = {path for path in map(Path, names) if path.is_file() and path.suffix != ".md"}
        paths = matches or {path for path in list_regular_files(root, follow_links=True) if path.suffix != ".md"}
        paths |= {card} if card.is_file() else set()
    # A pattern may be absolute.
    return {str(path.relative_to(root) if path.is_relative_to(root) else path): path for path in sorted(paths)}


def _read_patterns(root: Path, config: str | None) -> list[str]:
    """Return the patterns of data files in a dataset's card; none if the card does not say which files are loaded."""
    try:
        configs = read_card_header(root / CARD).get("configs")
    except (OSError, ValueError):
        return []  # `load_dataset` will report it
    entries = [entry for entry in configs if isinstance(entry, Mapping)] if isinstance(configs, list) else []
    entries = [entry for entry in entries if entry.get("config_name") == config] or entries
    if any(not entry.get("data_files") or entry.get("data_dir") for entry in entries):
        return []
    return [pattern for entry in entries for pattern in _iter_strings(entry["data_files"])]


def _iter_strings(value: Any) -> Iterator[str]:
    """Yield the strings in nested mappings and lists, such as the names of splits and files in `data_files`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _iter_strings(item)


def _hash_files(
    input_name: str, files: Mapping[str, Path], stored: Mapping[str, FileState], *, on_note: Callable[[str], None]
) -> dict[str, FileState]:
    """Return the state of each file; only those that may have changed since `stored` are read."""
    with translate_disk_errors(TuningError, input_name, "make it readable and retry", is_reading=True):
        stamps = {name: get_stamp(path) for name, path in files.items()}
        unchanged = {name for name, stamp in stamps.items() if stamp and stored.get(name, [])[1:] == list(stamp)}
        size = sum(files[name].stat().st_size for name in files.keys() - unchanged)
        if size > _LARGE_BYTES:
            on_note(f"hashing {size / 1e9:.1f} GB of the {input_name}, so that a change is noticed")

        def get_state(name: str) -> FileState:
            if name in unchanged:
                return stored[name]
            hash_file = _hash_card if name == CARD else hash_regular
            return [hash_file(files[name]), *(stamps[name] or ())]

        with ThreadPoolExecutor(os.cpu_count()) as executor:
            return dict(zip(files, executor.map(get_state, files), strict=True))


def _hash_card(path: Path) -> str:
    """Return the hash of what a dataset's card says about files; its text may be edited."""
    try:
        header = read_card_header(path)
    except ValueError:
        header = {}  # `load_dataset` will report it
    return digest(str([header.get(key) for key in _CARD_KEYS]), length=64)


def _describe_change(old: Mapping[str, FileState], new: Mapping[str, FileState]) -> str:
    """Return which files differ, or an empty string."""
    kinds = {
        "changed": [name for name in sorted(old.keys() & new.keys()) if old[name][0] != new[name][0]],
        "missing": sorted(old.keys() - new.keys()),
        "new": sorted(new.keys() - old.keys()),
    }
    return "; ".join(
        f"{kind}: {', '.join(names[:_MAX_NAMES])}"
        + (f" and {format_count(len(names) - _MAX_NAMES, 'other file')}" if len(names) > _MAX_NAMES else "")
        for kind, names in kinds.items()
        if names
    )
