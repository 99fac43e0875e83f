"""Finds commits and datasets in the caches of the Hub's clients, so that HF_HUB_OFFLINE=1 gives the same data again.

Offline, `load_dataset` loads the version of a dataset that was cached last, whatever revision is requested. The caches
contain what is needed to find the requested one: the Hub's client stores the commit of every branch and tag, and
`datasets` stores its tables by commit.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compact_hf.hub.card import CARD
from compact_hf.hub.ref import COMMIT_HASH
from compact_hf.storage import atomic_file

if TYPE_CHECKING:
    from compact_hf.hub.staging import RepoType


def resolve_commit(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> str:
    """Return the commit of a revision: the current one or, offline, the one of the last time it was resolved.

    If the Hub cannot be reached although HF_HUB_OFFLINE is not set, the cache is not used: a branch may have changed.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, tag or commit, or `refs/pr/N`.

    Raises:
        huggingface_hub.errors.OfflineModeIsEnabled: HF_HUB_OFFLINE is set, and the cache does not have the revision.
        huggingface_hub.errors.HfHubHTTPError: the repository or revision was not found, or the Hub fails.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionResolutionError
    from huggingface_hub.file_download import repo_folder_name

    if revision and COMMIT_HASH.fullmatch(revision):
        return revision
    if constants.is_offline_mode():
        try:
            return (
                HfApi()
                .resolve_revision(repo_id, repo_type=repo_type, revision=revision, local_files_only=True)
                .resolved
            )
        except RevisionResolutionError as error:
            raise OfflineModeIsEnabled(f"the commit of {revision or 'main'} is not in the cache") from error
    commit = str(HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha)
    # The place where the client itself stores commits; it does so only for downloads that name the branch or tag.
    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type) / "refs"
    path = refs / (revision or constants.DEFAULT_REVISION)
    # A cache that cannot be written is no reason to fail.
    with suppress(OSError), atomic_file(path, is_shared=True) as temp_file:
        temp_file.write_text(commit)
    return commit


@dataclass(frozen=True, slots=True)
class CachedDataset:
    """What the caches contain of a dataset at one commit.

    Attributes:
        repo_id (`str`): `namespace/name`.
        commit (`str`): hash of the commit.
        config_names (`tuple[str, ...]`): all configs in the order of the card, cached or not.
        default_config (`str`, *optional*): the config that `load_dataset` loads if none is named; None if there are
            several and none is the default.
        directories (`dict[str, Path]`): directory with the tables of each config that `load_dataset` has loaded.
    """

    repo_id: str
    commit: str
    config_names: tuple[str, ...]
    default_config: str | None
    directories: dict[str, Path] = field(repr=False)

    def load(self, config: str | None) -> Any:
        """Return all splits of a config as a `datasets.DatasetDict`.

        Args:
            config (`str | None`): name of the config; None for the default one.

        Raises:
            huggingface_hub.errors.OfflineModeIsEnabled: the config is not in the cache.
        """
        from datasets.packaged_modules.cache.cache import Cache
        from huggingface_hub.errors import OfflineModeIsEnabled

        name = config or self.default_config
        if name not in self.directories:
            raise OfflineModeIsEnabled(
                f"the config {name or ''} at {self.commit} is not in the cache of load_dataset (it has "
                f"{', '.join(sorted(self.directories)) or 'none'})"
            )
        # .../CONFIG/VERSION/COMMIT
        version = self.directories[name].parent.name
        repo_name = self.repo_id.rpartition("/")[2]
        builder = Cache(
            repo_id=self.repo_id, dataset_name=repo_name, config_name=name, version=version, hash=self.commit
        )
        return builder.as_dataset()


def find_cached_dataset(repo_id: str, revision: str | None) -> CachedDataset:
    """Return what the caches contain of a dataset at the commit of a revision, for offline mode.

    Args:
        repo_id (`str`): `namespace/name`.
        revision (`str | None`): a branch, tag or commit; None for main.

    Raises:
        huggingface_hub.errors.OfflineModeIsEnabled: the cache does not have the revision.
    """
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import metadata_load, try_to_load_from_cache

    commit = resolve_commit(repo_id, repo_type="dataset", revision=revision)
    card = try_to_load_from_cache(repo_id, CARD, repo_type="dataset", revision=commit)
    header = (metadata_load(card) if isinstance(card, str) else None) or {}
    entries = [entry for entry in header.get("configs") or [] if isinstance(entry, dict) and "config_name" in entry]
    names = tuple(str(entry["config_name"]) for entry in entries) or ("default",)
    marked = [str(entry["config_name"]) for entry in entries if entry.get("default")]
    default = (*marked, *(name for name in names if name == "default" or len(names) == 1), None)[0]
    *namespace, name = repo_id.split("/")
    root = Path(config.HF_DATASETS_CACHE) / "___".join((*namespace, camelcase_to_snakecase(name)))
    # Directories of configs with other options, such as `data_files`, have a hash in their names.
    directories = {
        path.parent.parent.name: path
        for path in root.glob(f"*/*/{commit}")
        if (info := path / "dataset_info.json").is_file()
        and json.loads(info.read_bytes())["config_name"] == path.parent.parent.name
    }
    return CachedDataset(repo_id, commit, names, default, directories)
