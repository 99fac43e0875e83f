"""A run: a source's images, the teachers that are asked about them, and what that may cost. It knows no method.

A method gives a process for each image; what comes of it is in the journal of the run directory, and the same call
resumes. `Standing` says how far a run is, for progress bars and callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError, SourceError, UsageError
from compact_hf.images.source import Source
from compact_hf.records import Picture
from compact_hf.runs.budget import Budget
from compact_hf.runs.image_index import drawn, looked_at
from compact_hf.runs.interrupt import run_to_end
from compact_hf.runs.journal import Finished, Journal
from compact_hf.runs.process import Process, Progress
from compact_hf.runs.rate_limit import Limits
from compact_hf.runs.runner import Runner
from compact_hf.runs.shards import Shard
from compact_hf.teachers.base import Reply, Role, Teacher
from compact_hf.teachers.prices import Price, price_in_words, prices_of


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, for progress bars.

    Attributes:
        pictures (`int`): pictures to work on in all, as far as is known: fewer as some turn out to be unusable.
        finished, kept (`int`): pictures that are done, and those of them that became conversations.
        accepted (`int`): accepted questions.
        sent, failures (`int`): requests of this session, and those that got no answer.
        last_failure (`str`): the newest failure, one line, empty where there was none.
    """

    pictures: int
    finished: int
    kept: int
    accepted: int
    sent: int
    failures: int
    last_failure: str


class Tally:
    """Counts a run's pictures, those of earlier sessions included."""

    def __init__(self, journal: Journal, listed: int, limit: int | None) -> None:
        self.unusable = 0
        self._listed = listed
        self._limit = limit
        self._finished, self._kept, self._accepted = journal.counts()

    def add(self, finished: Finished) -> None:
        self._finished += 1
        self._kept += finished.accepted > 0
        self._accepted += finished.accepted

    def standing(self, progress: Progress) -> Standing:
        usable = self._listed - self.unusable
        return Standing(
            # Earlier sessions may have gone beyond today's limit, or seen pictures that are gone.
            pictures=max(self._finished, usable if self._limit is None else min(usable, self._limit)),
            finished=self._finished,
            kept=self._kept,
            accepted=self._accepted,
            sent=progress.sent,
            failures=progress.failures,
            last_failure=progress.last_failure,
        )


DEFAULT_CONCURRENCY: Final = 16
# What one request is taken to cost before there is any reply: a picture and a page of text in, a few lines out.
_FIRST_GUESS: Final = (2_000, 300)
_CHECKPOINT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How much is asked, how fast, and for how much money. All of it is free to change when a run goes on.

    Attributes:
        limit (`int | None`): pictures to work on, drawn at random by the seed; a larger limit adds to them.
        concurrency (`int`): requests in flight.
        rpm, tpm (`float | None`): requests and tokens a minute.
        max_requests (`int | None`): requests that are answered, over all sessions of the run.
        max_cost (`float | None`): US dollars, over all sessions.
        price_in, price_out (`float | None`): US dollars per million tokens, where genai-prices does not know them.

    Raises:
        UsageError: a number that is none of these.
    """

    limit: int | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    rpm: float | None = None
    tpm: float | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "concurrency", "max_requests"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"got {name} {value}; it must be at least 1")
        for name in ("rpm", "tpm", "max_cost"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UsageError(f"got {name} {value:g}; it must be above 0 and finite")

    def of(self, shard: Shard | None) -> Terms:
        """Return one shard's part of what the whole run may work on and spend."""
        if shard is None:
            return self
        return replace(
            self,
            limit=shard.share("limit", self.limit),
            max_requests=shard.share("max_requests", self.max_requests),
            rpm=shard.portion(self.rpm),
            tpm=shard.portion(self.tpm),
            max_cost=shard.portion(self.max_cost),
        )

    def prices(self, teachers: Mapping[Role, str]) -> dict[Role, Price | None]:
        """Return what each role's teacher charges, by its name.

        Raises:
            UsageError: `max_cost` is set, and nobody knows what one of them charges.
        """
        found = prices_of(teachers, price_in=self.price_in, price_out=self.price_out)
        for role, price in found.items():
            if price is None and self.max_cost is not None:
                raise UsageError(f"a limit on the cost needs prices: {price_in_words(teachers[role], price)}")
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """One run, or one shard of it.

    Attributes:
        source (`Source`): the pictures.
        teachers (`Mapping[Role, Teacher]`): who is asked in each role.
        process (`Callable[[Picture], Process]`): the method.
        settings (`Mapping[str, Any]`): what decides the method's questions, as JSON values: a part of the identity.
        seed (`int`): decides the order of the pictures.
        shard (`Shard | None`): the part to work on, None for all.
        terms (`Terms`): of the whole run.
        on_progress (`Callable[[Standing], None]`): called as work proceeds.
    """

    source: Source
    teachers: Mapping[Role, Teacher]
    process: Callable[[Picture], Process]
    settings: Mapping[str, Any]
    seed: int = 0
    shard: Shard | None = None
    terms: Terms = field(default_factory=Terms)
    on_progress: Callable[[Standing], None] = lambda standing: None

    def to_end(self, out: Path) -> Standing:
        """Work on every picture, journalling into the run folder `out`; Ctrl-C finishes what is in flight.

        Raises:
            UsageError: terms that cannot be kept, or `out` holds another run.
            SourceError: there are no pictures to work on.
            TeacherError: a teacher refuses, or cannot be reached.
            JournalError: the run folder cannot be used.
            StoppedEarly: Ctrl-C, a budget, or pictures that could not be finished; the same call goes on.
        """
        terms = self.terms.of(self.shard)
        prices = terms.prices({role: teacher.name for role, teacher in self.teachers.items()})
        return run_to_end(partial(self._go, partial(Journal.open, out, self.identity()), terms, prices))

    def identity(self) -> dict[str, Any]:
        """Return what decides the questions; terms do not."""
        named: dict[str, str] = {role: teacher.name for role, teacher in self.teachers.items()}
        part = {} if self.shard is None else {"shard": str(self.shard)}
        return {"source": self.source.identity, "seed": self.seed, **named, **part, **self.settings}

    async def _go(
        self,
        open_journal: Callable[[], Journal],
        terms: Terms,
        prices: Mapping[Role, Price | None],
        stop: asyncio.Event,
    ) -> Standing:
        refs = await asyncio.to_thread(drawn, self.source, self.seed)
        refs = refs if self.shard is None else self.shard.own(refs)
        async with contextlib.AsyncExitStack() as opened:
            for teacher in self.teachers.values():
                opened.push_async_callback(teacher.close)
            journal = opened.enter_context(open_journal())
            tally = Tally(journal, len(refs), terms.limit)
            self.on_progress(tally.standing(Progress()))
            journal.record_plan(tally.standing(Progress()).pictures)

            def told(progress: Progress, finished: Finished | None) -> None:
                if finished is not None:
                    tally.add(finished)
                self.on_progress(tally.standing(progress))

            runner = Runner(
                journal,
                self.teachers,
                limits=Limits(terms.concurrency, terms.rpm, terms.tpm),
                budget=await asyncio.to_thread(budget_of, journal, terms, prices),
                stop=stop,
                on_progress=told,
            )
            await opened.enter_async_context(checkpoints(journal))
            progress = await runner.run(self._pictures(journal, refs, terms.limit, tally), self.process)
            # A shard may hold broken files only; the others go on.
            if self.shard is None and not journal.pictures_seen():
                raise SourceError(
                    f"none of the {len(refs)} pictures can be used; `compact status {journal.run}` says why of each"
                )
            # Some may have turned out to be unusable.
            journal.record_plan(tally.standing(progress).pictures)
            return tally.standing(progress)

    async def _pictures(
        self, journal: Journal, refs: list[str], limit: int | None, tally: Tally
    ) -> AsyncGenerator[Picture, None]:
        """Yield the pictures that are still to be worked on."""
        done = await asyncio.to_thread(journal.finished_ids)
        seen: set[str] = set()
        async with contextlib.aclosing(looked_at(self.source, journal, refs)) as looks:
            async for ref, image_id in looks:
                if image_id is None or image_id in seen:
                    tally.unusable += 1
                    continue
                seen.add(image_id)
                if image_id not in done and (picture := journal.picture(image_id, ref)) is not None:
                    yield picture
                if len(seen) == limit:
                    return


@contextlib.asynccontextmanager
async def checkpoints(journal: Journal) -> AsyncGenerator[None]:
    """Checkpoint the journal every few seconds inside the block, off the event loop: a disk may take tens of ms."""

    async def repeat() -> None:
        # A full disk ends this alone: the next write says so, and nothing is lost.
        with contextlib.suppress(JournalError):
            while True:
                await asyncio.sleep(_CHECKPOINT_S)
                await asyncio.to_thread(journal.checkpoint)

    repeating = asyncio.ensure_future(repeat())
    try:
        yield
    finally:
        repeating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await repeating


def budget_of(journal: Journal, terms: Terms, prices: Mapping[Role, Price | None]) -> Budget:
    """Return what a run may still cost, with what it has cost so far."""

    def cost_of(role: Role, reply: Reply) -> float:
        price = prices[role]
        return 0.0 if price is None else price.cost(reply.input_tokens, reply.output_tokens)

    if terms.max_requests is None and terms.max_cost is None:
        return Budget()
    spent = journal.spending()
    known = [(price, one) for one in spent if (price := prices[one.role]) is not None]
    return Budget(
        terms.max_requests,
        terms.max_cost,
        cost_of,
        first_guess=max((price.cost(*_FIRST_GUESS) for price in prices.values() if price is not None), default=0.0),
        requests=sum(one.requests for one in spent),
        cost=sum(price.cost(one.input_tokens, one.output_tokens) for price, one in known),
    )
