"""Finds the three parts of a base, in a directory, a file or a repository, and downloads the files that are needed.

`find_part` only lists files, locally or with one request to the Hub; `fetch` downloads them. If a repository has the
same weights in several formats (safetensors, pickles, TensorFlow, Flax), only one of them is downloaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.download import RepoListing, count_missing_bytes, download_snapshot, get_repo_listing
from compact_hf.hub.ref import RepoRef
from compact_hf.parsing import read_json
from compact_hf.regular_files import open_regular

PROJECTOR_FILE: Final = "mm_projector.bin"
"""The file that LLaVA's pre-training saves."""

_TOKENIZER_FILES: Final = ("tokenizer_config.json", "tokenizer.model", "tokenizer.json", "special_tokens_map.json")
# role -> names of files
_REQUIRED_FILES: Final = {
    "language model": ("config.json", "tokenizer_config.json"),
    "vision tower": ("config.json", "preprocessor_config.json"),
    "projector": (PROJECTOR_FILE,),
}
_OPTIONAL_FILES: Final = {
    "language model": (*_TOKENIZER_FILES, "added_tokens.json"),
    "vision tower": (),
    "projector": ("config.json",),
}
ROLES: Final = tuple(_REQUIRED_FILES)

# In order of preference: only the first format that exists is downloaded.
_WEIGHT_PATTERNS: Final = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
)
# Texts that a license may require to be passed on; the header of README.md names the license.
_LICENSE_PATTERN: Final = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|README)(\.\w+)?", re.IGNORECASE)
_COMMIT_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three parts of a base.

    Attributes:
        role (`str`): `language model`, `vision tower` or `projector`.
        name_or_path (`str`): a path or a repository's name.
        commit (`str`, *optional*): commit of the repository; None for a local part.
        files (`dict[str, int]`): name of each needed file -> size in bytes.
        weight_files (`tuple[str, ...]`): names of the files with weights, sorted.
    """

    role: str
    name_or_path: str
    commit: str | None
    files: dict[str, int]
    weight_files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.role} {self.name_or_path}{f'@{self.commit[:_COMMIT_DIGITS]}' if self.commit else ''}"

    @property
    def name(self) -> str:
        """Name without a local directory: the repository's name, or the last component of a path."""
        return self.name_or_path if self.commit else Path(self.name_or_path).resolve().name

    @property
    def weight_bytes(self) -> int:
        return sum(self.files[name] for name in self.weight_files)

    def fetch(self, *, with_weights: bool = True) -> Path:
        """Download the part's files if they are not local, and return their directory.

        Args:
            with_weights (`bool`, *optional*, defaults to True): download the weights too.

        Raises:
            HubError: if the files cannot be downloaded or stored.
        """
        if self.commit is None:
            # A projector may be given as its file.
            path = Path(self.name_or_path)
            return path.parent if path.is_file() else path
        file_names = self.files if with_weights else self.files.keys() - set(self.weight_files)
        return download_snapshot(self.name_or_path, repo_type="model", revision=self.commit, files=list(file_names))

    def bytes_to_fetch(self) -> int:
        """Return the bytes that `fetch` would download, without the files that are already in the cache."""
        if self.commit is None:
            return 0
        remote = RepoListing(self.commit, self.files)
        return count_missing_bytes(self.name_or_path, remote, self.files, repo_type="model")

    def identity(self) -> dict[str, Any]:
        """Return the identity of the part as JSON types, without local paths: name and commit, or hashes of its files.

        All files of a local part are read, so that a part that was trained again in the same directory has another
        identity.
        """
        if self.commit is not None:
            return {"name": self.name, "commit": self.commit, "files": dict(sorted(self.files.items()))}
        directory, hashes = self.fetch(), {}
        for name in sorted(self.files):
            with open_regular(directory / name) as file:
                hashes[name] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return {"name": self.name, "commit": None, "files": hashes}


def find_part(role: str, name_or_path: str) -> Part:
    """Find a part and list the files that are needed.

    Args:
        role (`str`): `language model`, `vision tower` or `projector`.
        name_or_path (`str`): a directory, or `namespace/name[@revision]` on the Hub; for a projector also its file.

    Returns:
        `Part`: the part, not downloaded yet.

    Raises:
        UsageError: if `name_or_path` is neither an existing path nor the name of a repository.
        HubError: if the repository was not found, or the Hub cannot be reached.
        TuningError: if a file is missing, such as the config or the weights.
    """
    path = Path(name_or_path)
    commit: str | None = None
    # A projector's file may have any name; its layers are recognized by their keys.
    if path.is_file() and role == "projector":
        return Part(role, name_or_path, None, {path.name: path.stat().st_size}, (path.name,))
    if path.exists():
        if not path.is_dir():
            raise UsageError(f"{name_or_path} is a file: give the {role} as a directory or as org/name[@revision]")
        file_sizes = {entry.name: entry.stat().st_size for entry in path.iterdir() if entry.is_file()}
    else:
        ref = RepoRef.parse(name_or_path)
        if ref is None:
            raise UsageError(
                f"{role} {name_or_path!r} was not found: give a directory, or a repository on the Hub as "
                "org/name[@revision]"
            )
        name_or_path = ref.repo_id
        remote = get_repo_listing(name_or_path, repo_type="model", revision=ref.revision)
        file_sizes, commit = remote.files, remote.commit
    weight_files = (PROJECTOR_FILE,) if role == "projector" else _select_weight_files(file_sizes)
    file_names = {
        *_REQUIRED_FILES[role],
        *_OPTIONAL_FILES[role],
        *weight_files,
        *filter(_LICENSE_PATTERN.fullmatch, file_sizes),
    }
    part = Part(
        role,
        name_or_path,
        commit,
        {name: file_sizes[name] for name in sorted(file_names & file_sizes.keys())},
        weight_files,
    )
    _check_complete(part)
    return part


def read_part_json(part: Part, name: str) -> Any:
    """Return the content of one of a part's JSON files.

    Args:
        part (`Part`): the part; its files other than weights are downloaded.
        name (`str`): name of the file.

    Raises:
        TuningError: if the file cannot be read.
    """
    path = part.fetch(with_weights=False) / name
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise TuningError(f"{name} of {part} cannot be read ({error}): download or save it again") from error


def _select_weight_files(file_names: Iterable[str]) -> tuple[str, ...]:
    """Return the weight files of the preferred format, sorted."""
    for pattern in _WEIGHT_PATTERNS:
        if matches := sorted(filter(pattern.fullmatch, file_names)):
            # If there are shards and a single file, both hold the same weights; the shards are used.
            sharded = [name for name in matches if "-of-" in name]
            return tuple(sharded or matches)
    return ()


def _check_complete(part: Part) -> None:
    """Raise if a required file, the weights, the tokenizer or a shard is missing."""
    missing = [name for name in _REQUIRED_FILES[part.role] if name not in part.files]
    if not part.weight_files:
        missing.append("weights (model.safetensors or pytorch_model.bin, whole or in shards)")
    if part.role == "language model" and not {"tokenizer.model", "tokenizer.json"} & part.files.keys():
        missing.append("tokenizer.model or tokenizer.json")
    if missing:
        raise TuningError(f"{part} lacks {', '.join(missing)}: give a complete model")
    if "-of-" in part.weight_files[0]:
        # model-00001-of-00002.safetensors -> 2
        total = int(re.split(r"[-.]", part.weight_files[0])[-2])
        if len(part.weight_files) != total:
            raise TuningError(
                f"{part} has {len(part.weight_files)} of its {total} shards of weights: download the missing ones"
            )
