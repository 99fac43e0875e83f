"""`compact generate`: pictures in, a run folder out; the same call goes on where it stopped (paper, steps 1 to 3).

compact generate PICTURES --out RUN
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.engine.journal import Finished, Journal
from compact_hf.engine.loop import run_to_end
from compact_hf.engine.runner import Process, Progress, Runner
from compact_hf.errors import SourceError, UsageError
from compact_hf.images.look import look
from compact_hf.images.source import Source
from compact_hf.records import Picture, Reject, digest
from compact_hf.synthesis.compact.conversation import converse, outcome_of
from compact_hf.synthesis.compact.preset import METHOD, Preset, preset_named
from compact_hf.synthesis.compact.prompts import blind_prompt, teacher_prompt, verifier_prompt
from compact_hf.synthesis.compact.sampling import MAX_K
from compact_hf.synthesis.sources import open_source
from compact_hf.teachers.registry import open_teacher
from compact_hf.teachers.teacher import Exposure, Teacher

DEFAULT_CONCURRENCY: Final = 16
_LOOKS_AHEAD: Final = 4


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, for progress bars.

    Attributes:
        pictures (`int`): pictures to work on in all, as far as is known.
        finished, kept (`int`): pictures that are done, and those of them that became conversations.
        accepted (`int`): accepted questions.
        sent, failures (`int`): requests of this session, and those that got no answer.
        last_failure (`str`): the newest failure, one line, empty where there was none.
    """

    pictures: int
    finished: int = 0
    kept: int = 0
    accepted: int = 0
    sent: int = 0
    failures: int = 0
    last_failure: str = ""


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
        limit (`int`, *optional*): work on the first so many pictures.
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
    judge = open_teacher(verifier or teacher, url=verifier_url or (teacher_url if same else None), seed=seed)
    for asked in (writer, judge):
        if asked.sources is not None and asked.sources != pictures.identity:
            raise UsageError(f"the teacher {asked.name} only knows drawn scenes, got {source}; use --teacher gemini")
    wanted = _checked_ks(ks or chosen.ks, writer)
    run = _Run(pictures, writer, judge, wanted, chosen, seed, limit, concurrency, on_progress)
    journal_at = partial(Journal.open, Path(out), run.identity())
    return run_to_end(partial(run.go, journal_at))


def _checked_ks(ks: tuple[int, ...], teacher: Teacher) -> tuple[int, ...]:
    for k in ks:
        if not 1 <= k <= MAX_K:
            raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
        if k not in teacher.ks:
            raise UsageError(
                f"got k = {k}; the teacher {teacher.name} has questions for k = {teacher.ks.start} to {teacher.ks[-1]}"
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
            "prompts": digest(teacher_prompt(tuple(CAPABILITIES)), verifier_prompt(""), blind_prompt(""), length=12),
            "teacher": self.teacher.name,
            "verifier": self.verifier.name,
            "max_edge": self.preset.max_edge,
        }

    async def go(self, open_journal: Callable[[], Journal], stop: asyncio.Event) -> Standing:
        refs = await asyncio.to_thread(lambda: list(self.source.refs()))
        with open_journal() as journal:
            try:
                return await self._go(journal, refs, stop)
            finally:
                await self.teacher.close()
                await self.verifier.close()

    async def _go(self, journal: Journal, refs: list[str], stop: asyncio.Event) -> Standing:
        done = journal.finished_ids()
        total = min(len(refs), self.limit or len(refs))
        standing = _counted(journal, Standing(total))
        self.on_progress(standing)

        def told(progress: Progress, finished: Finished | None) -> None:
            nonlocal standing
            if finished is not None:
                standing = _with(standing, finished)
            standing = replace(
                standing, sent=progress.sent, failures=progress.failures, last_failure=progress.last_failure
            )
            self.on_progress(standing)

        runner = Runner(
            journal,
            {"teacher": self.teacher, "verifier": self.verifier},
            concurrency=self.concurrency,
            stop=stop,
            on_progress=told,
        )
        await runner.run(self._pictures(journal, refs, done), self._process)
        if not journal.pictures_seen():
            raise SourceError(
                f"none of the {len(refs)} pictures can be used; `compact status {journal.run}` says why of each"
            )
        return standing

    def _process(self, picture: Picture) -> Process:
        def read() -> bytes:
            try:
                return self.source.read(picture.ref)
            except OSError as error:
                raise SourceError(f"{picture.ref} cannot be read any more: {error.strerror}") from error

        exposure = Exposure(read, ref=picture.ref, max_edge=self.preset.max_edge)
        return converse(picture.image_id, exposure, seed=self.seed, ks=self.ks, preset=self.preset)

    async def _pictures(self, journal: Journal, refs: list[str], done: set[str]) -> AsyncGenerator[Picture, None]:
        """Look at the pictures in order, a few ahead, and yield those that are still to be worked on."""
        seen: set[str] = set()
        async for looked in _looked(self.source, journal, refs):
            if not isinstance(looked, Picture) or looked.image_id in seen:
                continue
            seen.add(looked.image_id)
            if looked.image_id not in done:
                yield looked
            if len(seen) == self.limit:
                return


async def _looked(source: Source, journal: Journal, refs: list[str]) -> AsyncGenerator[Picture | Reject, None]:
    """Yield what is seen at each reference, in order; what the journal holds is not looked at again."""
    ahead: deque[tuple[str, str, asyncio.Future[Picture | Reject]]] = deque()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(_LOOKS_AHEAD, thread_name_prefix="look") as pool:
        for ref in refs:
            stamp = source.stamp(ref)
            known = journal.look(ref, stamp)
            if known is not None:
                while ahead:
                    yield await _record(journal, ahead.popleft())
                yield known
                continue
            ahead.append((ref, stamp, loop.run_in_executor(pool, look, source, ref)))
            if len(ahead) == _LOOKS_AHEAD:
                yield await _record(journal, ahead.popleft())
        while ahead:
            yield await _record(journal, ahead.popleft())


async def _record(journal: Journal, looking: tuple[str, str, asyncio.Future[Picture | Reject]]) -> Picture | Reject:
    ref, stamp, future = looking
    seen = await future
    journal.record_look(ref, stamp, seen)
    return seen


def _counted(journal: Journal, standing: Standing) -> Standing:
    for finished in journal.outcomes():
        standing = _with(standing, finished)
    return standing


def _with(standing: Standing, finished: Finished) -> Standing:
    outcome = outcome_of(finished.body)
    accepted = len(outcome.conversation.turns) if outcome.conversation else 0
    return replace(
        standing,
        finished=standing.finished + 1,
        kept=standing.kept + (outcome.conversation is not None),
        accepted=standing.accepted + accepted,
    )
