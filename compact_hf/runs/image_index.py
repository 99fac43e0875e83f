"""The pictures of a run: looked at once and journalled, and read again only as what they were.

In: a source, a journal and references. Out: what is there, reference by reference, and later the pictures' bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from compact_hf.errors import SourceError
from compact_hf.images.inspection import image_id_of, look
from compact_hf.images.source import Source
from compact_hf.records import Picture, Reject, digest
from compact_hf.runs.journal import Journal

_LOOKS_AHEAD: Final = 4
# As many as are looked at at a time: they are fetched side by side.
_BLOCKS_MIXED: Final = _LOOKS_AHEAD
# References that are passed over before the event loop gets its turn.
_AT_A_STRETCH: Final = 1000


def drawn(source: Source, seed: int) -> list[str]:
    """Return all references in the order of the seed, in which a limit takes the first ones.

    Where each picture is fetched alone this is a shuffle. Of blocks, such as row groups, a few are taken at a time, as
    the seed draws them, and their pictures shuffled: so a limit of twenty fetches a few blocks instead of twenty, a
    whole run fetches as it goes, and neighbours are far apart. What is asked about a picture does not depend on it.

    Raises:
        SourceError: the source cannot be read, or holds no pictures.
    """
    blocks: dict[str, list[str]] = {}
    for ref in source.refs():
        blocks.setdefault(source.block(ref), []).append(ref)
    place = partial(digest, "order", seed)
    names = sorted(blocks, key=place)
    hands = (names[start : start + _BLOCKS_MIXED] for start in range(0, len(names), _BLOCKS_MIXED))
    return [ref for hand in hands for ref in sorted((ref for name in hand for ref in blocks[name]), key=place)]


async def looked_at(source: Source, journal: Journal, refs: Sequence[str]) -> AsyncGenerator[tuple[str, str | None]]:
    """Yield each reference with the id of the picture there, None where it cannot be used; in the order given.

    Only what the journal does not hold, or what changed since, is looked at, a few ahead. Pictures that the journal
    knows and the source no longer has are found first, so that the journal says of them too that they are gone.

    Raises:
        SourceError: the source as a whole cannot be read any more.
        JournalError: the journal cannot be written.
    """
    held = await asyncio.to_thread(journal.looks)
    stamps = await asyncio.to_thread(lambda: {ref: source.stamp(ref) for ref in {*held, *refs}})
    for ref in sorted(held.keys() - set(refs)):
        if held[ref][0] != stamps[ref]:
            journal.record_look(ref, stamps[ref], await asyncio.to_thread(look, source, ref))

    loop = asyncio.get_running_loop()
    ahead: deque[tuple[str, asyncio.Future[Picture | Reject] | None]] = deque()

    async def first() -> tuple[str, str | None]:
        ref, looking = ahead.popleft()
        if looking is None:
            return ref, held[ref][1]
        seen = await looking
        journal.record_look(ref, stamps[ref], seen)
        return ref, seen.image_id if isinstance(seen, Picture) else None

    pool = ThreadPoolExecutor(_LOOKS_AHEAD, thread_name_prefix="look")
    try:
        for number, ref in enumerate(refs):
            if number % _AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            known = ref in held and held[ref][0] == stamps[ref]
            ahead.append((ref, None if known else loop.run_in_executor(pool, look, source, ref)))
            while ahead and (ahead[0][1] is None or len(ahead) == _LOOKS_AHEAD):
                yield await first()
        while ahead:
            yield await first()
    finally:
        # Not here: what is still being looked at may take a while, and requests are in flight.
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)


def read_again(source: Source, picture: Picture) -> bytes:
    """Return the bytes of a picture that was looked at before.

    Raises:
        SourceError: it cannot be read any more, or is another one now.
    """
    what_to_do = "put it back, or run `compact generate` again to leave it out"
    try:
        data = source.read(picture.ref)
    except OSError as error:
        raise SourceError(
            f"{picture.ref} in {source.identity} cannot be read any more ({error.strerror or error}); {what_to_do}"
        ) from error
    if image_id_of(data) != picture.image_id:
        raise SourceError(f"{picture.ref} in {source.identity} is not the picture it was; {what_to_do}")
    return data
