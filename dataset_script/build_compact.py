"""One command makes a release from a config in which every step is pinned, and goes on where it stopped.

    python dataset_script/build_compact.py dataset_script/compact-scenes.yaml --out build

In: a YAML file such as compact-scenes.yaml. Out: `build/run`, the journal, and `build/release`, for `load_dataset`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compact_hf import CompactError, assemble, generate, validate
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.talk import Bar, say


class Instruction(BaseModel):
    """The instruction part: a file in LLaVA's format, where its pictures are, and the share to take."""

    model_config = ConfigDict(extra="forbid")

    file: Path
    image_root: Path
    fraction: float


class Config(BaseModel):
    """Everything that decides what the release holds. Paths are relative to the folder in which the command is run."""

    model_config = ConfigDict(extra="forbid")

    version: str
    source: str
    teacher: str
    verifier: str
    preset: str
    strict: bool
    k: list[int]
    seed: int
    max_similarity: float
    balance: bool
    limit: int | None = None
    instruction: Instruction | None = None


def read_config(file: Path) -> Config:
    """Read a config.

    Raises:
        UsageError: there is no such file, or a key is missing, unknown or of the wrong kind.
    """
    try:
        return Config.model_validate(yaml.safe_load(file.read_bytes()))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; give a config such as compact-scenes.yaml") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole of it"
        raise UsageError(f"{file}: {place}: {first['msg']}; the keys are {', '.join(Config.model_fields)}") from error


def build(config: Config, out: Path) -> Path:
    """Make the release in `out/release` and return that folder.

    Raises:
        CompactError: a step failed or was stopped; the same call goes on there.
    """
    with Bar("pictures") as bar:
        generate(
            config.source,
            out / "run",
            teacher=config.teacher,
            verifier=config.verifier,
            preset=config.preset,
            strict=config.strict,
            ks=tuple(config.k),
            seed=config.seed,
            limit=config.limit,
            on_progress=lambda at: bar.show(at.finished, at.pictures, f"{at.accepted} questions"),
        )
    release = out / "release"
    part = config.instruction
    assemble(
        [out / "run"],
        release,
        version=config.version,
        max_similarity=config.max_similarity,
        balance=config.balance,
        instruction=part.file if part else None,
        image_root=part.image_root if part else None,
        instruction_fraction=part.fraction if part else None,
        seed=config.seed,
    )
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid: {report.counts}; `compact validate {release}` says where")
    return release


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", type=Path, help="a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="where run and release lie")
    chosen = parser.parse_args(arguments)
    try:
        print(build(read_config(chosen.config), chosen.out))
    except CompactError as error:
        say(f"build_compact: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("build_compact: interrupted; what was finished is kept, run the same command again")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
