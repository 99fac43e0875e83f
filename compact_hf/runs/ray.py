"""`--runner ray`: one run as shards on a Ray cluster's machines, their journals collected into one directory.

    compact generate IMAGES --out OUT --runner ray --shards 8

Each shard journals on its machine's own disk and sends its journal here every few seconds, so that a killed worker
loses nothing and a lost machine a few seconds. The same call resumes from what was collected in OUT/shard-I-of-N. OUT
is used by one process at a time, and its number of shards never changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from compact_hf.errors import CompactError, JournalError, StoppedEarly, UsageError
from compact_hf.runs.interrupt import run_to_end
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.ray_worker import Board, Ended, News, forget, run_shard
from compact_hf.runs.run import Standing
from compact_hf.runs.shards import Shard
from compact_hf.runs.snapshot import write_snapshot

RUN_FILE: Final = "ray-run.json"
_LOCK_NAME: Final = "ray-run.lock"


@contextmanager
def held(out: Path, shards: int) -> Iterator[str]:
    """Hold the folder for this process, and yield the name by which machines know the run; a new one gets one.

    Raises:
        UsageError: the folder holds something else, or the run was cut in another way.
        JournalError: another process works on it, or it cannot be written.
    """
    file = out / RUN_FILE
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder that is new, empty, or an earlier run on Ray")
    if out.is_dir() and not file.exists() and any(entry.name != _LOCK_NAME for entry in out.iterdir()):
        raise UsageError(
            f"--out {out} already holds something that is not a run on Ray (no {RUN_FILE}); give a new or empty folder"
        )
    lock = FileLock(out / _LOCK_NAME)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"another process is working on {out}; wait for it, or give another --out") from None
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        if not file.exists():
            _write_run_file(file, shards)
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["shards"] != shards:
            raise UsageError(
                f"{out} was cut into {held['shards']} shards, now {shards}; "
                f"give --shards {held['shards']} to go on with it, or choose another --out"
            )
        yield held["run"]
    finally:
        lock.release()


def _write_run_file(file: Path, shards: int) -> None:
    # The name is not made of the settings: a run that was deleted and is begun again is another one.
    new = file.with_suffix(".new")
    try:
        new.write_text(json.dumps({"run": uuid.uuid4().hex, "shards": shards}), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise unwritable(file.parent, error) from error


def unwritable(out: Path, error: OSError) -> JournalError:
    """Return what to raise where the folder cannot be written."""
    return JournalError(f"cannot write to {out}: {error.strerror}; make room there, or give another --out")


_LOOK_EVERY_S: Final = 0.5
_TIDY_S: Final = 10.0
_CONNECT_S: Final = 10.0
_RETRIES: Final = 20
"""Times that a shard is started again after its worker or machine was lost."""


def generate_on_ray(
    generate: Callable[..., Standing],
    source: str,
    out: str | Path,
    *,
    shards: int,
    on_progress: Callable[[Standing], None] = lambda standing: None,
    **settings: Any,
) -> Standing:
    """Run `generate` as so many shards on the Ray cluster that there is, or else on a local one made for it.

    Every machine needs this package, the same pictures at the same path, and the teacher's key in the environment
    that its Ray was started in. Limits, rates and budgets are the whole run's. Ctrl-C lets the shards finish what is
    in flight; the same call goes on.

    Args:
        generate (`Callable[..., Standing]`): the method's function of a module, which the machines import.
        source (`str`): as for `generate`.
        out (`str | Path`): where the shards' run folders are collected: new, empty, or this same run's. It may lie
            on a network file system.
        shards (`int`): parts to cut the run into; each takes one CPU, and with the teacher `local` one GPU if the
            cluster has any; those that find none wait.
        on_progress (`Callable[[Standing], None]`, *optional*): called with the sum over the shards.
        settings: everything else that `generate` takes.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError, SourceError, TeacherError, JournalError: as for `generate`, from the first shard that raised it.
        StoppedEarly: Ctrl-C, a budget, or workers that were lost too often; the same call goes on.
    """
    parts = [Shard(index, shards) for index in range(1, shards + 1)]
    if not parts:
        raise UsageError(f"got {shards} shards; give at least 1")
    for name in ("limit", "max_requests"):
        parts[-1].share(name, settings.get(name))  # who gets least
    named = {str(settings.get(role) or "").partition(":")[0] for role in ("teacher", "verifier")}
    if "gemini-batch" in named:
        raise UsageError("one machine is enough to wait for gemini-batch, and knows its jobs; leave --runner ray out")
    if Path(source).exists():
        source = str(Path(source).resolve())
    with held(Path(out), shards) as run, _ray() as ray:
        gpus = 1 if "local" in named and ray.cluster_resources().get("GPU") else 0
        work = _Work(ray, Path(out), run, generate, source, settings, gpus, on_progress)
        return run_to_end(partial(work.go, parts))


@dataclass(frozen=True, slots=True)
class _Work:
    """One call: launches the shards, listens to them, and collects."""

    ray: Any
    out: Path
    run: str
    generate: Callable[..., Standing]
    source: str
    settings: dict[str, Any]
    gpus: int
    on_progress: Callable[[Standing], None]
    standings: dict[Shard, Standing] = field(default_factory=dict)

    async def go(self, parts: list[Shard], stop: asyncio.Event) -> Standing:
        board = self._board(parts)
        await self._get(board.since.remote(0))  # there before those who report to it
        tasks = {self._task(board, part): part for part in parts}
        ended: dict[Shard, Ended] = {}
        interrupted, heard = False, 0
        try:
            while tasks:
                if stop.is_set() and not interrupted:
                    interrupted = True
                    await self._get(board.stop.remote())
                done, _ = await asyncio.to_thread(self.ray.wait, list(tasks), timeout=_LOOK_EVERY_S)
                for ref in done:
                    part = tasks.pop(ref)
                    ended[part] = await self._ended(part, ref)
                    if _is_for_all(ended[part]):
                        stop.set()
                news: News = await self._get(board.since.remote(heard))
                heard = news.number
                self._collect(news)
        finally:
            for ref in tasks:
                self.ray.cancel(ref, force=True)
        together = _together(self.standings.values())
        _raise_first([ended[part] for part in parts], together, interrupted=interrupted)
        await self._tidy({end.node for end in ended.values()})
        return together

    def _board(self, parts: list[Shard]) -> Any:
        files = {part: self.out / part.folder / FILE_NAME for part in parts}
        collected = {part: file.read_bytes() for part, file in files.items() if file.exists()}
        here = self._on(self.ray.get_runtime_context().get_node_id(), soft=True)
        board = self.ray.remote(Board).options(num_cpus=0, max_task_retries=-1, scheduling_strategy=here)
        return board.remote(collected)

    def _task(self, board: Any, part: Shard) -> Any:
        task = self.ray.remote(run_shard).options(
            name=f"shard {part}",
            num_cpus=1,
            num_gpus=self.gpus,
            max_retries=_RETRIES,
            scheduling_strategy="SPREAD",
        )
        return task.remote(
            board, self.run, part, str(self.out / part.folder), self.generate, self.source, self.settings
        )

    def _on(self, node: str, *, soft: bool) -> Any:
        return self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=soft)

    async def _get(self, ref: Any) -> Any:
        try:
            return await asyncio.to_thread(self.ray.get, ref)
        except self.ray.exceptions.RayActorError as error:
            raise _unloadable(error) or StoppedEarly(
                f"Ray lost what the shards report to ({_first_line(error)}); the same command goes on"
            ) from error

    async def _ended(self, part: Shard, ref: Any) -> Ended:
        try:
            ended: Ended = await asyncio.to_thread(self.ray.get, ref)
        except self.ray.exceptions.RayTaskError as error:
            if (unloadable := _unloadable(error)) is not None:
                raise unloadable from error
            raise  # a defect of ours: its traceback is wanted
        except self.ray.exceptions.RayError as error:
            why = f"Ray gave up on shard {part} ({_first_line(error)}); nothing is lost, the same command goes on"
            return Ended("", (StoppedEarly, why))
        return ended

    def _collect(self, news: News) -> None:
        for part, journal in news.journals.items():
            try:
                write_snapshot(journal, self.out / part.folder)
            except OSError as error:
                raise unwritable(self.out, error) from error
        if news.standings:
            self.standings.update(news.standings)
            self.on_progress(_together(self.standings.values()))

    async def _tidy(self, nodes: set[str]) -> None:
        """Remove what was collected from the machines it was made on; one that is gone by now is not waited for."""
        forgetting = [
            self.ray.remote(forget).options(num_cpus=0, scheduling_strategy=self._on(node, soft=False)).remote(self.run)
            for node in nodes
        ]
        await asyncio.to_thread(self.ray.wait, forgetting, num_returns=len(forgetting), timeout=_TIDY_S)


def _is_for_all(ended: Ended) -> bool:
    """Return whether a shard met what the others had better not meet too, such as a key that is refused."""
    return ended.error is not None and not issubclass(ended.error[0], StoppedEarly)


def _raise_first(ended: list[Ended], together: Standing, *, interrupted: bool) -> None:
    """Raise the first error among the shards, what cannot be helped by going on before what can."""
    for kind, message in (end.error for end in sorted(ended, key=_is_for_all, reverse=True) if end.error is not None):
        if interrupted and issubclass(kind, StoppedEarly):
            raise StoppedEarly(f"stopped after {together.finished} pictures; the same command goes on")
        raise kind(message)


def _together(standings: Iterable[Standing]) -> Standing:
    """Return the sum of the shards' standings, with one of their newest failures."""
    rows = list(standings)
    return Standing(
        pictures=sum(row.pictures for row in rows),
        finished=sum(row.finished for row in rows),
        kept=sum(row.kept for row in rows),
        accepted=sum(row.accepted for row in rows),
        sent=sum(row.sent for row in rows),
        failures=sum(row.failures for row in rows),
        last_failure=next((row.last_failure for row in rows if row.last_failure), ""),
    )


def _unloadable(error: Exception) -> CompactError | None:
    """Return what to raise where a machine cannot load what it shall run, which only the text of the error tells."""
    told = [line for line in str(error).splitlines() if "ModuleNotFoundError:" in line or "ImportError:" in line]
    if not told:
        return None
    return CompactError(
        f"a machine of the Ray cluster cannot load compact_hf ({told[-1].strip()}); "
        "install this very version, with the same extras, on all of them"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextlib.contextmanager
def _ray() -> Iterator[Any]:
    """Yield the module ray, connected; what was started or connected for this call is left at its end.

    Ray prints to stdout, where data goes; in here it is stderr.
    """
    import ray

    with contextlib.redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = _address()
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(error) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _address() -> str | None:
    """Return where to find a cluster, None to leave it to Ray: where nobody answers, it would go on trying for minutes.

    Raises:
        CompactError: nobody answers at RAY_ADDRESS.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        if (error := _silence_at(named)) is not None:
            raise _no_cluster(error) from error
        return None
    # Here Ray notes the newest cluster of this machine, and leaves the note when the cluster is killed.
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return "local" if note.is_file() and _silence_at(note.read_text().strip()) is not None else None


def _silence_at(address: str) -> Exception | None:
    """Return why nobody answers at `HOST:PORT`; None where somebody does, or it is a word such as `auto`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return error
    return None


def _no_cluster(error: Exception) -> CompactError:
    return CompactError(
        f"no Ray cluster can be reached or started ({_first_line(error)}); "
        "give its address in RAY_ADDRESS, or unset that for a local one"
    )
