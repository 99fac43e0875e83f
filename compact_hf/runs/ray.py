"""Runs one run as shards on a Ray cluster (`--runner ray`) and collects their journals in one directory.

    compact generate IMAGES --out OUT --runner ray --shards 8

Each shard writes its journal to the local disk of its machine and sends it to the driver every few seconds. A killed
worker therefore loses nothing, and a lost machine loses a few seconds of work. The same call resumes from the journals
that were collected in OUT/shard-I-of-N. Only one process may use OUT at a time, and its number of shards never changes.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from compact_hf.errors import CompactError, JournalError, StoppedEarly, UsageError
from compact_hf.output_directory import OutputDirectory
from compact_hf.runs.interrupt import run_async_interruptible
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.ray_worker import Coordinator, ShardResult, ShardUpdates, remove_local_run, run_shard
from compact_hf.runs.run import RunProgress
from compact_hf.runs.shards import Shard
from compact_hf.runs.snapshot import write_snapshot
from compact_hf.storage import translate_disk_errors
from compact_hf.teachers.registry import BACKENDS
from compact_hf.wording import format_count

RUN_FILE: Final = "ray-run.json"


def ray_directory(out: Path) -> OutputDirectory:
    """Return the directory in which a run on Ray is collected, which the driver locks while it runs.

    Args:
        out (`Path`): directory of the run.
    """
    return OutputDirectory(out, "a run on Ray", RUN_FILE, lock_name="ray-run.lock", error_type=JournalError)


@contextmanager
def lock_ray_run(out: Path, shards: int) -> Iterator[str]:
    """Lock the output directory, and yield the run's name, which identifies it on all machines.

    A new run gets a new random name, which is stored in the directory.

    Args:
        out (`Path`): output directory of the run.
        shards (`int`): number of shards.

    Yields:
        The name of the run.

    Raises:
        UsageError: the directory holds something else, or the run has another number of shards.
        JournalError: another process uses the directory, its ray-run.json is damaged, or it cannot be written.
    """
    directory = ray_directory(out)
    directory.claim()
    with directory.lock():
        if directory.read_settings() is None:
            # A random name, not a hash of the settings: a run that was deleted and started again is a different run,
            # and must not find the old one's files on the machines.
            directory.write_settings({"run": uuid.uuid4().hex, "shards": shards})
        run_info = directory.read_settings() or {}
        name = run_info.pop("run", None)
        if not isinstance(name, str) or "shards" not in run_info:
            raise directory.damaged_error("it lacks the name of the run or the number of shards")
        directory.check(run_info, {"shards": shards})
        yield name


_POLL_S: Final = 0.5  # how often the driver collects updates
_CLEANUP_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 10.0
_MAX_RETRIES: Final = 20
"""Number of times that a shard is started again after its worker or machine was lost."""


def generate_on_ray(
    generate: Callable[..., RunProgress],
    source: str,
    out: str | Path,
    *,
    shards: int,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    on_wait: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> RunProgress:
    """Run `generate` as shards on the connected Ray cluster, or on a local cluster that is started for this call.

    Every machine needs this package, the same images at the same path, and the teacher's key in the environment in
    which its Ray was started. Limits, rates and budgets apply to the whole run. After Ctrl-C the shards finish what is
    in flight; the same call resumes.

    Args:
        generate (`Callable[..., RunProgress]`): the function `generate`, which the machines import from its module. The
            method that its settings name must be installed on the machines too.
        source (`str`): as for `generate`.
        out (`str | Path`): directory in which the shards' run directories are collected: new, empty, or of this run. It
            may be on a network file system.
        shards (`int`): number of shards. Each takes one CPU and, with the teacher `local`, one GPU if the cluster has
            any; shards without a free CPU or GPU wait.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called with the sum over the shards.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what is waited for after Ctrl-C.
        settings: all other keywords of `generate`.

    Returns:
        The progress of the run at its end.

    Raises:
        UsageError, SourceError, TeacherError, JournalError: as for `generate`, from the first shard that raised it.
        NothingKeptError: no shard kept anything.
        StoppedEarly: Ctrl-C, a budget, or workers that were lost too often; the same call resumes.
    """
    all_shards = [Shard(index, shards) for index in range(1, shards + 1)]
    if not all_shards:
        raise UsageError(f"got {shards} shards: give at least 1")
    for name in ("limit", "max_requests"):
        all_shards[-1].share(name, settings.get(name))  # the shard with the smallest share: raises if it is 0
    names = [str(settings.get(role) or "").partition(":")[0] for role in ("teacher", "verifier")]
    backends = {name: BACKENDS[name] for name in names if name in BACKENDS}
    for name, backend in backends.items():
        if backend.is_batch:
            raise UsageError(
                f"--runner ray does not support {name} (one machine is enough to wait for its jobs): omit --runner ray"
            )
    # Absolute, because workers have other working directories.
    if Path(source).exists():
        source = str(Path(source).resolve())
    with lock_ray_run(Path(out), shards) as run_name, _connect_ray() as ray:
        uses_gpu = any(backend.uses_gpu for backend in backends.values())
        # In a cluster without GPUs, a task that asks for one would wait forever.
        gpus = 1 if uses_gpu and ray.cluster_resources().get("GPU") else 0
        ray_run = _RayRun(ray, Path(out), run_name, generate, source, settings, gpus, on_progress, on_wait)
        progress = run_async_interruptible(partial(ray_run.run_shards, all_shards))
    progress.check_kept(Path(out))
    return progress


@dataclass(frozen=True, slots=True)
class _RayRun:
    """One call of `generate_on_ray`: starts the shards, follows their progress, and collects their journals."""

    ray: Any
    out: Path
    run_name: str
    generate: Callable[..., RunProgress]
    source: str
    settings: dict[str, Any]
    gpus: int
    on_progress: Callable[[RunProgress], None]
    on_wait: Callable[[str], None]
    progress_by_shard: dict[Shard, RunProgress] = field(default_factory=dict)

    async def run_shards(self, shards: list[Shard], stop: asyncio.Event) -> RunProgress:
        """Run all shards to their ends and return the total progress; `stop` lets them finish what is in flight.

        Raises:
            CompactError: the first error of a shard, permanent errors first.
        """
        coordinator = self._start_coordinator(shards)
        await self._get(coordinator.get_updates.remote(0))  # wait until it runs: the shards report to it
        tasks = {self._start_task(coordinator, shard): shard for shard in shards}
        results: dict[Shard, ShardResult] = {}
        is_interrupted, last_number = False, 0
        try:
            while tasks:
                # Sent once: the shards then finish what is in flight and end by themselves.
                if stop.is_set() and not is_interrupted:
                    is_interrupted = True
                    if not any(map(_is_fatal, results.values())):
                        self.on_wait(f"finishing the requests of {len(tasks)} shards, press again to stop now")
                    await self._get(coordinator.stop.remote())
                done, _ = await asyncio.to_thread(self.ray.wait, list(tasks), timeout=_POLL_S)
                for ref in done:
                    shard = tasks.pop(ref)
                    results[shard] = await self._get_result(shard, ref)
                    # A permanent error, such as a wrong key, will also stop the other shards: stop them at once.
                    if _is_fatal(results[shard]):
                        stop.set()
                # After the tasks, so that the last journal of a shard that just ended is collected too.
                updates: ShardUpdates = await self._get(coordinator.get_updates.remote(last_number))
                last_number = updates.number
                self._collect(updates)
        finally:
            # Left over only after an error.
            for ref in tasks:
                self.ray.cancel(ref, force=True)
        total = _sum_progress(self.progress_by_shard.values())
        _raise_first_error([results[shard] for shard in shards], total, is_interrupted=is_interrupted)
        await self._clean_up({result.node for result in results.values()})
        return total

    def _start_coordinator(self, shards: list[Shard]) -> Any:
        """Start the coordinator actor, on the driver's machine, with the journals collected so far."""
        files = {shard: self.out / shard.directory_name / FILE_NAME for shard in shards}
        journals = {shard: file.read_bytes() for shard, file in files.items() if file.exists()}
        affinity = self._node_affinity(self.ray.get_runtime_context().get_node_id(), soft=True)
        # No CPU, so that it takes none from the shards; calls are repeated without limit, which its methods allow.
        coordinator = self.ray.remote(Coordinator).options(
            num_cpus=0, max_task_retries=-1, scheduling_strategy=affinity
        )
        return coordinator.remote(journals)

    def _start_task(self, coordinator: Any, shard: Shard) -> Any:
        """Start the task of one shard and return the reference to its result."""
        task = self.ray.remote(run_shard).options(
            name=f"shard {shard}",
            num_cpus=1,
            num_gpus=self.gpus,
            max_retries=_MAX_RETRIES,
            scheduling_strategy="SPREAD",
        )
        return task.remote(
            coordinator,
            self.run_name,
            shard,
            str(self.out / shard.directory_name),
            self.generate,
            self.source,
            self.settings,
        )

    def _node_affinity(self, node: str, *, soft: bool) -> Any:
        return self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=soft)

    async def _get(self, ref: Any) -> Any:
        """Return a result of the coordinator without blocking the event loop."""
        try:
            return await asyncio.to_thread(self.ray.get, ref)
        except self.ray.exceptions.RayActorError as error:
            raise _import_error(error) or StoppedEarly(
                f"Ray lost the actor that the shards report to ({_first_line(error)}): run the same command again to "
                "resume"
            ) from error

    async def _get_result(self, shard: Shard, ref: Any) -> ShardResult:
        """Return the result of a shard's task that has ended; errors of Ray itself become a resumable result."""
        try:
            result: ShardResult = await asyncio.to_thread(self.ray.get, ref)
        except self.ray.exceptions.RayTaskError as error:
            if (import_error := _import_error(error)) is not None:
                raise import_error from error
            raise  # a bug in this package: show the traceback
        except self.ray.exceptions.RayError as error:
            reason = (
                f"Ray gave up on shard {shard} ({_first_line(error)}): nothing is lost, run the same command again to "
                "resume"
            )
            return ShardResult("", (StoppedEarly, reason))
        return result

    def _collect(self, updates: ShardUpdates) -> None:
        """Write the newest journals to the output directory, and report the total progress."""
        for shard, journal in updates.journals.items():
            with translate_disk_errors(JournalError, self.out, "free some space there and run the same command again"):
                write_snapshot(journal, self.out / shard.directory_name)
        if updates.progress:
            self.progress_by_shard.update(updates.progress)
            self.on_progress(_sum_progress(self.progress_by_shard.values()))

    async def _clean_up(self, nodes: set[str]) -> None:
        """Remove the collected run directories from their machines; do not wait long for a machine that is lost."""
        cleanups = [
            self.ray.remote(remove_local_run)
            .options(num_cpus=0, scheduling_strategy=self._node_affinity(node, soft=False))
            .remote(self.run_name)
            for node in nodes
        ]
        await asyncio.to_thread(self.ray.wait, cleanups, num_returns=len(cleanups), timeout=_CLEANUP_TIMEOUT_S)


def _is_fatal(result: ShardResult) -> bool:
    """Return whether a shard ended with a permanent error, such as a refused key, that the others would get too."""
    return result.error is not None and not issubclass(result.error[0], StoppedEarly)


def _raise_first_error(results: list[ShardResult], total: RunProgress, *, is_interrupted: bool) -> None:
    """Raise the first error of the shards: permanent errors first, then those after which the run can be resumed."""
    for kind, message in (
        result.error for result in sorted(results, key=_is_fatal, reverse=True) if result.error is not None
    ):
        if is_interrupted and issubclass(kind, StoppedEarly):
            finished = format_count(total.finished, "image")
            raise StoppedEarly(f"stopped after {finished}; run the same command again to resume")
        raise kind(message)


def _sum_progress(shard_progress: Iterable[RunProgress]) -> RunProgress:
    """Return the sum of the shards' progress, with the last failure of one of them."""
    items = list(shard_progress)
    newest = next((item for item in items if item.last_failure), None)
    return RunProgress(
        images=sum(item.images for item in items),
        finished=sum(item.finished for item in items),
        kept=sum(item.kept for item in items),
        accepted=sum(item.accepted for item in items),
        sent=sum(item.sent for item in items),
        failures=sum(item.failures for item in items),
        last_failure=newest.last_failure if newest else "",
        is_retrying=newest is not None and newest.is_retrying,
    )


def _import_error(error: Exception) -> CompactError | None:
    """Return an error to raise if a machine could not import the package, which only the text of `error` shows."""
    lines = [line for line in str(error).splitlines() if "ModuleNotFoundError:" in line or "ImportError:" in line]
    if not lines:
        return None
    return CompactError(
        f"a machine of the Ray cluster cannot load compact_hf ({lines[-1].strip()}): "
        "install the same version with the same extras on all machines"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextlib.contextmanager
def _connect_ray() -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; disconnect at the end if this call connected it.

    Ray prints to stdout, which is for data, so stdout is redirected to stderr inside the block.
    """
    import ray

    with contextlib.redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        # No usage statistics are sent unless users choose so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = _find_address()
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster_error(error) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _find_address() -> str | None:
    """Return the address for `ray.init`: `local` starts a new cluster, None lets Ray look for one.

    The address is tested first, because Ray retries an unreachable one for minutes.

    Raises:
        CompactError: RAY_ADDRESS cannot be reached.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        if (error := _connect_error(address)) is not None:
            raise _no_cluster_error(error) from error
        return None
    # Ray stores the address of this machine's newest cluster here, and does not remove it if the cluster is killed.
    cluster_file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return "local" if cluster_file.is_file() and _connect_error(cluster_file.read_text().strip()) is not None else None


def _connect_error(address: str) -> Exception | None:
    """Return why `HOST:PORT` cannot be reached; None if it can, or if the address is a word such as `auto`."""
    # From the right, because an IPv6 address has colons of its own.
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return error
    return None


def _no_cluster_error(error: Exception) -> CompactError:
    return CompactError(
        f"no Ray cluster can be reached or started ({_first_line(error)}): "
        "set RAY_ADDRESS to the cluster's address, or unset it to use a local cluster"
    )
