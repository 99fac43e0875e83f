"""Step 4, assembly: from the journals of one or more runs to rows, in the order of image ids (paper, section 3.4).

Timing, kills and sharding leave no trace: the same replies give the same rows in the same order. Beyond the paper, a
question that repeats one about an earlier image is dropped (near_duplicates.py), and where it is asked for, of images
with a surplus of questions those are taken that even the dataset out (balance.py).
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
from compact_hf.capabilities import canonicalize
from compact_hf.errors import UsageError
from compact_hf.images.source import ImageSource
from compact_hf.methods.compact.balance import Balance, Positions, balance_questions, measure_evenness
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.near_duplicates import MAX_SIMILARITY, NearDuplicates
from compact_hf.methods.compact.preset import CONVERSATION_METHODS, METHOD, PAPER
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import ImageInfo, Message, Reject, Row, Turn, digest
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.runs.shards import find_runs
from compact_hf.runs.sources import reopen_source


def iter_conversation_rows(
    runs: Sequence[Path],
    *,
    max_similarity: float = MAX_SIMILARITY,
    balance: bool = False,
    on_balance: Callable[[Balance], None] = lambda balance: None,
) -> Iterator[Row | Reject]:
    """Yield a row for every conversation in the runs, and every reject, a few in memory at a time.

    An image that several runs asked about counts once, for the first of them in the order given; the shards of one run
    may come in any order. An image that the run's last start did not find any more is left out. What stays in memory
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
        SourceError: the images of a run are gone.
    """
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for run in runs for directory in find_runs(run)]
        for journal in journals:
            if (method := journal.identity["method"]) not in CONVERSATION_METHODS:
                raise UsageError(f"{journal.run} is a run of {method}, which makes no conversations; leave it out")
        for journal in journals:
            yield from journal.image_rejects()
        conversations = _drop_near_duplicates(_iter_conversations(journals), NearDuplicates(max_similarity))
        for item in _apply_balance(conversations, journals, on_balance) if balance else conversations:
            yield item if isinstance(item, Reject) else item.to_row()


def build_messages(questions_and_answers: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return the messages of a conversation: the first question carries the instruction to answer shortly."""
    messages: list[Message] = []
    for index, (question, answer) in enumerate(questions_and_answers):
        content = question if index else f"{question}\n{SHORT_ANSWER_INSTRUCTION}"
        messages += [Message("user", content), Message("assistant", answer)]
    return tuple(messages)


def with_turns(row: Row, turns: Sequence[Turn]) -> Row:
    """Return the row of a conversation with these turns, and with all that follows from them."""
    questions_and_answers = [(turn.question, turn.answer) for turn in turns]
    return replace(
        row,
        id=digest(row.source, row.image_id, questions_and_answers),
        messages=build_messages(questions_and_answers),
        capabilities=canonicalize(name for turn in turns for name in turn.capabilities),
        turns=tuple(turns),
    )


@dataclass(frozen=True, slots=True)
class _ImageConversation:
    """An image with its conversation, of which the turns at `positions` go into the release."""

    outcome: Outcome
    turns: tuple[Turn, ...]
    positions: Positions
    image: ImageInfo
    source: ImageSource
    identity: dict[str, Any]

    def to_row(self) -> Row:
        row = Row(
            id="",
            messages=(),
            source=self.identity["method"],
            k=self.outcome.k,
            image_id=self.image.image_id,
            image_source=self.image.image_source,
            image_license=self.image.image_license,
            teacher=self.outcome.teacher,
            verifier=self.outcome.verifier,
            preset_version=self.identity["preset"],
            read_image=partial(reread_verified, self.source, self.image),
        )
        return with_turns(row, [self.turns[position] for position in self.positions])


@dataclass(frozen=True, slots=True)
class _Entry:
    """An outcome in a journal; entries sort by image id, run, and reference, for shards that saw an image twice."""

    sort_key: tuple[str, int, str]
    finished_image: FinishedImage
    journal: Journal
    source: ImageSource


def _iter_entries(journal: Journal, run: int) -> Iterator[_Entry]:
    source = reopen_source(journal.identity["source"])
    for finished_image in journal.outcomes():
        yield _Entry((finished_image.image_id, run, finished_image.ref), finished_image, journal, source)


def _iter_conversations(journals: Sequence[Journal]) -> Iterator[_ImageConversation | Reject]:
    """Yield each image's conversation with all its turns, in the order of image ids, and the rejects before it."""
    runs = [{name: value for name, value in journal.identity.items() if name != "shard"} for journal in journals]
    streams = [_iter_entries(journal, runs.index(run)) for journal, run in zip(journals, runs, strict=True)]
    last_id = ""
    for entry in heapq.merge(*streams, key=attrgetter("sort_key")):
        finished_image, journal = entry.finished_image, entry.journal
        if finished_image.image_id == last_id:
            yield Reject("assembly", "picture in an earlier run", finished_image.ref, str(journal.run))
            continue
        last_id = finished_image.image_id
        outcome = parse_outcome(finished_image.body)
        yield from outcome.rejects
        if outcome.conversation is None:
            continue
        turns = outcome.conversation.turns
        image = journal.get_image(finished_image.image_id, finished_image.ref)
        if image is None:
            yield Reject("assembly", "picture is gone", finished_image.ref)
        else:
            yield _ImageConversation(outcome, turns, tuple(range(len(turns))), image, entry.source, journal.identity)


def _drop_near_duplicates(
    conversations: Iterable[_ImageConversation | Reject], near_duplicates: NearDuplicates
) -> Iterator[_ImageConversation | Reject]:
    """Drop what repeats a question about an earlier image, and images that have too few questions then."""
    for item in conversations:
        if isinstance(item, Reject):
            yield item
            continue
        # What `compact augment` rewrites may be a single question.
        min_turns = PAPER.min_turns if item.identity["method"] == METHOD else 1
        repeats = near_duplicates.add_new(item.turns, min_turns=min_turns)
        for turn, repeat in zip(item.turns, repeats, strict=True):
            if repeat is not None:
                yield Reject("assembly", "near-duplicate question", turn.question, repeat, turn.capabilities)
        positions = tuple(position for position, repeat in enumerate(repeats) if repeat is None)
        if len(positions) >= min_turns:
            yield replace(item, positions=positions)
        else:
            detail = f"{len(positions)} of {len(item.turns)} are left, {min_turns} needed"
            yield Reject("assembly", "too few questions", item.image.ref, detail)


def _apply_balance(
    conversations: Iterable[_ImageConversation | Reject],
    journals: Sequence[Journal],
    on_balance: Callable[[Balance], None],
) -> Iterator[_ImageConversation | Reject]:
    """Go over the runs twice, to choose of each image's questions and to take what was chosen."""
    available: dict[str, Positions] = {}
    combinations: dict[str, tuple[Combination, ...]] = {}
    interned: dict[Combination, Combination] = {}
    for item in conversations:
        if isinstance(item, Reject):
            yield item
            continue
        item_combinations = (item.turns[position].capabilities for position in item.positions)
        available[item.image.image_id] = item.positions
        # One object for all that are equal: there are more images than combinations.
        combinations[item.image.image_id] = tuple(
            interned.setdefault(combination, combination) for combination in item_combinations
        )
    selection = balance_questions(combinations)
    on_balance(_measure_balance(combinations, selection))
    for item in _iter_conversations(journals):
        # What has come in since the first time is left for the next release.
        if isinstance(item, Reject) or item.image.image_id not in selection:
            continue
        candidates = available[item.image.image_id]
        positions = tuple(candidates[position] for position in selection[item.image.image_id])
        for position in candidates:
            if position not in positions:
                turn = item.turns[position]
                yield Reject("assembly", "surplus for balance", turn.question, "", turn.capabilities)
        yield replace(item, positions=positions)


def _measure_balance(questions: Mapping[str, Sequence[Combination]], selection: Mapping[str, Positions]) -> Balance:
    return Balance(
        before=measure_evenness(combination for combinations in questions.values() for combination in combinations),
        after=measure_evenness(
            questions[image_id][position] for image_id, positions in selection.items() for position in positions
        ),
    )
