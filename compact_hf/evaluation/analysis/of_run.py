"""A run's questions: in goes its folder, or one with its shards; out come what it kept, or what it annotated.

The journal is read as a stream, and may still be written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.analysis.readers import Asked, Kind, Readable, Row
from compact_hf.methods.annotate.annotation import METHOD as ANNOTATE
from compact_hf.methods.annotate.annotation import annotated_of
from compact_hf.methods.compact.conversation import outcome_of
from compact_hf.methods.compact.preset import CONVERSING
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.shards import runs_in


def is_run(folder: Path) -> bool:
    """Whether there is a journal in `folder`, or in the shards below it."""
    return folder.is_dir() and any((run / FILE_NAME).is_file() for run in runs_in(folder))


def of_run(folder: Path) -> Readable:
    """Return a run's questions: those of kept conversations, or of `compact annotate` all that were judged.

    Raises:
        JournalError: it cannot be read.
        EvaluationError: no picture of it is finished yet.
        UsageError: it is a run of a method that has no questions.
    """
    runs = runs_in(folder)
    total, methods = 0, set()
    for run in runs:
        with Journal.read(run) as journal:
            methods.add(journal.identity["method"])
            total += journal.counts()[0]
    if unknown := methods - {ANNOTATE, *CONVERSING}:
        raise UsageError(f"{folder} is a run of {sorted(unknown)[0]}, which keeps no questions; give another run")
    if not total:
        raise EvaluationError(f"{folder} has no finished picture yet; run the command that made it on, then this again")
    k_is: Kind = "judged" if methods == {ANNOTATE} else "asked"
    return Readable(folder.resolve().name, k_is, total, partial(_rows, runs))


def _rows(runs: list[Path]) -> Iterator[Row]:
    for run in runs:
        with Journal.read(run) as journal:
            asked = _annotated if journal.identity["method"] == ANNOTATE else _kept
            for finished in journal.outcomes():
                yield Row(finished.image_id, asked(finished.body))


def _annotated(body: str) -> tuple[Asked, ...]:
    return tuple(Asked(one.question, one.answer, one.capabilities) for one in annotated_of(body).annotations)


def _kept(body: str) -> tuple[Asked, ...]:
    conversation = outcome_of(body).conversation
    turns = conversation.turns if conversation is not None else ()
    return tuple(Asked(turn.question, turn.answer, turn.capabilities) for turn in turns)
