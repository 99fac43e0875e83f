"""The three parts of a base, wherever they lie: a folder, a file or a repository in, the files that are needed out.

Looking a part up costs a request to the Hub, or reads a folder; its bytes are fetched only by `fetch`. Of two formats
of the same weights (safetensors, pickles, TensorFlow, Flax) one is taken, so nothing is downloaded twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.download import RepoListing, count_missing_bytes, download_snapshot, get_repo_listing
from compact_hf.hub.ref import RepoRef

PROJECTOR_FILE: Final = "mm_projector.bin"
"""What LLaVA's pre-training saves."""

_TOKENIZER_FILES: Final = ("tokenizer_config.json", "tokenizer.model", "tokenizer.json", "special_tokens_map.json")
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

# In the order in which they are preferred. Only the first kind that is there is fetched.
_WEIGHT_PATTERNS: Final = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
)
_LICENSE_PATTERN: Final = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|README)(\.\w+)?", re.IGNORECASE)
_COMMIT_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three.

    Attributes:
        role (`str`): `language model`, `vision tower` or `projector`.
        name_or_path (`str`): as it was given: a path, or a repository's name.
        commit (`str`, *optional*): of the repository; None for what lies here.
        files (`dict[str, int]`): what is needed of it -> bytes.
        weight_files (`tuple[str, ...]`): those of `files` with tensors, sorted.
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
        """What may be published: a repository's name, or the last part of a path."""
        return self.name_or_path if self.commit else Path(self.name_or_path).resolve().name

    @property
    def weight_bytes(self) -> int:
        return sum(self.files[name] for name in self.weight_files)

    def fetch(self, *, with_weights: bool = True) -> Path:
        """Return the folder with its files, without those of the weights if they are not wanted.

        Raises:
            HubError: they cannot be fetched, or not be kept here.
        """
        if self.commit is None:
            path = Path(self.name_or_path)
            return path.parent if path.is_file() else path
        file_names = self.files if with_weights else self.files.keys() - set(self.weight_files)
        return download_snapshot(self.name_or_path, repo_type="model", revision=self.commit, files=list(file_names))

    def bytes_to_fetch(self) -> int:
        """Return what a download would take, less what is in the cache already."""
        if self.commit is None:
            return 0
        remote = RepoListing(self.commit, self.files)
        return count_missing_bytes(self.name_or_path, remote, self.files, repo_type="model")

    def identity(self) -> dict[str, Any]:
        """Return what tells this part from another, as JSON, without a path: its name and commit, or its content.

        Reads every file of a local part, as one that was trained anew in the same place is another.
        """
        if self.commit is not None:
            return {"name": self.name, "commit": self.commit, "files": dict(sorted(self.files.items()))}
        directory, hashes = self.fetch(), {}
        for name in sorted(self.files):
            with (directory / name).open("rb") as file:
                hashes[name] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return {"name": self.name, "commit": None, "files": hashes}


def find_part(role: str, name_or_path: str) -> Part:
    """Look a part up.

    Args:
        role (`str`): `language model`, `vision tower` or `projector`.
        name_or_path (`str`): a folder; of a projector its file too; or `namespace/name[@revision]` on the Hub.

    Raises:
        UsageError: `name_or_path` is none of these.
        HubError: the Hub does not give it.
        TuningError: it lacks a file, such as the config or the weights.
    """
    path = Path(name_or_path)
    commit: str | None = None
    if path.is_file() and role == "projector":
        return Part(role, name_or_path, None, {path.name: path.stat().st_size}, (path.name,))
    if path.exists():
        if not path.is_dir():
            raise UsageError(f"{name_or_path} is a file; the {role} is a folder, or org/name[@revision] on the Hub")
        file_sizes = {entry.name: entry.stat().st_size for entry in path.iterdir() if entry.is_file()}
    else:
        ref = RepoRef.parse(name_or_path)
        if ref is None:
            raise UsageError(f"no {role} {name_or_path!r}: it is no folder here, nor org/name[@revision] on the Hub")
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


def read_json(part: Part, name: str) -> Any:
    """Return one of a part's JSON files.

    Raises:
        TuningError: it cannot be read.
    """
    path = part.fetch(with_weights=False) / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TuningError(f"{name} of {part} cannot be read ({error}); fetch or save it again") from error


def _select_weight_files(file_names: Iterable[str]) -> tuple[str, ...]:
    for pattern in _WEIGHT_PATTERNS:
        if matches := sorted(filter(pattern.fullmatch, file_names)):
            # `model.safetensors` beside `model-00001-of-00002.safetensors` is the same model once more.
            sharded = [name for name in matches if "-of-" in name]
            return tuple(sharded or matches)
    return ()


def _check_complete(part: Part) -> None:
    missing = [name for name in _REQUIRED_FILES[part.role] if name not in part.files]
    if not part.weight_files:
        missing.append("weights (model.safetensors or pytorch_model.bin, whole or in shards)")
    if part.role == "language model" and not {"tokenizer.model", "tokenizer.json"} & part.files.keys():
        missing.append("tokenizer.model or tokenizer.json")
    if missing:
        raise TuningError(f"{part} lacks {', '.join(missing)}; give one that was saved whole")
    if "-of-" in part.weight_files[0]:
        total = int(re.split(r"[-.]", part.weight_files[0])[-2])
        if len(part.weight_files) != total:
            raise TuningError(
                f"{part} has {len(part.weight_files)} of its {total} shards of weights; fetch the others too"
            )
