"""Inspects the images of a run once, journals the results, and verifies images when they are read again.

The order of the images is a seeded shuffle of the source's references. An image is identified by its content, so an
image that changed since its inspection is never used as the old one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from compact_hf.errors import SourceError
from compact_hf.images.inspection import compute_image_id, inspect_image
from compact_hf.images.questions import VqaSource
from compact_hf.images.source import ImageSource
from compact_hf.records import ImageInfo, Reject, RowReject, digest
from compact_hf.runs.journal import Journal

_PREFETCH: Final = 4
# The blocks of a group are fetched in parallel by the inspection threads.
_BLOCKS_PER_SHUFFLE: Final = _PREFETCH
# Number of references after which other tasks of the event loop may run: known references involve no other await.
_YIELD_EVERY: Final = 1000


def shuffle_refs(source: ImageSource, seed: int) -> list[str]:
    """Return all references of a source in the shuffled order of a seed; a limit takes the first ones.

    If each image is fetched alone, this is a plain shuffle. If images are fetched in blocks, such as Parquet row
    groups, the blocks are shuffled, and the images are shuffled within groups of a few blocks. A limit of 20 images
    then fetches a few blocks instead of 20, a whole run fetches blocks as it proceeds, and neighbouring images of the
    source are still separated. The questions about an image do not depend on the order.

    Args:
        source (`ImageSource`): the images.
        seed (`int`): random seed.

    Raises:
        SourceError: the source cannot be read, or contains no images.
    """
    blocks: dict[str, list[str]] = {}
    for ref in source.refs():
        blocks.setdefault(source.block(ref), []).append(ref)
    sort_key = partial(digest, "order", seed)
    names = sorted(blocks, key=sort_key)
    groups = (names[start : start + _BLOCKS_PER_SHUFFLE] for start in range(0, len(names), _BLOCKS_PER_SHUFFLE))
    return [ref for group in groups for ref in sorted((ref for name in group for ref in blocks[name]), key=sort_key)]


async def iter_inspected(
    source: ImageSource, journal: Journal, refs: Sequence[str]
) -> AsyncGenerator[tuple[str, str | None]]:
    """Yield each reference with the id of its image, or None if the image cannot be used; in the order given.

    Only images that are missing from the journal or that changed since are inspected, a few ahead of the consumer.
    Images that are in the journal but no longer in the source are inspected first, so that the journal records them as
    missing.

    Args:
        source (`ImageSource`): the images.
        journal (`Journal`): stores the results of inspections.
        refs (`Sequence[str]`): the references to inspect.

    Yields:
        `(ref, image_id)`, the id None for an unusable image.

    Raises:
        SourceError: the source as a whole can no longer be read.
        JournalError: the journal cannot be written.
    """
    inspections = await asyncio.to_thread(journal.inspections)
    stamps = await asyncio.to_thread(lambda: {ref: source.stamp(ref) for ref in {*inspections, *refs}})
    for ref in sorted(inspections.keys() - set(refs)):
        if inspections[ref][0] != stamps[ref]:
            journal.record_inspection(ref, stamps[ref], await asyncio.to_thread(_inspect, source, ref))

    loop = asyncio.get_running_loop()
    # (reference, its running inspection), oldest first; None instead of an inspection if the journal has the result.
    pending: deque[tuple[str, asyncio.Future[ImageInfo | Reject] | None]] = deque()

    async def next_result() -> tuple[str, str | None]:
        ref, future = pending.popleft()
        if future is None:
            return ref, inspections[ref][1]
        result = await future
        journal.record_inspection(ref, stamps[ref], result)
        return ref, result.image_id if isinstance(result, ImageInfo) else None

    pool = ThreadPoolExecutor(_PREFETCH, thread_name_prefix="look")
    try:
        for index, ref in enumerate(refs):
            if index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            is_known = ref in inspections and inspections[ref][0] == stamps[ref]
            pending.append((ref, None if is_known else loop.run_in_executor(pool, _inspect, source, ref)))
            while pending and (pending[0][1] is None or len(pending) == _PREFETCH):
                yield await next_result()
        while pending:
            yield await next_result()
    finally:
        # In a thread: inspections that still run may take a while, and the event loop has requests in flight.
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)


def _inspect(source: ImageSource, ref: str) -> ImageInfo | Reject:
    """Inspect an image; if it cannot be used, count the rows of its dataset that are lost."""
    result = inspect_image(source, ref)
    if isinstance(result, Reject) and isinstance(source, VqaSource):
        rows, questions = source.count_lost(ref)
        return RowReject(result.stage, result.reason, ref, result.detail, rows=rows, questions=questions)
    return result


def reread_verified(source: ImageSource, image: ImageInfo) -> bytes:
    """Return the bytes of an image that was inspected before.

    Args:
        source (`ImageSource`): where the image is.
        image (`ImageInfo`): the result of its inspection.

    Raises:
        SourceError: the image can no longer be read, or its content changed.
    """
    # Running it again inspects the image again, because its stamp is another one.
    hint = "restore the image, or run the command that made the run again, which"
    try:
        data = source.read(image.ref)
    except OSError as error:
        raise SourceError(
            f"{image.ref} in {source.identity} can no longer be read ({error.strerror or error}): {hint} leaves it out"
        ) from error
    if compute_image_id(data) != image.image_id:
        raise SourceError(
            f"{image.ref} in {source.identity} is not the same image as before: {hint} treats it as a new image"
        )
    return data
