"""Copies the student that ships with the package into a directory.

`aligned` is a whole tiny LLaVA that describes drawn scenes, with its card; `tuned` is a LoRA adapter on it that answers
questions about them. Both were made by student_script/build_student.py; docs/student.md has their scores.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Final

from compact_hf.errors import TuningError
from compact_hf.parsing import read_json
from compact_hf.storage import replace_directory

ALIGNED: Final = "aligned"
TUNED: Final = "tuned"
CHECKPOINTS_DIRECTORY: Final = Path(str(files("compact_hf.models.llava") / "checkpoints"))
_ADAPTER_CONFIG: Final = "adapter_config.json"


def copy_student(out: Path | str) -> tuple[Path, Path]:
    """Copy both checkpoints into a directory, and set the base of the copied adapter to the copied base.

    Args:
        out (`Path | str`): the directory to write to; created if it does not exist.

    Returns:
        `tuple[Path, Path]`: the directories of the base and of the adapter.

    Raises:
        TuningError: if one of them exists already, or cannot be written.
    """
    aligned = copy_aligned(Path(out) / ALIGNED)
    return aligned, _copy_checkpoint(TUNED, Path(out) / TUNED, base=str(aligned.resolve()))


def copy_aligned(out: Path | str) -> Path:
    """Copy the aligned base and return its directory.

    Args:
        out (`Path | str`): the directory of the copy, which must not exist.

    Raises:
        TuningError: if `out` exists already, or cannot be written.
    """
    return _copy_checkpoint(ALIGNED, Path(out))


def _copy_checkpoint(name: str, out: Path, *, base: str | None = None) -> Path:
    """Copy a checkpoint to a new directory, which appears only when it is complete."""
    try:
        if out.exists():
            # Raised here, because an empty directory would be replaced.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with replace_directory(out, is_replaceable=lambda directory: False, error_type=TuningError) as temp_directory:
            shutil.copytree(CHECKPOINTS_DIRECTORY / name, temp_directory, dirs_exist_ok=True)
            if base is not None:
                set_adapter_base(temp_directory, base)
    except OSError as error:
        reason = error.strerror or error
        raise TuningError(f"the student cannot be copied to {out} ({reason}): give a new directory") from error
    return out


def set_adapter_base(adapter: Path, base: str) -> None:
    """Set the base in an adapter's config.

    Args:
        adapter (`Path`): directory of the adapter.
        base (`str`): a directory or a repository's name.
    """
    path = adapter / _ADAPTER_CONFIG
    config = read_json(path)
    # Loaders of adapters look for the base under this name.
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
