"""Step 4, assembly: from the journals of one or more runs to rows, in the order of image ids (paper, section 3.4).

Timing, kills and sharding leave no trace: the same replies give the same rows in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.capabilities import canonical
from compact_hf.engine.journal import Finished, Journal
from compact_hf.errors import UsageError
from compact_hf.images.source import Source
from compact_hf.records import Conversation, Message, Picture, Reject, Row, digest
from compact_hf.synthesis.compact.conversation import Outcome, outcome_of
from compact_hf.synthesis.compact.preset import CONVERSING
from compact_hf.synthesis.pictures import read_again
from compact_hf.synthesis.sources import reopen_source


def conversation_rows(runs: Sequence[Path]) -> Iterator[Row | Reject]:
    """Yield a row for every conversation in the runs, and every reject, a few in memory at a time.

    A picture that several runs asked about counts once, for the first of them in the order given. A picture that the
    run's last start did not find any more is left out.

    Raises:
        UsageError: one of the runs makes no conversations.
        JournalError: one of the folders is not a run, or cannot be read.
        SourceError: the pictures of a run are gone.
    """
    with ExitStack() as opened:
        journals = [opened.enter_context(Journal.read(run)) for run in runs]
        for journal in journals:
            if (method := journal.identity["method"]) not in CONVERSING:
                raise UsageError(f"{journal.run} is a run of {method}, which makes no conversations; leave it out")
        for journal in journals:
            yield from journal.picture_rejects()
        last = ""
        for finished, journal, source in heapq.merge(*map(_outcomes, journals), key=lambda item: item[0].image_id):
            if finished.image_id == last:
                yield Reject("conversation", "picture in an earlier run", finished.ref, str(journal.run))
                continue
            last = finished.image_id
            outcome = outcome_of(finished.body)
            yield from outcome.rejects
            if outcome.conversation is not None:
                picture = journal.picture(finished.image_id, finished.ref)
                if picture is None:
                    yield Reject("conversation", "picture is gone", finished.ref)
                else:
                    yield _row(outcome, outcome.conversation, picture, source, journal.identity)


def messages_of(questions_and_answers: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return the messages of a conversation: the first question carries the instruction to answer shortly."""
    messages: list[Message] = []
    for index, (question, answer) in enumerate(questions_and_answers):
        asked = question if index else f"{question}\n{SHORT_ANSWER_INSTRUCTION}"
        messages += [Message("user", asked), Message("assistant", answer)]
    return tuple(messages)


def _outcomes(journal: Journal) -> Iterator[tuple[Finished, Journal, Source]]:
    source = reopen_source(journal.identity["source"])
    for finished in journal.outcomes():
        yield finished, journal, source


def _row(
    outcome: Outcome, conversation: Conversation, picture: Picture, source: Source, identity: dict[str, Any]
) -> Row:
    turns = conversation.turns
    asked = {name for turn in turns for name in turn.capabilities}
    return Row(
        id=digest(identity["method"], conversation.image_id, [(turn.question, turn.answer) for turn in turns]),
        messages=messages_of([(turn.question, turn.answer) for turn in turns]),
        source=identity["method"],
        k=conversation.k,
        capabilities=canonical(asked),
        turns=turns,
        image_id=conversation.image_id,
        image_source=picture.image_source,
        image_license=picture.image_license,
        teacher=outcome.teacher,
        verifier=outcome.verifier,
        preset_version=identity["preset"],
        read_picture=partial(read_again, source, picture),
    )
