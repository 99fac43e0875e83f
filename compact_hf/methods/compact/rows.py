"""Step 4, assembly: from the journals of one or more runs to rows, in the order of image ids (paper, section 3.4).

Timing, kills and sharding leave no trace: the same replies give the same rows in the same order. Beyond the paper, a
question that repeats one about an earlier image is dropped (near_duplicates.py), and where it is asked for, of images
with a surplus of questions those are taken that even the data set out (balance.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.capabilities import canonical
from compact_hf.errors import UsageError
from compact_hf.images.source import Source
from compact_hf.methods.compact.balance import Balance, Positions, balanced, evenness
from compact_hf.methods.compact.conversation import Outcome, outcome_of
from compact_hf.methods.compact.near_duplicates import MAX_SIMILARITY, Similar
from compact_hf.methods.compact.preset import CONVERSING, METHOD, PAPER
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import Message, Picture, Reject, Row, Turn, digest
from compact_hf.runs.image_index import read_again
from compact_hf.runs.journal import Finished, Journal
from compact_hf.runs.shards import runs_in
from compact_hf.runs.sources import reopen_source


def conversation_rows(
    runs: Sequence[Path],
    *,
    max_similarity: float = MAX_SIMILARITY,
    balance: bool = False,
    on_balance: Callable[[Balance], None] = lambda balance: None,
) -> Iterator[Row | Reject]:
    """Yield a row for every conversation in the runs, and every reject, a few in memory at a time.

    A picture that several runs asked about counts once, for the first of them in the order given; the shards of one run
    may come in any order. A picture that the run's last start did not find any more is left out. What stays in memory
    are the words of the questions, to find those that repeat one, and with `balance` the combinations of each image.

    Args:
        runs (`Sequence[Path]`): run folders, or folders that hold the shards of one run.
        max_similarity (`float`, *optional*, defaults to 0.9): 0 to 1; a question above it that has the answer of one
            about an earlier image repeats that one. 1 keeps all.
        balance (`bool`, *optional*, defaults to False): of images with more than two questions, take the two or three
            that even out capabilities, pairs of them and k; otherwise all are taken. Reads the runs twice.
        on_balance (`Callable[[Balance], None]`, *optional*): told what balancing did.

    Raises:
        UsageError: one of the runs makes no conversations, or `max_similarity` is out of range.
        JournalError: one of the folders is not a run, or cannot be read.
        SourceError: the pictures of a run are gone.
    """
    with ExitStack() as opened:
        journals = [opened.enter_context(Journal.read(folder)) for run in runs for folder in runs_in(run)]
        for journal in journals:
            if (method := journal.identity["method"]) not in CONVERSING:
                raise UsageError(f"{journal.run} is a run of {method}, which makes no conversations; leave it out")
        for journal in journals:
            yield from journal.picture_rejects()
        sifted = _sifted(_found(journals), Similar(max_similarity))
        for item in _chosen(sifted, journals, on_balance) if balance else sifted:
            yield item if isinstance(item, Reject) else item.row()


def messages_of(questions_and_answers: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return the messages of a conversation: the first question carries the instruction to answer shortly."""
    messages: list[Message] = []
    for index, (question, answer) in enumerate(questions_and_answers):
        asked = question if index else f"{question}\n{SHORT_ANSWER_INSTRUCTION}"
        messages += [Message("user", asked), Message("assistant", answer)]
    return tuple(messages)


def with_turns(row: Row, turns: Sequence[Turn]) -> Row:
    """Return the row of a conversation with these turns, and with all that follows from them."""
    questions_and_answers = [(turn.question, turn.answer) for turn in turns]
    return replace(
        row,
        id=digest(row.source, row.image_id, questions_and_answers),
        messages=messages_of(questions_and_answers),
        capabilities=canonical(name for turn in turns for name in turn.capabilities),
        turns=tuple(turns),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture with its conversation, of which the turns at `taken` go into the release."""

    outcome: Outcome
    turns: tuple[Turn, ...]
    taken: Positions
    picture: Picture
    source: Source
    identity: dict[str, Any]

    def row(self) -> Row:
        row = Row(
            id="",
            messages=(),
            source=self.identity["method"],
            k=self.outcome.k,
            image_id=self.picture.image_id,
            image_source=self.picture.image_source,
            image_license=self.picture.image_license,
            teacher=self.outcome.teacher,
            verifier=self.outcome.verifier,
            preset_version=self.identity["preset"],
            read_picture=partial(read_again, self.source, self.picture),
        )
        return with_turns(row, [self.turns[at] for at in self.taken])


@dataclass(frozen=True, slots=True)
class _Entry:
    """An outcome in a journal; entries sort by `place`: image id, run, and reference, for shards that saw it twice."""

    place: tuple[str, int, str]
    finished: Finished
    journal: Journal
    source: Source


def _entries(journal: Journal, run: int) -> Iterator[_Entry]:
    source = reopen_source(journal.identity["source"])
    for finished in journal.outcomes():
        yield _Entry((finished.image_id, run, finished.ref), finished, journal, source)


def _found(journals: Sequence[Journal]) -> Iterator[_Found | Reject]:
    """Yield each picture's conversation with all its turns, in the order of image ids, and the rejects before it."""
    runs = [{name: value for name, value in journal.identity.items() if name != "shard"} for journal in journals]
    streams = [_entries(journal, runs.index(run)) for journal, run in zip(journals, runs, strict=True)]
    last = ""
    for entry in heapq.merge(*streams, key=attrgetter("place")):
        finished, journal = entry.finished, entry.journal
        if finished.image_id == last:
            yield Reject("assembly", "picture in an earlier run", finished.ref, str(journal.run))
            continue
        last = finished.image_id
        outcome = outcome_of(finished.body)
        yield from outcome.rejects
        if outcome.conversation is None:
            continue
        turns = outcome.conversation.turns
        picture = journal.picture(finished.image_id, finished.ref)
        if picture is None:
            yield Reject("assembly", "picture is gone", finished.ref)
        else:
            yield _Found(outcome, turns, tuple(range(len(turns))), picture, entry.source, journal.identity)


def _sifted(found: Iterable[_Found | Reject], similar: Similar) -> Iterator[_Found | Reject]:
    """Drop what repeats a question about an earlier image, and images that have too few questions then."""
    for item in found:
        if isinstance(item, Reject):
            yield item
            continue
        # What `compact augment` rewrites may be a single question.
        fewest = PAPER.min_turns if item.identity["method"] == METHOD else 1
        repeated = similar.sift(item.turns, fewest=fewest)
        for turn, like in zip(item.turns, repeated, strict=True):
            if like is not None:
                yield Reject("assembly", "near-duplicate question", turn.question, like, turn.capabilities)
        taken = tuple(at for at, like in enumerate(repeated) if like is None)
        if len(taken) >= fewest:
            yield replace(item, taken=taken)
        else:
            detail = f"{len(taken)} of {len(item.turns)} are left, {fewest} needed"
            yield Reject("assembly", "too few questions", item.picture.ref, detail)


def _chosen(
    sifted: Iterable[_Found | Reject], journals: Sequence[Journal], on_balance: Callable[[Balance], None]
) -> Iterator[_Found | Reject]:
    """Go over the runs twice, to choose of each image's questions and to take what was chosen."""
    left: dict[str, Positions] = {}
    combinations: dict[str, tuple[Combination, ...]] = {}
    known: dict[Combination, Combination] = {}
    for item in sifted:
        if isinstance(item, Reject):
            yield item
            continue
        needed = (item.turns[at].capabilities for at in item.taken)
        left[item.picture.image_id] = item.taken
        # One object for all that are equal: there are more images than combinations.
        combinations[item.picture.image_id] = tuple(known.setdefault(each, each) for each in needed)
    chosen = balanced(combinations)
    on_balance(_balance(combinations, chosen))
    for item in _found(journals):
        # What has come in since the first time is left for the next release.
        if isinstance(item, Reject) or item.picture.image_id not in chosen:
            continue
        among = left[item.picture.image_id]
        taken = tuple(among[at] for at in chosen[item.picture.image_id])
        for at in among:
            if at not in taken:
                turn = item.turns[at]
                yield Reject("assembly", "surplus for balance", turn.question, "", turn.capabilities)
        yield replace(item, taken=taken)


def _balance(questions: Mapping[str, Sequence[Combination]], chosen: Mapping[str, Positions]) -> Balance:
    return Balance(
        before=evenness(each for of_image in questions.values() for each in of_image),
        after=evenness(questions[image_id][at] for image_id, taken in chosen.items() for at in taken),
    )
