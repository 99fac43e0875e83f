"""Runs a method over the images of a source: asks the teachers within the limits, and journals replies and outcomes.

The method provides one process per image (process.py); this module does not depend on any method. The same call over
the same run directory resumes the run. `RunProgress` reports how far a run is, for progress bars and callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError, NothingKeptError, SourceError
from compact_hf.images.source import ImageSource
from compact_hf.records import ImageInfo
from compact_hf.runs.budget import Budget
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.image_index import iter_inspected, shuffle_refs
from compact_hf.runs.interrupt import announce_interrupt, run_async_interruptible
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.runs.options import RunLimits
from compact_hf.runs.process import Process, SessionProgress
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.runs.runner import Runner
from compact_hf.runs.shards import Shard
from compact_hf.teachers.base import Role, Teacher
from compact_hf.teachers.prices import Price
from compact_hf.wording import format_command


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Progress of a run, for progress bars.

    Attributes:
        images (`int`): total number of images to process, as known so far; it decreases when images turn out to be
            unusable.
        finished (`int`): number of finished images, over all sessions.
        kept (`int`): number of finished images with at least one accepted question.
        accepted (`int`): number of accepted questions.
        sent (`int`): number of requests sent in this session.
        failures (`int`): number of requests of this session that got no reply.
        last_failure (`str`): message of the newest failure in one line, empty if there was none.
        is_retrying (`bool`, *optional*, defaults to False): whether its request is sent again.
    """

    images: int
    finished: int
    kept: int
    accepted: int
    sent: int
    failures: int
    last_failure: str
    is_retrying: bool = False

    def check_kept(self, run: Path) -> None:
        """Check that a finished run has kept something, since nothing can be assembled from it otherwise.

        Args:
            run (`Path`): the run directory, for the message.

        Raises:
            NothingKeptError: all images are finished, and no question was accepted.
        """
        if self.finished and not self.kept:
            raise NothingKeptError(
                f"no question was accepted about any of the {self.finished:,} images: run `compact status {run}` to "
                "see the reasons, and use another --out for other settings"
            )


class ImageCounter:
    """Counts the images of a run, including those of earlier sessions.

    Args:
        journal (`Journal`): journal of the run, read once.
        total (`int`): number of references in the source, or in the shard.
        limit (`int | None`): maximum number of images to process.

    Attributes:
        unusable (`int`): number of references that turned out to be unusable or duplicates, set by the caller.
    """

    def __init__(self, journal: Journal, total: int, limit: int | None) -> None:
        self.unusable = 0
        self._total = total
        self._limit = limit
        self._finished, self._kept, self._accepted = journal.counts()

    def add(self, finished_image: FinishedImage) -> None:
        """Count an image that was finished in this session.

        Args:
            finished_image (`FinishedImage`): the image.
        """
        self._finished += 1
        self._kept += finished_image.accepted > 0
        self._accepted += finished_image.accepted

    def run_progress(self, session: SessionProgress) -> RunProgress:
        """Return the progress of the run.

        Args:
            session (`SessionProgress`): requests and failures of the current session.
        """
        usable = self._total - self.unusable
        return RunProgress(
            # Earlier sessions may have had a higher limit, or finished images that the source no longer has.
            images=max(self._finished, usable if self._limit is None else min(usable, self._limit)),
            finished=self._finished,
            kept=self._kept,
            accepted=self._accepted,
            sent=session.sent,
            failures=session.failures,
            last_failure=session.last_failure,
            is_retrying=session.is_retrying,
        )


_CHECKPOINT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run, or one shard of it.

    Attributes:
        source (`ImageSource`): the images.
        teachers (`Mapping[Role, Teacher]`): the teacher of each role.
        process (`Callable[[ImageInfo], Process]`): returns the method's process for an image.
        method (`str`): name of the method, for the run's identity.
        settings (`Mapping[str, Any]`): other settings that decide the method's questions, for the identity; JSON
            values.
        seed (`int`, *optional*, defaults to 0): random seed of the order of the images.
        shard (`Shard`, *optional*): the shard to process; None for the whole run.
        limits (`RunLimits`, *optional*): limits of the whole run, of which a shard takes its share.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called after each finished image and each failure.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what is waited for after Ctrl-C, or
            which finished images of the run this call does not select, or which files of the source are skipped.
    """

    source: ImageSource
    teachers: Mapping[Role, Teacher]
    process: Callable[[ImageInfo], Process]
    method: str
    settings: Mapping[str, Any]
    seed: int = 0
    shard: Shard | None = None
    limits: RunLimits = field(default_factory=RunLimits)
    on_progress: Callable[[RunProgress], None] = lambda progress: None
    on_wait: Callable[[str], None] = lambda line: None

    def run(self, out: Path) -> RunProgress:
        """Process all images and write the journal in the run directory `out`; after Ctrl-C, finish what is in flight.

        Args:
            out (`Path`): the run directory: new, empty, or of this run.

        Returns:
            The progress at the end.

        Raises:
            UsageError: the limits need a price that is unknown, or `out` holds another run.
            SourceError: the source has no usable images.
            TeacherError: a teacher refuses permanently, or cannot be reached.
            JournalError: the run directory cannot be used.
            StoppedEarly: Ctrl-C, a budget, or images that could not be finished; the same call resumes.
        """
        limits = self.limits.for_shard(self.shard)
        prices = limits.prices({role: teacher.name for role, teacher in self.teachers.items()})
        open_journal = partial(Journal.open, out, self.identity().to_json())
        with _collect_new_garbage_only():
            return run_async_interruptible(partial(self._run, open_journal, limits, prices))

    def identity(self) -> RunIdentity:
        """Return the identity of the run: the settings that decide its questions, without the limits."""
        return RunIdentity(
            source=self.source.identity,
            method=self.method,
            seed=self.seed,
            teachers={role: teacher.name for role, teacher in self.teachers.items()},
            shard=None if self.shard is None else str(self.shard),
            settings=self.settings,
        )

    async def _run(
        self,
        open_journal: Callable[[], Journal],
        limits: RunLimits,
        prices: Mapping[Role, Price | None],
        stop: asyncio.Event,
    ) -> RunProgress:
        """Process all images; the body of `run` inside the event loop."""
        runner: Runner | None = None

        def count_in_flight() -> int | None:
            return 0 if runner is None else runner.count_in_flight()

        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(announce_interrupt(stop, count_in_flight, self.on_wait))
            # The same order on all machines, of which each shard takes its part.
            refs = await asyncio.to_thread(shuffle_refs, self.source, self.seed)
            if skipped_files := self.source.describe_skipped():
                self.on_wait(skipped_files)
            refs = refs if self.shard is None else self.shard.select(refs)
            for teacher in self.teachers.values():
                stack.push_async_callback(teacher.close)
            journal = stack.enter_context(open_journal())
            journal.record_skipped_files(skipped_files)
            counter = ImageCounter(journal, len(refs), limits.limit)
            self.on_progress(counter.run_progress(SessionProgress()))
            journal.record_image_total(counter.run_progress(SessionProgress()).images)

            def on_progress(session: SessionProgress, finished_image: FinishedImage | None) -> None:
                if finished_image is not None:
                    counter.add(finished_image)
                self.on_progress(counter.run_progress(session))

            runner = Runner(
                journal,
                self.teachers,
                rate_limits=RateLimits(limits.concurrency, limits.rpm, limits.tpm),
                budget=await asyncio.to_thread(create_budget, journal, limits, self.teachers, prices),
                stop=stop,
                on_progress=on_progress,
            )
            await stack.enter_async_context(checkpoints(journal))
            try:
                session = await runner.run(self._iter_images(journal, refs, limits.limit, counter), self.process)
            finally:
                # A single shard may have unusual images only.
                unusable = runner.forget_unusable() if self.shard is None and not journal.counts()[1] else None
            if unusable is not None:
                raise unusable
            # A single shard may contain only broken files, which must not stop the other shards.
            if self.shard is None and not journal.count_images():
                raise SourceError(
                    f"no image can be used, of {len(refs):,} in the source: run "
                    f"`{format_command('compact', 'status', journal.run)}` to see the reasons"
                )
            # Store the total again: some images may have turned out to be unusable.
            journal.record_image_total(counter.run_progress(session).images)
            return counter.run_progress(session)

    async def _iter_images(
        self, journal: Journal, refs: list[str], limit: int | None, counter: ImageCounter
    ) -> AsyncGenerator[ImageInfo, None]:
        """Yield the images that are not finished yet, up to the limit, which counts finished images too."""
        finished_ids = await asyncio.to_thread(journal.finished_ids)
        # Ids of usable images, also of finished ones, because the limit counts both.
        seen: set[str] = set()
        async with contextlib.aclosing(iter_inspected(self.source, journal, refs)) as inspections:
            async for ref, image_id in inspections:
                if image_id is None or image_id in seen:
                    counter.unusable += 1
                    continue
                seen.add(image_id)
                if image_id not in finished_ids and (image := journal.get_image(image_id, ref)) is not None:
                    yield image
                if len(seen) == limit:
                    break
        if finished_ids - seen:
            await self._note_unselected(journal, finished_ids - seen)

    async def _note_unselected(self, journal: Journal, image_ids: set[str]) -> None:
        """Say how many finished images are still in the run although this call does not select them."""
        inspections = await asyncio.to_thread(journal.inspections)
        # Without those that are gone, which assembly leaves out and reports.
        if count := len(image_ids.intersection(image_id for _, image_id in inspections.values() if image_id)):
            self.on_wait(
                f"the run also has {count} finished {'image' if count == 1 else 'images'} that this call does not "
                "select (fewer images or a lower limit than before): assembly uses them too; for a dataset without "
                "them give another --out"
            )


@contextlib.contextmanager
def _collect_new_garbage_only() -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection.

    A collection that includes all objects of the libraries blocks the event loop for 0.2 s.
    """
    if gc.get_freeze_count():  # the calling program freezes objects itself
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.asynccontextmanager
async def checkpoints(journal: Journal) -> AsyncGenerator[None]:
    """Checkpoint the journal every few seconds inside the block, in a thread, because a disk may take tens of ms.

    Args:
        journal (`Journal`): the journal, open for writing.
    """

    async def repeat() -> None:
        # A full disk ends only the checkpoints: the next write reports it, and the log still holds everything.
        with contextlib.suppress(JournalError):
            while True:
                await asyncio.sleep(_CHECKPOINT_S)
                await asyncio.to_thread(journal.checkpoint)

    task = asyncio.ensure_future(repeat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with contextlib.suppress(JournalError):
            await asyncio.to_thread(journal.checkpoint, is_last=True)  # otherwise `close` does it and blocks the loop


def create_budget(
    journal: Journal, limits: RunLimits, teachers: Mapping[Role, Teacher], prices: Mapping[Role, Price | None]
) -> Budget:
    """Return the budget of a run, with the requests and the cost of earlier sessions counted.

    Args:
        journal (`Journal`): journal of the run.
        limits (`RunLimits`): limits of the run, or of its shard.
        teachers (`Mapping[Role, Teacher]`): the teacher of each role.
        prices (`Mapping[Role, Price | None]`): price of each role's teacher.
    """
    # Without a limit, the journal need not be summed up.
    if limits.max_requests is None and limits.max_cost is None:
        return Budget()
    batch_roles = [role for role, teacher in teachers.items() if teacher.is_batch]
    return Budget(limits.max_requests, limits.max_cost, prices=prices, batch_roles=batch_roles, usage=journal.usage())
