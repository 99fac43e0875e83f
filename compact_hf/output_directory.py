"""Whose an output directory is: one kind of work claims it, locks it, and leaves the settings that it was started with.

A directory can be claimed if it is new, empty, or holds the marker of the same kind of work. The marker is a file that
is written first; most hold the settings as JSON, so that the same command resumes and another one is refused:

    directory = OutputDirectory(out, "an ablation", "plan.json", lock_name="ablation.lock")
    directory.claim()
    with directory.lock():
        directory.bind(settings)

Machines that share a directory do not lock it; `bind` gives them the same settings.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_hf.errors import CompactError, SettingsMismatchError, UsageError
from compact_hf.storage import (
    create_atomically,
    is_empty_directory,
    remove_stale_parts,
    translate_disk_errors,
    write_atomically,
)


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """The directory of one run, evaluation, ablation, demo or training run.

    Attributes:
        path (`Path`): the directory, which need not exist.
        owner (`str`): what it belongs to, with its article, such as `a run`.
        marker (`str`): the name of the file that says so.
        lock_name (`str`, *optional*, defaults to `.lock`): the name of the file that `lock` locks.
        option (`str`, *optional*, defaults to `--out`): how the directory is given, for errors.
        error_type (`type[CompactError]`, *optional*, defaults to `UsageError`): raised if another process works in the
            directory, the marker is damaged, or the disk refuses.
        claim_error_type (`type[CompactError]`, *optional*, defaults to `UsageError`): raised if the directory holds
            something else.
    """

    path: Path
    owner: str
    marker: str
    lock_name: str = ".lock"
    option: str = "--out"
    error_type: type[CompactError] = UsageError
    claim_error_type: type[CompactError] = UsageError

    @property
    def marker_file(self) -> Path:
        """The path of the marker."""
        return self.path / self.marker

    def claim(self) -> None:
        """Refuse a directory that holds something else, and remove what kills left in it more than a day ago.

        A new directory is not made yet.

        Raises:
            CompactError: `claim_error_type` if it is a file or holds something else, `error_type` if it cannot be read.
        """
        with self._translate_errors(is_reading=True):
            try:
                mode = os.stat(self.path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                return
            if not stat.S_ISDIR(mode):
                raise self.claim_error_type(
                    f"{self.option} {self.path} is a file; give a directory that is new, empty, or {self.owner} to "
                    "resume"
                )
            # Listed first: at this moment another machine may write the marker, and only then other files.
            is_empty = is_empty_directory(self.path, besides=(self.marker, self.lock_name))
            if not is_empty and not self.marker_file.exists():
                raise self.claim_error_type(
                    f"{self.option} {self.path} already holds something that is not {self.owner} (no {self.marker}); "
                    "give a new or empty directory"
                )
        with self._translate_errors():
            remove_stale_parts(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory if it is new, and keep other processes out of it inside the block.

        Raises:
            CompactError: `error_type` if another process works in it, or it cannot be written.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / self.lock_name)
        with self._translate_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise self.error_type(
                    f"another process is working on {self.path}; wait for it, or give another {self.option}"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def read_settings(self) -> dict[str, Any] | None:
        """Return the JSON object in the marker, None if there is no marker.

        Raises:
            CompactError: `error_type` if it cannot be read, or is no JSON object.
        """
        with self._translate_errors(is_reading=True):
            try:
                content = json.loads(self.marker_file.read_bytes())
            except FileNotFoundError:
                return None
            except ValueError as error:
                raise self.damaged_error(str(error)) from error
        if not isinstance(content, dict):
            raise self.damaged_error("it holds no settings")
        return content

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the marker, also over an earlier one; for those who hold the lock.

        Raises:
            CompactError: `error_type` if it cannot be written.
        """
        with self._translate_errors():
            write_atomically(self.marker_file, _to_json(settings))

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Write the settings into the marker, or compare them with those that are there.

        Of several machines that bind a new directory at the same time, those with other settings than the first one's
        are refused.

        Args:
            settings (`Mapping[str, Any]`): JSON values.

        Raises:
            SettingsMismatchError: the directory is bound to other settings.
            CompactError: `error_type` if the marker is damaged, or cannot be written.
        """
        stored = self.read_settings()
        if stored is None:
            with self._translate_errors():
                create_atomically(self.marker_file, _to_json(settings))
            stored = self.read_settings() or {}
        self.check(stored, settings)

    def check(self, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Compare the settings that the directory is bound to with those that are wanted now.

        Raises:
            SettingsMismatchError: they differ.
        """
        current = json.loads(_to_json(settings))
        differences = {
            name: (stored.get(name), current.get(name))
            for name in sorted(stored.keys() | current.keys())
            if stored.get(name) != current.get(name)
        }
        if differences:
            raise SettingsMismatchError(str(self.path), differences, option=self.option)

    def damaged_error(self, reason: str) -> CompactError:
        """Return what to raise if the marker is not what this version writes."""
        return self.error_type(
            f"{self.marker_file} is damaged ({reason}); restore it from a copy, or give another {self.option}"
        )

    def _translate_errors(self, *, is_reading: bool = False) -> AbstractContextManager[None]:
        advice = "give another" if is_reading else "make room there, or give another"
        return translate_disk_errors(
            self.error_type, f"{self.option} {self.path}", f"{advice} {self.option}", is_reading=is_reading
        )


def _to_json(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), ensure_ascii=False, indent=1) + "\n"
