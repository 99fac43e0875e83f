"""The student that ships with the package: a name in, a folder with its files out.

`aligned` is a whole tiny LLaVA that describes drawn scenes; `tuned` is a LoRA adapter over it that answers questions
about them. student_script/build_student.py made both, docs/student.md says how well they do.
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

ALIGNED: Final = "aligned"
TUNED: Final = "tuned"
CHECKPOINTS_DIRECTORY: Final = Path(str(files("compact_hf.models.llava") / "checkpoints"))
_ADAPTER_CONFIG: Final = "adapter_config.json"


def copy_student(out: Path | str) -> tuple[Path, Path]:
    """Copy both checkpoints into the folder `out`, and have the copied adapter name the copied base as its own.

    Returns:
        `tuple[Path, Path]`: the aligned base's folder and the adapter's.

    Raises:
        TuningError: one of them is there already, or they cannot be written.
    """
    aligned = copy_aligned(Path(out) / ALIGNED)
    return aligned, _copy_checkpoint(TUNED, Path(out) / TUNED, base=str(aligned.resolve()))


def copy_aligned(out: Path | str) -> Path:
    """Copy the aligned base to the directory `out`, which must not exist, and return it; raises as `copy_student`."""
    return _copy_checkpoint(ALIGNED, Path(out))


def _copy_checkpoint(name: str, out: Path, *, base: str | None = None) -> Path:
    temp_directory = out.with_name(f".{out.name}.part")
    try:
        if out.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        shutil.rmtree(temp_directory, ignore_errors=True)  # what a kill left: a model is renamed when it is whole
        shutil.copytree(CHECKPOINTS_DIRECTORY / name, temp_directory)
        if base is not None:
            set_adapter_base(temp_directory, base)
        return temp_directory.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise TuningError(f"the student cannot be copied to {out} ({reason}); give a folder that is new") from error
    finally:
        shutil.rmtree(temp_directory, ignore_errors=True)


def set_adapter_base(adapter: Path, base: str) -> None:
    """Write into an adapter's folder which model it belongs to."""
    path = adapter / _ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
