"""Tests of the runner with small processes and teachers: streaming, journaling, retries and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from compact_hf.errors import StoppedEarly, TeacherError, TeacherUnavailableError
from compact_hf.records import ImageInfo
from compact_hf.runs.journal import Journal
from compact_hf.runs.process import Process, Result, SessionProgress
from compact_hf.runs.rate_limit import RateLimits, RetryPolicy
from compact_hf.runs.runner import Runner
from compact_hf.teachers.base import EncodedImage, Failure, FailureKind, Reply, Request, Role, Teacher, answer_each

FAST_RETRY = RetryPolicy(max_attempts=3, initial_delay_s=0.001, max_delay_s=0.005, max_overload_s=0.2)


class EchoTeacher:
    """Answers with the prompt in upper case, unless `answer` returns another result."""

    name = "echo"
    ks = range(1, 11)
    source_type: str | None = None
    is_batch = False

    def __init__(self, answer: Callable[[Request, int], Reply | Failure | None] = lambda request, number: None) -> None:
        self.sent: list[str] = []
        self._answer = answer

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        async for item in answer_each(requests, self._answer_request):
            yield item

    async def _answer_request(self, request: Request) -> Reply | Failure:
        number = len(self.sent)
        self.sent.append(request.key)
        await asyncio.sleep(0)
        answer = self._answer(request, number)
        return answer or Reply(request.key, text=request.prompt.upper(), model="echo")

    async def prepare(self, request: Request) -> None: ...

    async def flush(self) -> None: ...

    async def close(self) -> None: ...


class BatchTeacher(EchoTeacher):
    """Holds all requests back until it is flushed, as a batch service does."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self._flushed = asyncio.Event()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        pending: list[Request] = []

        async def collect() -> None:
            while (request := await anext(requests, None)) is not None:
                pending.append(request)

        collector = asyncio.ensure_future(collect())
        try:
            while True:
                await self._flushed.wait()
                await asyncio.sleep(0)  # the flushing task may have just queued a request
                self._flushed.clear()
                batch, pending[:] = list(pending), []
                if batch:
                    self.batches.append(len(batch))
                for request in batch:
                    yield Reply(request.key, text=request.prompt.upper(), model="batch")
        finally:
            collector.cancel()

    async def flush(self) -> None:
        self._flushed.set()


def make_request(image: ImageInfo, prompt: str) -> Request:
    encoded_image = EncodedImage(lambda: b"", ref=image.ref, max_edge=64)
    return Request(f"{image.image_id}-{prompt}", "teacher", image.image_id, encoded_image, prompt, BaseModel)


def make_process(count: int) -> Callable[[ImageInfo], Process]:
    """Return a method whose process asks `count` times, each time about the previous reply."""

    def process(image: ImageInfo) -> Process:
        text = "a"
        for _ in range(count):
            (reply,) = yield [make_request(image, text)]
            text = reply.text + "b"
        return Result(f'"{text}"', 1)

    return process


async def iter_images(count: int) -> AsyncGenerator[ImageInfo, None]:
    for index in range(count):
        yield ImageInfo(f"{index:032x}", f"{index}.jpg", 64, 64, "test")


THREE_ROUNDS = make_process(3)


def run(
    journal: Journal,
    teacher: EchoTeacher,
    *,
    count: int = 5,
    process: Callable[[ImageInfo], Process] = THREE_ROUNDS,
    concurrency: int = 4,
    retry_policy: RetryPolicy = FAST_RETRY,
    stop_at: int | None = None,
) -> SessionProgress:
    async def main() -> SessionProgress:
        stop = asyncio.Event()

        def handle_progress(progress: SessionProgress, finished: object) -> None:
            if stop_at is not None and progress.finished >= stop_at:
                stop.set()

        runner = Runner(
            journal,
            {"teacher": teacher},
            rate_limits=RateLimits(concurrency),
            retry_policy=retry_policy,
            stop=stop,
            on_progress=handle_progress,
        )
        return await asyncio.wait_for(runner.run(iter_images(count), process), 30)

    return asyncio.run(main())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(tmp_path / "run", {})


def read_bodies(journal: Journal) -> list[str]:
    return [finished.body for finished in journal.outcomes()]


def test_every_picture_is_driven_to_its_end(journal: Journal) -> None:
    progress = run(journal, EchoTeacher(), count=20)
    assert (progress.finished, progress.sent) == (20, 60)
    assert read_bodies(journal) == ['"ABBb"'] * 20


def test_several_requests_of_one_step_come_back_in_their_order(journal: Journal) -> None:
    def process(image: ImageInfo) -> Process:
        replies = yield [make_request(image, word) for word in ("one", "two", "three")]
        return Result(" ".join(reply.text for reply in replies), 1)

    run(journal, EchoTeacher(), process=process)
    assert read_bodies(journal) == ["ONE TWO THREE"] * 5


def test_a_journalled_request_is_never_sent_again(journal: Journal) -> None:
    first = EchoTeacher()
    with pytest.raises(StoppedEarly, match="run the same command again to resume"):
        run(journal, first, count=50, stop_at=7)
    second = EchoTeacher()
    run(journal, second, count=50)
    assert not set(first.sent) & set(second.sent)
    assert len(first.sent) + len(second.sent) == 150
    assert read_bodies(journal) == ['"ABBb"'] * 50


def test_a_failure_that_passes_is_retried(journal: Journal) -> None:
    failed: set[str] = set()

    def flaky(request: Request, number: int) -> Failure | None:
        if number % 3 or request.key in failed:
            return None
        failed.add(request.key)
        return Failure(request.key, "hiccup")

    progress = run(journal, EchoTeacher(flaky))
    assert progress.finished == 5
    assert progress.failures == len(failed) > 0


def test_a_picture_that_keeps_failing_does_not_hold_up_the_others(journal: Journal) -> None:
    def poisoned(request: Request, number: int) -> Failure | None:
        return Failure(request.key, "500 for this one") if request.key.startswith(f"{2:032x}") else None

    with pytest.raises(StoppedEarly, match=r"1 image could not be finished \(last failure: 500 for this one\)"):
        run(journal, EchoTeacher(poisoned), count=12)
    assert len(read_bodies(journal)) == 11


def test_a_request_that_keeps_failing_is_sent_exactly_as_many_times_as_allowed(journal: Journal) -> None:
    def poisoned(request: Request, number: int) -> Failure | None:
        return Failure(request.key, "500 for this one") if request.key.startswith(f"{2:032x}") else None

    teacher = EchoTeacher(poisoned)
    with pytest.raises(StoppedEarly):
        run(journal, teacher, count=12)
    assert sum(key.startswith(f"{2:032x}") for key in teacher.sent) == FAST_RETRY.max_attempts


def test_a_teacher_that_never_answers_ends_the_run_in_one_line(journal: Journal) -> None:
    with pytest.raises(TeacherUnavailableError, match="gave up asking echo: no answer; nothing is lost"):
        run(journal, EchoTeacher(lambda request, number: Failure(request.key, "no answer")))


def test_a_teacher_that_goes_away_ends_the_run_and_what_came_is_kept(journal: Journal) -> None:
    with pytest.raises(TeacherUnavailableError):
        run(
            journal,
            EchoTeacher(lambda request, number: Failure(request.key, "gone") if number > 90 else None),
            count=60,
        )
    assert read_bodies(journal)


def test_a_server_that_is_away_for_a_while_is_waited_for(journal: Journal) -> None:
    def away(request: Request, number: int) -> Failure | None:
        return Failure(request.key, "500") if 3 <= number < 60 else None

    # Four requests are in flight; each would be abandoned after three attempts if others were answered in between. The
    # limit of 30 s is for busy machines.
    assert run(journal, EchoTeacher(away), retry_policy=replace(FAST_RETRY, max_overload_s=30)).unfinished == 0
    assert len(read_bodies(journal)) == 5


def test_overload_slows_down_but_loses_nothing(journal: Journal) -> None:
    def storm(request: Request, number: int) -> Failure | None:
        return Failure(request.key, "429", kind=FailureKind.OVERLOADED, retry_after=0.01) if number < 12 else None

    teacher = EchoTeacher(storm)
    assert run(journal, teacher, count=8, concurrency=8).finished == 8
    # All eight requests fail together at first; then one probe is sent after each delay.
    assert len(teacher.sent) == 24 + 12


@pytest.mark.parametrize("answered", [0, 20])
def test_a_storm_that_does_not_end_stops_the_run(journal: Journal, answered: int) -> None:
    def storm(request: Request, number: int) -> Failure | None:
        return (
            Failure(request.key, "429", kind=FailureKind.OVERLOADED, retry_after=0.02) if number >= answered else None
        )

    with pytest.raises(StoppedEarly, match="has been overloaded for too long: 429"):
        run(journal, EchoTeacher(storm), count=60)


@pytest.mark.parametrize("kind", [FailureKind.OVERLOADED, FailureKind.TRANSIENT])
def test_a_delay_longer_than_anybody_waits_stops_the_run_at_once(journal: Journal, kind: FailureKind) -> None:
    def later(request: Request, number: int) -> Failure | None:
        return Failure(request.key, "maintenance", kind=kind, retry_after=3600.0)

    teacher = EchoTeacher(later)
    with pytest.raises(StoppedEarly, match="maintenance; nothing is lost, run the same command later"):
        run(journal, teacher, concurrency=1)
    assert len(teacher.sent) == 1


def test_what_is_in_flight_when_the_run_ends_is_still_journalled(journal: Journal) -> None:
    class Slow(EchoTeacher):
        async def _answer_request(self, request: Request) -> Reply | Failure:
            if not request.key.startswith("0" * 32):
                self.sent.append(request.key)
                await asyncio.sleep(0.2)
                return Reply(request.key, text="late", model="slow")
            while len(self.sent) < 3:
                await asyncio.sleep(0.01)
            return Failure(request.key, "quota", kind=FailureKind.OVERLOADED, retry_after=86400.0)

    teacher = Slow()
    with pytest.raises(StoppedEarly, match="quota"):
        run(journal, teacher, count=4)
    assert len(teacher.sent) == 3
    assert all(journal.get_reply(key) for key in teacher.sent)


def test_a_picture_that_fails_for_good_after_the_stop_is_not_taken_for_a_finished_run(journal: Journal) -> None:
    class Late(EchoTeacher):
        async def _answer_request(self, request: Request) -> Reply | Failure:
            if request.key.startswith(f"{1:032x}"):
                await asyncio.sleep(0.1)
                return Failure(request.key, "400", FailureKind.REJECTED)
            return Reply(request.key, text="said", model="late")

    with pytest.raises(StoppedEarly, match="run the same command again to resume"):
        run(journal, Late(), count=2, process=make_process(1), stop_at=1)
    assert journal.counts()[0] == 1


def test_a_slow_teacher_is_not_given_up_for_one_picture_that_fails_at_once(journal: Journal) -> None:
    class Slow(EchoTeacher):
        async def _answer_request(self, request: Request) -> Reply | Failure:
            if request.key.startswith("0" * 32):
                return Failure(request.key, "500 for this one")
            await asyncio.sleep(0.3)
            return Reply(request.key, text="x", model="slow")

    with pytest.raises(StoppedEarly, match="1 image could not be finished"):
        run(journal, Slow(), count=4)
    assert len(read_bodies(journal)) == 3


def test_a_teacher_that_ends_too_soon_is_not_taken_for_a_finished_run(journal: Journal) -> None:
    class Brief(EchoTeacher):
        async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
            first = await anext(requests)
            yield Reply(first.key, text="x", model="brief")

    with pytest.raises(TeacherError, match="ended before its last reply"):
        run(journal, Brief())


def test_a_teacher_in_both_roles_slows_down_in_both(journal: Journal) -> None:
    first_times: dict[str, float] = {}

    def answer(request: Request, number: int) -> Failure | None:
        first_times.setdefault(request.role, asyncio.get_running_loop().time())
        return Failure(request.key, "429", kind=FailureKind.OVERLOADED, retry_after=0.15) if number == 0 else None

    def process(image: ImageInfo) -> Process:
        yield [replace(make_request(image, "a"), role="teacher" if image.ref == "0.jpg" else "verifier")]
        return Result("{}", 0)

    async def iter_spaced_images() -> AsyncGenerator[ImageInfo, None]:
        async for image in iter_images(2):
            yield image
            await asyncio.sleep(0.05)

    async def main() -> None:
        teacher = EchoTeacher(answer)
        teachers: Mapping[Role, Teacher] = {"teacher": teacher, "verifier": teacher}
        await Runner(journal, teachers, rate_limits=RateLimits(2), retry_policy=FAST_RETRY).run(
            iter_spaced_images(), process
        )

    asyncio.run(main())
    assert first_times["verifier"] - first_times["teacher"] > 0.14


def test_a_hard_refusal_stops_at_once(journal: Journal) -> None:
    def refuse(request: Request, number: int) -> Reply | None:
        if number == 4:
            raise TeacherError("no such model")
        return None

    with pytest.raises(TeacherError, match="no such model"):
        run(journal, EchoTeacher(refuse))


def test_an_error_in_a_process_is_not_swallowed(journal: Journal) -> None:
    def process(image: ImageInfo) -> Process:
        yield [make_request(image, "a")]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(journal, EchoTeacher(), process=process)


@pytest.mark.parametrize(("count", "concurrency", "batches"), [(6, 6, [6, 6, 6]), (6, 100, [6, 6, 6]), (6, 3, [3] * 6)])
def test_a_teacher_that_holds_back_is_flushed_once_nothing_more_can_come(
    journal: Journal, count: int, concurrency: int, batches: list[int]
) -> None:
    teacher = BatchTeacher()
    run(journal, teacher, count=count, concurrency=concurrency)
    assert teacher.batches == batches


def test_a_batch_in_flight_is_waited_for_when_the_other_teacher_ends_the_run(journal: Journal) -> None:
    class SlowBatch(BatchTeacher):
        is_batch = True

        async def flush(self) -> None:
            asyncio.get_running_loop().call_later(0.05, self._flushed.set)

    def process(image: ImageInfo) -> Process:
        yield [replace(make_request(image, "a"), role="teacher" if image.ref == "0.jpg" else "verifier")]
        return Result("{}", 1)

    def no_quota(request: Request, number: int) -> Failure:
        return Failure(request.key, "daily quota", kind=FailureKind.OVERLOADED, retry_after=86400.0)

    async def main() -> None:
        teachers: Mapping[Role, Teacher] = {"teacher": SlowBatch(), "verifier": EchoTeacher(no_quota)}
        await Runner(journal, teachers, rate_limits=RateLimits(4), retry_policy=FAST_RETRY).run(iter_images(2), process)

    with pytest.raises(StoppedEarly, match="daily quota"):
        asyncio.run(main())
    assert [reply.text for _, _, reply in journal.replies()] == ["A"]


def test_after_ctrl_c_single_requests_are_waited_for_and_batches_are_not(journal: Journal) -> None:
    class NeverReady(BatchTeacher):
        is_batch = True

        async def flush(self) -> None: ...

    stop = asyncio.Event()

    class Slow(EchoTeacher):
        async def _answer_request(self, request: Request) -> Reply | Failure:
            stop.set()
            await asyncio.sleep(0.2)
            return await super()._answer_request(request)

    def process(image: ImageInfo) -> Process:
        yield [replace(make_request(image, "a"), role="teacher" if image.ref == "0.jpg" else "verifier")]
        return Result("{}", 1)

    in_flight: list[int | None] = []

    async def main() -> None:
        teachers: Mapping[Role, Teacher] = {"teacher": NeverReady(), "verifier": Slow()}
        runner = Runner(journal, teachers, rate_limits=RateLimits(4), retry_policy=FAST_RETRY, stop=stop)

        async def count() -> None:
            await stop.wait()
            in_flight.append(runner.count_in_flight())

        counting = asyncio.ensure_future(count())
        await asyncio.wait_for(runner.run(iter_images(3), process), 30)
        await counting

    with pytest.raises(StoppedEarly, match="run the same command again to resume"):
        asyncio.run(main())
    assert in_flight == [2]
    assert [reply.text for _, _, reply in journal.replies()] == ["A", "A"]


def test_beside_batches_no_more_pictures_are_made_ready_than_can_be_sent_soon(journal: Journal) -> None:
    class Prepared(EchoTeacher):
        ready = most = 0

        async def prepare(self, request: Request) -> None:
            self.ready += 1
            self.most = max(self.most, self.ready)

        async def _answer_request(self, request: Request) -> Reply | Failure:
            await asyncio.sleep(0.001)
            self.ready -= 1
            return await super()._answer_request(request)

    def process(image: ImageInfo) -> Process:
        (reply,) = yield [make_request(image, "a")]
        yield [replace(make_request(image, reply.text), role="verifier")]
        return Result("", 1)

    writer, judge = Prepared(), BatchTeacher()
    judge.is_batch = True
    teachers: Mapping[Role, Teacher] = {"teacher": writer, "verifier": judge}

    async def main() -> SessionProgress:
        runner = Runner(journal, teachers, rate_limits=RateLimits(4), retry_policy=FAST_RETRY)
        return await asyncio.wait_for(runner.run(iter_images(100), process), 30)

    assert asyncio.run(main()).finished == 100
    assert writer.most <= 8
    assert judge.batches == [100]
