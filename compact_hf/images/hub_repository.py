"""Looks up a dataset repository on the Hub: its commit, license and list of Parquet files.

No rows are downloaded. The list of files is cached per address and commit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import SourceError
from compact_hf.hub.cache import resolve_commit
from compact_hf.hub.download import open_hub_file
from compact_hf.hub.xet import WITHOUT_XET, is_xet_error
from compact_hf.images.address import HUB_PREFIX, Address
from compact_hf.parsing import read_card_header
from compact_hf.records import digest
from compact_hf.storage import atomic_file

_MAX_CARD_BYTES: Final = 16 * 2**20


def resolve_address(address: Address) -> Address:
    """Return an address with the commit to which its revision points; offline, the commit of the last time.

    Args:
        address (`Address`): the repository and its revision.

    Raises:
        SourceError: the repository cannot be read.
    """
    with translate_source_errors(address):
        commit = resolve_commit(address.path, repo_type="dataset", revision=address.revision or None)
    return replace(address, revision=commit)


def read_license(address: Address) -> str:
    """Return the license in the card of a repository at a commit, or `unknown` if it names none.

    Args:
        address (`Address`): the repository; its revision is a commit.

    Raises:
        SourceError: the repository cannot be read.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    cached_path = try_to_load_from_cache(address.path, "README.md", repo_type="dataset", revision=address.revision)
    if cached_path is _CACHED_NO_EXIST:
        return "unknown"  # the cache knows that there is no card, so this also works offline
    # If the Hub cannot be reached, raise: returning "unknown" would change the license in the rows.
    with translate_source_errors(address):
        try:
            card = cached_path or hf_hub_download(
                address.path, "README.md", repo_type="dataset", revision=address.revision
            )
        except RemoteEntryNotFoundError:
            return "unknown"  # the repository has no card
    if Path(card).stat().st_size > _MAX_CARD_BYTES:
        return "unknown"
    try:
        license = read_card_header(Path(card)).get("license")
    except (OSError, ValueError):
        return "unknown"  # the card cannot be parsed
    return license if isinstance(license, str) else "unknown"


def get_cache_directory(address: Address) -> Path:
    """Return the directory below the cache of `datasets` for the downloads from a repository at a commit."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "compact_hf" / address.path.replace("/", "___") / address.revision


@contextlib.contextmanager
def translate_source_errors(address: Address) -> Iterator[None]:
    """Turn the errors of `datasets`, `huggingface_hub` and `pyarrow` into a `SourceError` with a one-line message.

    Args:
        address (`Address`): the dataset that is read, for the message.

    Raises:
        SourceError: the code in the `with` block could not read the dataset.
    """
    import pyarrow as pa
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx' or httpx2's

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError, pa.ArrowException) as error:
        message = " ".join(str(error).split())
        raise SourceError(
            f"{address.display_name} cannot be read ({message}): {_suggest_fix(address, error)}"
        ) from error


def _suggest_fix(address: Address, error: Exception) -> str:
    """Return what to do about an error, for the end of its message."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "unset HF_HUB_OFFLINE once to download it, or give a directory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free disk space or set HF_HOME to a directory on a larger disk, then run the same command to resume"
    if not address.on_hub:
        return "give a directory that load_dataset accepts"
    if is_xet_error(error):
        return WITHOUT_XET
    if isinstance(error, HfHubHTTPError) and (error.response.status_code >= 500 or error.response.status_code == 429):
        return "run the same command to resume when the Hub is available again"
    return "check the name, the revision and HF_TOKEN"


def check_online(address: Address) -> None:
    """Raise if what is not in the cache cannot be downloaded because HF_HUB_OFFLINE is set.

    Args:
        address (`Address`): the dataset that is read, for the message.

    Raises:
        SourceError: HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if address.on_hub and constants.is_offline_mode():
        raise SourceError(
            f"{address.display_name} is not in the cache, and HF_HUB_OFFLINE is set: unset it once to download it, or "
            "give a directory"
        )


@contextlib.contextmanager
def progress_bars_on_terminal() -> Iterator[None]:
    """Disable the progress bars of `datasets` and `huggingface_hub` unless stderr is a terminal."""
    import datasets
    from huggingface_hub import utils as hub

    enabled = [library for library in (datasets, hub) if not library.are_progress_bars_disabled()]
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    for library in enabled if not is_terminal else ():
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in enabled:
            library.enable_progress_bars()


@dataclass(frozen=True, slots=True)
class ParquetListing:
    """The columns and files of a dataset in Parquet.

    Attributes:
        features (`datasets.Features`): the columns.
        files (`dict[str, tuple[str, ...]]`): split -> URLs of its files in order, `hf://datasets/...@COMMIT/...`.
    """

    features: Any
    files: dict[str, tuple[str, ...]]


def list_parquet_files(address: Address) -> ParquetListing | None:
    """Return the files and columns of an address at a commit, or None if some of its files are not Parquet.

    Args:
        address (`Address`): the dataset; its revision is a commit.

    Raises:
        SourceError: the repository cannot be read.
    """
    from datasets import Features

    cache_file = _listing_file(address)
    if not cache_file.exists():
        check_online(address)
        with translate_source_errors(address), progress_bars_on_terminal():
            listing = _build_listing(address)
            record = None if listing is None else (listing.features.to_dict(), listing.files)
            with atomic_file(cache_file, is_shared=True) as temp_file:
                temp_file.write_text(json.dumps(record))
    if (cached := json.loads(cache_file.read_text())) is None:
        return None
    features, files = cached
    return ParquetListing(Features.from_dict(features), {split: tuple(urls) for split, urls in files.items()})


def has_cached_listing(address: Address) -> bool:
    """Return whether `list_parquet_files` was called before.

    Args:
        address (`Address`): the dataset; its revision is a commit.
    """
    return _listing_file(address).exists()


def _listing_file(address: Address) -> Path:
    return get_cache_directory(address) / f"{digest(str(replace(address, split='')), length=16)}.json"


def _build_listing(address: Address) -> ParquetListing | None:
    """List the files with `datasets`, which applies the rules for configs and splits in cards and file names."""
    import pyarrow.parquet as pq
    from datasets import Features
    from datasets.packaged_modules.parquet.parquet import Parquet

    builder = _load_builder(address)
    files = {str(split): tuple(urls) for split, urls in (builder.config.data_files or {}).items()}
    prefix = f"{HUB_PREFIX}{address.path}@{address.revision}/"
    if not isinstance(builder, Parquet) or not all(url.startswith(prefix) for urls in files.values() for url in urls):
        return None
    features = builder.info.features
    if features is None:
        with open_hub_file(next(iter(files.values()))[0]) as file:
            features = Features.from_arrow_schema(pq.read_schema(file))
    return ParquetListing(features, files)


def _load_builder(address: Address) -> Any:
    """Return the `datasets` builder of an address; SourceError if it has several configs and the address names none."""
    from datasets import get_dataset_config_names, load_dataset_builder

    options = {"data_files": address.files} if address.files else {}
    try:
        return load_dataset_builder(address.path, address.config or None, revision=address.revision, **options)
    except ValueError as error:
        configs = [] if address.config else get_dataset_config_names(address.path, revision=address.revision)
        if len(configs) < 2:
            raise
        suffix = f" and {len(configs) - 5} more" if len(configs) > 5 else ""
        raise SourceError(
            f"{address.display_name} has the configs {', '.join(configs[:5])}{suffix}: "
            f"give one of them, such as {replace(address, config=configs[0])}"
        ) from error
