"""Claims and locks output directories, and stores the settings that their work was started with.

A directory can be claimed if it is new, empty, or has the marker of the same kind of work, such as a run or an
evaluation. The marker is the first file that is written. Most markers contain the settings as JSON, so that the same
command can resume the work and a command with other settings is refused:

    directory = OutputDirectory(out, "an ablation", "plan.json", lock_name="ablation.lock")
    directory.claim()
    with directory.lock():
        directory.bind(settings)

Machines that share a directory do not lock it; `bind` ensures that they all use the same settings.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import CompactError, SettingsMismatchError, UsageError
from compact_hf.parsing import read_json
from compact_hf.storage import (
    create_atomically,
    is_empty_directory,
    remove_stale_parts,
    translate_disk_errors,
    write_atomically,
)

_LOCK_WAIT_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class OutputDirectory:
    """The output directory of a run, evaluation, ablation, demo or training run.

    Attributes:
        path (`Path`): the directory, which need not exist.
        owner (`str`): the kind of work that it is for, with an article, such as `a run`; used in errors.
        marker (`str`): the name of the file that marks the directory as one of this kind.
        lock_name (`str`, *optional*, defaults to `.lock`): the name of the file that `lock` locks.
        option (`str`, *optional*, defaults to `--out`): the option that names the directory; used in errors.
        error_type (`type[CompactError]`, *optional*, defaults to `UsageError`): raised if another process uses the
            directory, the marker is damaged, or the directory cannot be read or written.
    """

    path: Path
    owner: str
    marker: str
    lock_name: str = ".lock"
    option: str = "--out"
    error_type: type[CompactError] = UsageError

    @property
    def marker_file(self) -> Path:
        """The path of the marker."""
        return self.path / self.marker

    def claim(self) -> None:
        """Check that the directory can be used, and remove unfinished files of killed processes older than a day.

        A directory that does not exist is not created yet.

        Raises:
            UsageError: the path is a file or the directory has other contents.
            CompactError: `error_type` if it cannot be read.
        """
        with self._translate_errors(is_reading=True):
            try:
                # Not `Path.is_dir`, which returns False for a path with a null byte, so that the check would pass.
                mode = os.stat(self.path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                # A new directory. If one of its parents is a file, creating it fails and is reported then.
                return
            if not stat.S_ISDIR(mode):
                raise UsageError(
                    f"{self.option} {self.path} is a file; give a directory that is new, empty, or {self.owner} to "
                    "resume"
                )
            # List the files before looking for the marker. A machine that shares the directory writes the marker
            # first, so its other files are never seen without it.
            is_empty = is_empty_directory(self.path, besides=(self.marker, self.lock_name))
            if not is_empty and not self.marker_file.exists():
                raise UsageError(
                    f"{self.option} {self.path} is not empty, and is not {self.owner} (it has no {self.marker}): "
                    "give a new or empty directory"
                )
        # The directory is ours. Leftovers are removed only now, so that a directory of other work is never changed.
        with self._translate_errors():
            remove_stale_parts(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the directory if it does not exist, and lock it against other processes inside the block.

        Raises:
            CompactError: `error_type` if another process uses the directory, or it cannot be written.
        """
        from filelock import FileLock, Timeout

        # The operating system releases the lock of a killed process, so a lock file that is left behind does no harm.
        lock = FileLock(self.path / self.lock_name)
        with self._translate_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                # Only as long as `is_locked` may hold it: another process that works here may run for days.
                lock.acquire(timeout=_LOCK_WAIT_S, poll_interval=_LOCK_WAIT_S / 50)
            except Timeout:
                raise self.error_type(
                    f"{self.path} is in use by another process: wait until it ends, or give another {self.option}"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Return whether a process has locked the directory. Nothing is written, so a read-only directory is fine."""
        import fcntl

        try:
            lock_file = os.open(self.path / self.lock_name, os.O_RDONLY)
        except OSError:
            return False  # no lock was ever taken, or this user cannot see it
        try:
            # A shared lock, so that several readers do not find each other; it is released when the file is closed.
            fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock_file)
        return False

    def read_settings(self) -> dict[str, Any] | None:
        """Return the settings in the marker, or None if there is no marker.

        Raises:
            CompactError: `error_type` if the marker cannot be read, or is not a JSON object.
        """
        with self._translate_errors(is_reading=True):
            try:
                content = read_json(self.marker_file)
            except FileNotFoundError:
                # New directory, or one that was only locked so far.
                return None
            except ValueError as error:
                # Not JSON, or not UTF-8. The marker is written atomically, so it is never half written.
                raise self.damaged_error(str(error)) from error
        if not isinstance(content, dict):
            raise self.damaged_error("it is not a JSON object")
        return content

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the marker, replacing an earlier one. The caller must hold the lock.

        Args:
            settings (`Mapping[str, Any]`): JSON values.

        Raises:
            CompactError: `error_type` if the marker cannot be written.
        """
        with self._translate_errors():
            write_atomically(self.marker_file, _to_json(settings))

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Write the settings into the marker, or compare them with those in an existing marker.

        If several machines bind a new directory at the same time, the settings of the first one are kept, and machines
        with other settings raise an error.

        Args:
            settings (`Mapping[str, Any]`): JSON values.

        Raises:
            SettingsMismatchError: the marker has other settings.
            CompactError: `error_type` if the marker is damaged, or cannot be written.
        """
        stored = self.read_settings()
        if stored is None:
            # No marker: this is the first call. Another machine may write the marker at the same time, so read it back.
            with self._translate_errors():
                create_atomically(self.marker_file, _to_json(settings))
            stored = self.read_settings() or {}
        self.check(stored, settings)

    def check(self, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Compare the stored settings with those of this call.

        Args:
            stored (`Mapping[str, Any]`): the settings in the marker.
            settings (`Mapping[str, Any]`): the settings of this call.

        Raises:
            SettingsMismatchError: they differ.
        """
        # Through JSON, so that a tuple equals the stored list and an integer key the stored string.
        current = json.loads(_to_json(settings))
        differences = {
            name: (stored.get(name), current.get(name))
            for name in sorted(stored.keys() | current.keys())
            if stored.get(name) != current.get(name)
        }
        if differences:
            raise SettingsMismatchError(str(self.path), differences, option=self.option)

    def damaged_error(self, reason: str) -> CompactError:
        """Return the error to raise if the marker does not have the contents that this version writes."""
        return self.error_type(
            f"{self.marker_file} is damaged ({reason}); restore it from a copy, or give another {self.option}"
        )

    def _translate_errors(self, *, is_reading: bool = False) -> AbstractContextManager[None]:
        """Raise `error_type` if the disk refuses to read or write the directory."""
        advice = "give another" if is_reading else "free disk space there, or give another"
        return translate_disk_errors(
            self.error_type, f"{self.option} {self.path}", f"{advice} {self.option}", is_reading=is_reading
        )


def _to_json(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), ensure_ascii=False, indent=1) + "\n"
