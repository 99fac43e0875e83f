"""Samples of a run: in goes its folder, out come pictures with their questions, or with the drafts that were dropped.

Outcomes stream by, and pictures are read once they are chosen: a run may be larger than memory, and may still go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from compact_hf.dataset.examples import Chosen, Found, Sample, Wanted, any_draft
from compact_hf.errors import UsageError
from compact_hf.images.source import Source
from compact_hf.methods.compact.conversation import Outcome, outcome_of
from compact_hf.methods.compact.preset import CONVERSING
from compact_hf.records import Picture
from compact_hf.runs.image_index import read_again
from compact_hf.runs.journal import Finished, Journal
from compact_hf.runs.shards import runs_in
from compact_hf.runs.sources import reopen_source


def of_run(run: Path, wanted: Wanted, *, rejects: bool) -> Found:
    """Choose among a run's pictures.

    Args:
        run (`Path`): a run folder, or a folder that holds the shards of one.
        wanted (`Wanted`): which, and how many.
        rejects (`bool`): show drafts that were dropped instead of questions that were kept.

    Raises:
        UsageError: it makes no conversations, or there is nothing that is wanted.
        JournalError: it cannot be read.
        SourceError: a picture is gone, or is another one now.
    """
    chosen = Chosen(wanted)
    ks: set[int] = set()
    with ExitStack() as opened:
        for folder in runs_in(run):
            journal = opened.enter_context(Journal.read(folder))
            if (method := journal.identity["method"]) not in CONVERSING:
                raise UsageError(f"{run} is a run of {method}, which keeps no questions; give one of compact generate")
            source = reopen_source(journal.identity["source"])
            for finished, outcome in _outcomes(journal):
                if any_draft(outcome.rejects) if rejects else outcome.conversation:
                    ks.add(outcome.k)
                sample = _sample(journal, source, finished, outcome, wanted, rejects=rejects)
                if sample is not None and wanted.k in (None, outcome.k):
                    chosen.offer(wanted.rank(finished.image_id), sample)
        found = chosen.found()
    if not found.shown:
        what = "dropped drafts" if rejects else "kept questions"
        have = f"there are some of k = {', '.join(map(str, sorted(ks)))}" if ks else "there are none at all so far"
        raise UsageError(f"{run} has no {' '.join(filter(None, (what, wanted.told())))}; {have}")
    return found


def _outcomes(journal: Journal) -> Iterator[tuple[Finished, Outcome]]:
    return ((finished, outcome_of(finished.body)) for finished in journal.outcomes())


def _sample(
    journal: Journal, source: Source, finished: Finished, outcome: Outcome, wanted: Wanted, *, rejects: bool
) -> Sample | None:
    turns = wanted.turns(outcome.conversation.turns) if outcome.conversation and not rejects else ()
    dropped = wanted.drafts(outcome.rejects) if rejects else ()
    if not turns and not dropped:
        return None
    identity = journal.identity
    return Sample(
        outcome.k,
        turns,
        finished.ref,
        identity["teacher"],
        identity["verifier"],
        partial(_read, journal, source, finished),
        dropped,
    )


def _read(journal: Journal, source: Source, finished: Finished) -> bytes:
    picture = journal.picture(finished.image_id, finished.ref)
    # Where the run's last start found it gone, reading it again says so.
    return read_again(source, picture or Picture(finished.image_id, finished.ref, 0, 0, ""))
