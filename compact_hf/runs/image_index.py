"""The images of a run: looked at once and journalled, and read again only as what they were.

In: a source, a journal and references. Out: what is there, reference by reference, and later the images' bytes.
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
from compact_hf.images.source import ImageSource
from compact_hf.records import ImageInfo, Reject, digest
from compact_hf.runs.journal import Journal

_PREFETCH: Final = 4
# As many as are looked at at a time: they are fetched side by side.
_BLOCKS_PER_SHUFFLE: Final = _PREFETCH
# References that are passed over before the event loop gets its turn.
_YIELD_EVERY: Final = 1000


def shuffle_refs(source: ImageSource, seed: int) -> list[str]:
    """Return all references in the order of the seed, in which a limit takes the first ones.

    Where each image is fetched alone this is a shuffle. Of blocks, such as row groups, a few are taken at a time, as
    the seed draws them, and their images shuffled: so a limit of twenty fetches a few blocks instead of twenty, a
    whole run fetches as it goes, and neighbours are far apart. What is asked about an image does not depend on it.

    Raises:
        SourceError: the source cannot be read, or holds no images.
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
    """Yield each reference with the id of the image there, None where it cannot be used; in the order given.

    Only what the journal does not hold, or what changed since, is looked at, a few ahead. Images that the journal
    knows and the source no longer has are found first, so that the journal says of them too that they are gone.

    Raises:
        SourceError: the source as a whole cannot be read any more.
        JournalError: the journal cannot be written.
    """
    inspections = await asyncio.to_thread(journal.inspections)
    stamps = await asyncio.to_thread(lambda: {ref: source.stamp(ref) for ref in {*inspections, *refs}})
    for ref in sorted(inspections.keys() - set(refs)):
        if inspections[ref][0] != stamps[ref]:
            journal.record_inspection(ref, stamps[ref], await asyncio.to_thread(inspect_image, source, ref))

    loop = asyncio.get_running_loop()
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
            pending.append((ref, None if is_known else loop.run_in_executor(pool, inspect_image, source, ref)))
            while pending and (pending[0][1] is None or len(pending) == _PREFETCH):
                yield await next_result()
        while pending:
            yield await next_result()
    finally:
        # Not here: what is still being looked at may take a while, and requests are in flight.
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)


def reread_verified(source: ImageSource, image: ImageInfo) -> bytes:
    """Return the bytes of an image that was looked at before.

    Raises:
        SourceError: it cannot be read any more, or is another one now.
    """
    hint = "put it back, or run `compact generate` again to leave it out"
    try:
        data = source.read(image.ref)
    except OSError as error:
        raise SourceError(
            f"{image.ref} in {source.identity} cannot be read any more ({error.strerror or error}); {hint}"
        ) from error
    if compute_image_id(data) != image.image_id:
        raise SourceError(f"{image.ref} in {source.identity} is not the picture it was; {hint}")
    return data
