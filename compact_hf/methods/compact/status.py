"""`compact status RUN`: what a run has done and spent so far, read from its journal, also while it is running."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.methods.compact.conversation import outcome_of
from compact_hf.methods.compact.counts import Fared, Planted, Rejected, Tally
from compact_hf.methods.compact.preset import CONVERSING, PAPER
from compact_hf.records import Reject, from_json
from compact_hf.runs.journal import Journal, Spending
from compact_hf.runs.shards import runs_in
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, prices_of

ROLES: Final[tuple[Role, ...]] = ("teacher", "verifier")


@dataclass(frozen=True, slots=True)
class Spent:
    """What one role was asked and what that cost.

    Attributes:
        teacher (`str`): who is asked, `NAME:MODEL`.
        requests, input_tokens, output_tokens (`int`): answered requests and their tokens as billed.
        price (`Price | None`): what the teacher charges today, None where nobody knows.
        cost (`float | None`): USD, at the prices of the days on which it was asked.
    """

    teacher: str
    requests: int
    input_tokens: int
    output_tokens: int
    price: Price | None
    cost: float | None


def spent_by_role(
    counted: Sequence[Spending],
    identity: Mapping[str, Any],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> dict[Role, Spent]:
    """Return what each role of a run was asked, and what that cost.

    Args:
        counted (`Sequence[Spending]`): from the run's journal, or those of all its shards.
        identity (`Mapping[str, Any]`): the run's settings, which name who is asked.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        UsageError: the prices are not two, or negative.
    """
    teachers = {role: identity[role] for role in ROLES if role in identity}
    priced = partial(prices_of, teachers, price_in=price_in, price_out=price_out)
    today, of_day = priced(), {day: priced(at=datetime.fromisoformat(day)) for day in {one.day for one in counted}}
    found: dict[Role, Spent] = {}
    for role, teacher in teachers.items():
        own = [one for one in counted if one.role == role]
        into, out = sum(one.input_tokens for one in own), sum(one.output_tokens for one in own)
        costs = [
            price.cost(one.input_tokens, one.output_tokens)
            for one in own
            if (price := of_day[one.day][role]) is not None
        ]
        known = today[role] is not None and len(costs) == len(own)
        requests = sum(one.requests for one in own)
        found[role] = Spent(teacher, requests, into, out, today[role], math.fsum(costs) if known else None)
    return found


IDLE_S: Final = 300.0
"""Seconds without a finished picture after which a run is taken to stand still."""
_NOISY: Final = "scenes:noise"
"""How a teacher's name starts that plants faults."""
_NEWEST: Final = 500
"""Finished pictures, at most, by which the pace is taken."""


@dataclass(frozen=True, slots=True)
class Status:
    """A run in numbers; of a method that makes no conversations only what all methods have.

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures, finished, conversations, questions (`int`): pictures that could be read, that are done, that were
            kept; accepted questions in those that were kept.
        surplus (`int`): of these questions the ones beyond three a picture, from which assembly may choose.
        conversations_by_k, questions_by_k (`dict[int, int]`): k -> how many.
        drafts_by_k, accepted_by_k (`dict[int, int]`): k -> drafts that were asked for, and that passed all checks,
            those of pictures that were not kept included.
        questions_by_capability (`dict[str, dict[int, int]]`): capability -> k -> kept questions that need it.
        coverage (`dict[str, dict[str, int]]`): capability -> capability -> kept questions that need both; with itself:
            that need the one. Symmetrical.
        combinations (`tuple[Fared, ...]`): how drafts for each combination fared.
        rejects (`tuple[Rejected, ...]`): most frequent first within their stage.
        planted (`tuple[Planted, ...]`): empty without a scenes teacher's noise.
        requests (`dict[str, int]`): role -> replies in the journal.
        input_tokens, output_tokens (`int`): of all replies, as billed.
        spending (`dict[Role, Spent]`): role -> what it was asked and what that cost.
        cost (`float | None`): USD so far, at each day's prices; None where one is not known.
        cost_per_question (`float | None`): USD; None without a cost or a question.
        models (`tuple[str, ...]`): the versions that answered.
        first_at, last_at (`float | None`): when the first and the newest picture was finished, in seconds since 1970.
        left (`int | None`): pictures that are still to be worked on, as the newest session of the run knows; None where
            that is not known.
        pace (`float | None`): pictures a second, by the newest ones since the run last stood still; None before two.
        is_running (`bool`): a picture was finished in the last five minutes.
    """

    identity: dict[str, Any]
    pictures: int
    finished: int
    conversations: int
    questions: int
    surplus: int
    conversations_by_k: dict[int, int]
    questions_by_k: dict[int, int]
    drafts_by_k: dict[int, int]
    accepted_by_k: dict[int, int]
    questions_by_capability: dict[str, dict[int, int]]
    coverage: dict[str, dict[str, int]]
    combinations: tuple[Fared, ...]
    rejects: tuple[Rejected, ...]
    planted: tuple[Planted, ...]
    requests: dict[str, int]
    input_tokens: int
    output_tokens: int
    spending: dict[Role, Spent]
    cost: float | None
    cost_per_question: float | None
    models: tuple[str, ...]
    first_at: float | None
    last_at: float | None
    left: int | None
    pace: float | None
    is_running: bool


@dataclass(frozen=True, slots=True)
class _AnyOutcome:
    """What the outcomes of all methods hold."""

    rejects: tuple[Reject, ...]


def status(run: str | Path, *, price_in: float | None = None, price_out: float | None = None) -> Status:
    """Return where a run stands.

    Args:
        run (`str | Path`): a run folder, or a folder that holds the shards of one.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: the prices are not two, or negative.
    """
    with ExitStack() as opened:
        journals = [opened.enter_context(Journal.read(folder)) for folder in runs_in(Path(run))]
        identity = journals[0].identity
        if len(journals) > 1:
            identity.pop("shard", None)
        tally = _tally(journals, identity)
        counted = [one for journal in journals for one in journal.spending()]
        counts = [journal.counts() for journal in journals]
        finished, kept, questions = (sum(column) for column in zip(*counts, strict=True))
        times = sorted(at for journal in journals for at in journal.finished_at())
        pictures = sum(journal.pictures_seen() for journal in journals)
        planned = [count for journal in journals if (count := journal.planned()) is not None]
    spending = spent_by_role(counted, identity, price_in=price_in, price_out=price_out)
    costs = [spent.cost for spent in spending.values() if spent.cost is not None]
    cost = math.fsum(costs) if len(costs) == len(spending) else None
    return Status(
        identity=identity,
        pictures=pictures,
        finished=finished,
        conversations=kept,
        questions=questions,
        surplus=tally.surplus,
        conversations_by_k={k: tally.conversations[k] for k in sorted(tally.drafts)},
        questions_by_k=tally.questions(),
        drafts_by_k={k: tally.drafts[k] for k in sorted(tally.drafts)},
        accepted_by_k={k: tally.passed[k] for k in sorted(tally.drafts)},
        questions_by_capability=tally.questions_by_capability(),
        coverage=tally.coverage(),
        combinations=tally.combinations(),
        rejects=tally.rejects(),
        planted=tuple(tally.planted()),
        requests={role: spent.requests for role, spent in spending.items()},
        input_tokens=sum(spent.input_tokens for spent in spending.values()),
        output_tokens=sum(spent.output_tokens for spent in spending.values()),
        spending=spending,
        cost=cost,
        cost_per_question=cost / questions if cost is not None and questions else None,
        models=tuple(sorted({one.model for one in counted})),
        first_at=times[0] if times else None,
        last_at=times[-1] if times else None,
        left=max(0, sum(planned) - finished) if len(planned) == len(journals) else None,
        pace=_pace(times),
        is_running=bool(times) and time.time() - times[-1] <= IDLE_S,
    )


def _tally(journals: Sequence[Journal], identity: Mapping[str, Any]) -> Tally:
    faults: dict[str, list[str]] = {}
    if identity.get("teacher", "").startswith(_NOISY):
        for journal in journals:
            faults |= {reply.key: [*reversed(reply.planted)] for _, _, reply in journal.replies() if reply.planted}
    tally = Tally(faults, enough=PAPER.max_turns)
    for journal in journals:
        for reject in journal.picture_rejects():
            tally.reject(reject)
        for finished in journal.outcomes():
            if identity["method"] in CONVERSING:
                tally.outcome(outcome_of(finished.body))
            else:
                # What else other methods make of a picture is theirs to read.
                for reject in from_json(_AnyOutcome, finished.body).rejects:
                    tally.reject(reject)
    return tally


def _pace(times: Sequence[float]) -> float | None:
    newest = times[-_NEWEST:]
    start = len(newest) - 1
    while start > 0 and newest[start] - newest[start - 1] <= IDLE_S:
        start -= 1
    seconds = newest[-1] - newest[start] if newest else 0.0
    return (len(newest) - 1 - start) / seconds if seconds > 0 else None
