"""Which Parquet files and columns a data set on the Hub consists of, asked once for each address at a commit.

In: an address. Out: its files by split, or that it is not in Parquet; no data is fetched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from compact_hf.errors import SourceError
from compact_hf.images.address import HUB, Address
from compact_hf.images.hub_repository import bars_on_a_terminal, cache_of, keep, readable
from compact_hf.records import digest


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data set of Parquet files consists of.

    Attributes:
        features (`datasets.Features`): its columns.
        files (`dict[str, tuple[str, ...]]`): split -> its files, `hf://datasets/...@COMMIT/...`, in order.
    """

    features: Any
    files: dict[str, tuple[str, ...]]


def listing_of(address: Address) -> Listing | None:
    """Return which files and columns belong to an address at a commit, None where not all of it is Parquet.

    Raises:
        SourceError: the repository cannot be read.
    """
    from datasets import Features

    kept = cache_of(address) / f"{digest(str(replace(address, split='')), length=16)}.json"
    if not kept.exists():
        with readable(address), bars_on_a_terminal():
            found = _found(address)
            facts = None if found is None else (found.features.to_dict(), found.files)
            keep(kept, lambda path: path.write_text(json.dumps(facts)))
    if (known := json.loads(kept.read_text())) is None:
        return None
    features, files = known
    return Listing(Features.from_dict(features), {split: tuple(urls) for split, urls in files.items()})


def _found(address: Address) -> Listing | None:
    """Ask `datasets`, which knows how cards and names say what belongs together."""
    import pyarrow.parquet as pq
    from datasets import Features
    from datasets.packaged_modules.parquet.parquet import Parquet
    from huggingface_hub import HfFileSystem

    builder = _builder(address)
    files = {str(split): tuple(urls) for split, urls in (builder.config.data_files or {}).items()}
    own = f"{HUB}{address.path}@{address.revision}/"
    if not isinstance(builder, Parquet) or not all(url.startswith(own) for urls in files.values() for url in urls):
        return None
    features = builder.info.features
    if features is None:
        with HfFileSystem().open(next(iter(files.values()))[0], "rb", cache_type="none") as file:
            features = Features.from_arrow_schema(pq.read_schema(file))
    return Listing(features, files)


def _builder(address: Address) -> Any:
    from datasets import get_dataset_config_names, load_dataset_builder

    given = {"data_files": address.files} if address.files else {}
    try:
        return load_dataset_builder(address.path, address.config or None, revision=address.revision, **given)
    except ValueError as error:
        configs = [] if address.config else get_dataset_config_names(address.path, revision=address.revision)
        if len(configs) < 2:
            raise
        more = f" and {len(configs) - 5} more" if len(configs) > 5 else ""
        raise SourceError(
            f"{address.told} has the configs {', '.join(configs[:5])}{more}; "
            f"give one of them: {replace(address, config=configs[0])}"
        ) from error
