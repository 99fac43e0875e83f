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
from compact_hf.hub.download import Listing, bytes_to_fetch, listing, snapshot

PROJECTOR_FILE: Final = "mm_projector.bin"
"""What LLaVA's pre-training saves."""

_TOKENIZER: Final = ("tokenizer_config.json", "tokenizer.model", "tokenizer.json", "special_tokens_map.json")
_NEEDED: Final = {
    "language model": ("config.json", "tokenizer_config.json"),
    "vision tower": ("config.json", "preprocessor_config.json"),
    "projector": (PROJECTOR_FILE,),
}
_ALSO: Final = {
    "language model": (*_TOKENIZER, "added_tokens.json"),
    "vision tower": (),
    "projector": ("config.json",),
}
ROLES: Final = tuple(_NEEDED)

# In the order in which they are preferred. Only the first kind that is there is fetched.
_WEIGHTS: Final = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
)
_TERMS: Final = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|README)(\.\w+)?", re.IGNORECASE)
_COMMIT_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three.

    Attributes:
        role (`str`): `language model`, `vision tower` or `projector`.
        place (`str`): as it was given: a path, or a repository's name.
        commit (`str`, *optional*): of the repository; None for what lies here.
        files (`dict[str, int]`): what is needed of it -> bytes.
        weights (`tuple[str, ...]`): those of `files` with tensors, sorted.
    """

    role: str
    place: str
    commit: str | None
    files: dict[str, int]
    weights: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.role} {self.place}{f'@{self.commit[:_COMMIT_DIGITS]}' if self.commit else ''}"

    @property
    def name(self) -> str:
        """What may be published: a repository's name, or the last part of a path."""
        return self.place if self.commit else Path(self.place).resolve().name

    @property
    def weight_bytes(self) -> int:
        return sum(self.files[name] for name in self.weights)

    def fetch(self, *, weights: bool = True) -> Path:
        """Return the folder with its files, without those of the weights if they are not wanted.

        Raises:
            HubError: they cannot be fetched, or not be kept here.
        """
        if self.commit is None:
            path = Path(self.place)
            return path.parent if path.is_file() else path
        chosen = self.files if weights else self.files.keys() - set(self.weights)
        return snapshot(self.place, repo_type="model", revision=self.commit, files=list(chosen))

    def bytes_to_fetch(self) -> int:
        """Return what a download would take, less what is in the cache already."""
        if self.commit is None:
            return 0
        there = Listing(self.commit, self.files)
        return bytes_to_fetch(self.place, there, self.files, repo_type="model")

    def identity(self) -> dict[str, Any]:
        """Return what tells this part from another, as JSON, without a path: its name and commit, or its content.

        Reads every file of a local part, as one that was trained anew in the same place is another.
        """
        if self.commit is not None:
            return {"name": self.name, "commit": self.commit, "files": dict(sorted(self.files.items()))}
        folder, hashes = self.fetch(), {}
        for name in sorted(self.files):
            with (folder / name).open("rb") as file:
                hashes[name] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return {"name": self.name, "commit": None, "files": hashes}


def find(role: str, place: str) -> Part:
    """Look a part up.

    Args:
        role (`str`): `language model`, `vision tower` or `projector`.
        place (`str`): a folder; of a projector its file too; or `namespace/name[@revision]` on the Hub.

    Raises:
        UsageError: `place` is none of these.
        HubError: the Hub does not give it.
        TuningError: it lacks a file, such as the config or the weights.
    """
    path = Path(place)
    commit: str | None = None
    if path.is_file() and role == "projector":
        return Part(role, place, None, {path.name: path.stat().st_size}, (path.name,))
    if path.exists():
        if not path.is_dir():
            raise UsageError(f"{place} is a file; the {role} is a folder, or org/name[@revision] on the Hub")
        there = {entry.name: entry.stat().st_size for entry in path.iterdir() if entry.is_file()}
    else:
        place, _, revision = place.partition("@")
        if place.count("/") != 1:
            raise UsageError(f"no {role} {place!r}: it is no folder here, nor org/name[@revision] on the Hub")
        found = listing(place, repo_type="model", revision=revision or None)
        there, commit = found.files, found.commit
    weights = (PROJECTOR_FILE,) if role == "projector" else _weights(there)
    chosen = {*_NEEDED[role], *_ALSO[role], *weights, *filter(_TERMS.fullmatch, there)}
    part = Part(role, place, commit, {name: there[name] for name in sorted(chosen & there.keys())}, weights)
    _refuse_incomplete(part)
    return part


def read_json(part: Part, name: str) -> Any:
    """Return one of a part's JSON files.

    Raises:
        TuningError: it cannot be read.
    """
    path = part.fetch(weights=False) / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TuningError(f"{name} of {part} cannot be read ({error}); fetch or save it again") from error


def _weights(there: Iterable[str]) -> tuple[str, ...]:
    for kind in _WEIGHTS:
        if found := sorted(filter(kind.fullmatch, there)):
            # `model.safetensors` beside `model-00001-of-00002.safetensors` is the same model once more.
            sharded = [name for name in found if "-of-" in name]
            return tuple(sharded or found)
    return ()


def _refuse_incomplete(part: Part) -> None:
    lacking = [name for name in _NEEDED[part.role] if name not in part.files]
    if not part.weights:
        lacking.append("weights (model.safetensors or pytorch_model.bin, whole or in shards)")
    if part.role == "language model" and not {"tokenizer.model", "tokenizer.json"} & part.files.keys():
        lacking.append("tokenizer.model or tokenizer.json")
    if lacking:
        raise TuningError(f"{part} lacks {', '.join(lacking)}; give one that was saved whole")
    if "-of-" in part.weights[0]:
        total = int(re.split(r"[-.]", part.weights[0])[-2])
        if len(part.weights) != total:
            raise TuningError(f"{part} has {len(part.weights)} of its {total} shards of weights; fetch the others too")
