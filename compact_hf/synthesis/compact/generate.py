"""`compact generate`: pictures in, a run folder out; the same call goes on where it stopped (paper, steps 1 to 3).

compact generate PICTURES --out RUN
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.engine.journal import Finished, Journal
from compact_hf.engine.loop import run_to_end
from compact_hf.engine.rates import Limits
from compact_hf.engine.runner import Process, Progress, Runner
from compact_hf.errors import SourceError, UsageError
from compact_hf.images.source import Source
from compact_hf.records import Picture, digest
from compact_hf.synthesis.compact.conversation import converse
from compact_hf.synthesis.compact.preset import METHOD, Preset, preset_named
from compact_hf.synthesis.compact.prompts import prompts_version
from compact_hf.synthesis.compact.sampling import MAX_K
from compact_hf.synthesis.pictures import looked_at, read_again
from compact_hf.synthesis.sources import open_source
from compact_hf.teachers.registry import open_teacher
from compact_hf.teachers.teacher import Exposure, Teacher

DEFAULT_CONCURRENCY: Final = 16


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


def generate(
    source: str,
    out: str | Path,
    *,
    teacher: str | None = None,
    teacher_url: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
    ks: tuple[int, ...] | None = None,
    limit: int | None = None,
    preset: str = "paper",
    strict: bool = False,
    seed: int = 0,
    concurrency: int = DEFAULT_CONCURRENCY,
    noise: float = 0.0,
    on_progress: Callable[[Standing], None] = lambda standing: None,
) -> Standing:
    """Ask a teacher about pictures and have every question verified; all goes into the run folder `out`.

    Works in a notebook too. Ctrl-C finishes what is in flight and stops; the same call goes on.

    Args:
        source (`str`): a folder, or `scenes:N`.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        teacher, verifier (`str`, *optional*): `NAME[:MODEL]`. The teacher defaults to `scenes` for scenes and to
            `gemini` otherwise; the verifier to the teacher, without its noise.
        teacher_url, verifier_url (`str`, *optional*): other servers; the verifier's defaults to the teacher's.
        ks (`tuple[int, ...]`, *optional*, defaults to the preset's): each image's k is drawn uniformly from these.
        limit (`int`, *optional*): work on so many pictures, drawn at random by the seed; a larger limit adds to them.
        preset (`str`, *optional*, defaults to `paper`): the method's parameters by name.
        strict (`bool`, *optional*, defaults to False): two checks more: the verifier's own answer must agree, and the
            question must not be answered rightly without the picture (one request more per question).
        seed (`int`, *optional*, defaults to 0): decides every draw.
        concurrency (`int`, *optional*, defaults to 16): pictures worked on at the same time.
        noise (`float`, *optional*, defaults to 0.0): share of faulty drafts that the scenes teacher plants.
        on_progress (`Callable[[Standing], None]`, *optional*): called as work proceeds.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there are no pictures to work on.
        TeacherError: the teacher refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, or pictures that could not be finished; the same call goes on.
    """
    for name, value in (("concurrency", concurrency), ("limit", 1 if limit is None else limit)):
        if value < 1:
            raise UsageError(f"got {name} {value}; it must be at least 1")
    pictures = open_source(source)
    chosen = preset_named(preset, strict=strict)
    is_scenes = pictures.identity == "scenes"
    teacher = teacher or ("scenes" if is_scenes else "gemini")
    writer = open_teacher(teacher, url=teacher_url, noise=noise, seed=seed)
    same = verifier is None or verifier == teacher
    judging_url = verifier_url or (teacher_url if same else None)
    judge = (
        writer
        if same and judging_url == teacher_url and not noise
        else open_teacher(verifier or teacher, url=judging_url, seed=seed)
    )
    for asked in (writer, judge):
        if asked.sources is not None and asked.sources != pictures.identity:
            raise UsageError(f"the teacher {asked.name} only knows drawn scenes, got {source}; use --teacher gemini")
    wanted = _checked_ks(ks or chosen.ks, writer, chosen)
    run = _Run(pictures, writer, judge, wanted, chosen, seed, limit, concurrency, on_progress)
    journal_at = partial(Journal.open, Path(out), run.identity())
    return run_to_end(partial(run.go, journal_at))


def _checked_ks(ks: tuple[int, ...], teacher: Teacher, preset: Preset) -> tuple[int, ...]:
    for k in ks:
        if not 1 <= k <= MAX_K:
            raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
        if k not in teacher.ks:
            raise UsageError(
                f"got k = {k}; the teacher {teacher.name} has questions for k = {teacher.ks.start} to {teacher.ks[-1]}"
            )
        if math.comb(MAX_K, k) < preset.min_turns:
            raise UsageError(
                f"got k = {k}, which leaves {math.comb(MAX_K, k)} combination to ask for; "
                f"a picture needs {preset.min_turns} questions to be kept, so give k up to {MAX_K - 1}"
            )
    return tuple(sorted(set(ks)))


@dataclass(frozen=True, slots=True)
class _Run:
    source: Source
    teacher: Teacher
    verifier: Teacher
    ks: tuple[int, ...]
    preset: Preset
    seed: int
    limit: int | None
    concurrency: int
    on_progress: Callable[[Standing], None]

    def identity(self) -> dict[str, Any]:
        """Return what decides the questions. Limit and concurrency do not: they may change on resume."""
        return {
            "source": self.source.identity,
            "seed": self.seed,
            "k": list(self.ks),
            "method": METHOD,
            "preset": self.preset.preset_version,
            "prompts": prompts_version(self.preset.combinations_per_request),
            "teacher": self.teacher.name,
            "verifier": self.verifier.name,
            "max_edge": self.preset.max_edge,
        }

    async def go(self, open_journal: Callable[[], Journal], stop: asyncio.Event) -> Standing:
        refs = await asyncio.to_thread(lambda: sorted(self.source.refs(), key=partial(digest, "order", self.seed)))
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(self.teacher.close)
            opened.push_async_callback(self.verifier.close)
            return await self._go(opened.enter_context(open_journal()), refs, stop)

    async def _go(self, journal: Journal, refs: list[str], stop: asyncio.Event) -> Standing:
        tally = _Tally(journal, refs, self.limit)
        self.on_progress(tally.standing(Progress()))

        def told(progress: Progress, finished: Finished | None) -> None:
            if finished is not None:
                tally.add(finished)
            self.on_progress(tally.standing(progress))

        runner = Runner(
            journal,
            {"teacher": self.teacher, "verifier": self.verifier},
            limits=Limits(self.concurrency),
            stop=stop,
            on_progress=told,
        )
        progress = await runner.run(self._pictures(journal, refs, tally), self._process)
        if not journal.pictures_seen():
            raise SourceError(
                f"none of the {len(refs)} pictures can be used; `compact status {journal.run}` says why of each"
            )
        return tally.standing(progress)

    def _process(self, picture: Picture) -> Process:
        exposure = Exposure(partial(read_again, self.source, picture), ref=picture.ref, max_edge=self.preset.max_edge)
        return converse(picture.image_id, exposure, seed=self.seed, ks=self.ks, preset=self.preset)

    async def _pictures(self, journal: Journal, refs: list[str], tally: _Tally) -> AsyncGenerator[Picture, None]:
        """Yield the pictures that are still to be worked on."""
        done = journal.finished_ids()
        seen: set[str] = set()
        async with contextlib.aclosing(looked_at(self.source, journal, refs)) as looks:
            async for ref, image_id in looks:
                if image_id is None or image_id in seen:
                    tally.unusable += 1
                    continue
                seen.add(image_id)
                if image_id not in done and (picture := journal.picture(image_id, ref)) is not None:
                    yield picture
                if len(seen) == self.limit:
                    return


class _Tally:
    """Counts a run's pictures, those of earlier sessions included."""

    def __init__(self, journal: Journal, refs: list[str], limit: int | None) -> None:
        self.unusable = 0
        self._listed = len(refs)
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
