"""Step 4 for all methods: from the journals of one or more runs to rows, in the order of image ids.

Timing, kills and sharding leave no trace: the same replies give the same rows in the same order. Runs of methods that
make rows together (compact and augment) are read as one, those of other methods one after the other.
"""

from __future__ import annotations

import heapq
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from compact_hf.errors import UsageError
from compact_hf.images.source import ImageSource
from compact_hf.methods.base import Method
from compact_hf.methods.reasons import OutcomeReason
from compact_hf.methods.registry import get_method
from compact_hf.methods.row_kind import MAX_SIMILARITY, Filters, Sample
from compact_hf.records import ImageInfo, Reject, Row
from compact_hf.reports.contact_sheet import RejectsItem, Section
from compact_hf.reports.table import NotebookSummary
from compact_hf.runs.identity import ROLES, RunIdentity
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import Journal
from compact_hf.runs.shards import find_runs
from compact_hf.runs.sources import reopen_source


@dataclass(frozen=True, slots=True)
class AssemblyOptions:
    """What is asked of methods when their rows are made.

    Attributes:
        max_similarity (`float`): 0 to 1; a question above it that has the answer of one about an earlier image repeats
            that one and is dropped. 1 keeps all.
        balance (`bool`): take those questions of an image that even the dataset out, where there is a surplus.
        on_balance (`Callable[[NotebookSummary], None]`): called with what balancing did.
    """

    max_similarity: float = MAX_SIMILARITY
    balance: bool = False
    on_balance: Callable[[NotebookSummary], None] = lambda summary: None


class RowSelection(Protocol):
    """A part of the rows, chosen on purpose by one method's terms; rows of other methods are left as they are."""

    def describe(self) -> tuple[str, ...]:
        """Return what is selected, for people, a phrase each."""
        ...

    def choose(self, rows: Iterable[Row | Reject]) -> Callable[[Iterable[Row | Reject]], Iterator[Row | Reject]]:
        """Read all rows, and return what takes the chosen ones, and a reject for each other, when they come again.

        Raises:
            ReleaseError: there are fewer than are wanted.
        """
        ...


@dataclass(frozen=True, slots=True)
class FinishedOutcome:
    """What a run's journal holds of one image that is done.

    Attributes:
        body (`str`): what became of it, JSON of the method.
        image_id, ref (`str`): the image's id, and where its source had it.
        journal (`Journal`): of the run.
        identity (`RunIdentity`): the run's settings.
        method (`type[Method]`): the run's, whose name is the `source` of its rows.
        source (`ImageSource`): where images are read.
    """

    body: str
    image_id: str
    ref: str
    journal: Journal
    identity: RunIdentity
    method: type[Method]
    source: ImageSource

    def get_image(self) -> ImageInfo | None:
        """Return the image, None where the run's last start did not find it any more."""
        return self.journal.get_image(self.image_id, self.ref)

    def reject_gone(self) -> Reject:
        """Return the reject of an image that is not there any more."""
        return Reject("assembly", OutcomeReason.GONE, self.ref)


def iter_rows_by_image(method: type[Method], journals: Sequence[Journal]) -> Iterator[Row | Reject]:
    """Yield what a method makes of each image that its runs finished."""
    for outcome in iter_outcomes(journals):
        if isinstance(outcome, Reject):
            yield outcome
        elif (image := outcome.get_image()) is None:
            yield outcome.reject_gone()
        else:
            yield from method.make_rows(outcome, image, partial(reread_verified, outcome.source, image))


def sample_of_outcome(
    method: type[Method], outcome: FinishedOutcome, filters: Filters, *, rejects: bool
) -> Sample | None:
    """Return how a contact sheet shows an outcome of a method that does not say so itself; see `Method`."""
    teacher, verifier = (outcome.identity.teachers.get(role, "") for role in ROLES)
    if rejects:
        stages = ("generation", "verification")
        dropped = tuple(
            item for item in method.parse_outcome(outcome.body).rejects if item.stage in stages and item.subject
        )
        section = Section(0, method.name)
        make_item = partial(RejectsItem, section=section, rejects=dropped, caption=outcome.ref)
        return Sample(section, teacher, verifier, make_item) if dropped else None
    image = outcome.get_image()
    rows = () if image is None else method.make_rows(outcome, image, partial(reread_verified, outcome.source, image))
    row = next((row for row in rows if isinstance(row, Row)), None)
    return None if row is None else method.make_sample(row.to_record(), outcome.ref, filters)


def iter_rows(runs: Sequence[Path], options: AssemblyOptions) -> Iterator[Row | Reject]:
    """Yield the rows of all conversations in the runs, and every reject, a few in memory at a time.

    An image that several runs of one method asked about counts once, for the first of them in the order given; the
    shards of one run may come in any order. An image that the run's last start did not find any more is left out.

    Args:
        runs (`Sequence[Path]`): run directories, or directories that hold the shards of one run.
        options (`AssemblyOptions`): what to leave out, and how.

    Raises:
        UsageError: one of the runs makes no rows, or an option is out of range.
        JournalError: one of the directories is not a run, or cannot be read.
        SourceError: the images of a run are gone.
    """
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for run in runs for directory in find_runs(run)]
        groups: dict[object, tuple[type[Method], list[Journal]]] = {}
        for journal in journals:
            method = get_method(RunIdentity.of(journal).method)
            if not method.makes_rows:
                raise UsageError(f"{journal.run} is a run of {method.name}, which makes no conversations; leave it out")
            groups.setdefault(_defining_function(method), (method, []))[1].append(journal)
        for journal in journals:
            yield from journal.image_rejects()
        for method, method_journals in groups.values():
            yield from method.iter_rows(method_journals, options)


def _defining_function(method: type[Method]) -> object:
    """Return what is the same for methods that inherit how their rows are made, but for the default of all methods."""
    function = inspect.getattr_static(method, "iter_rows").__func__
    return method if function is inspect.getattr_static(Method, "iter_rows").__func__ else function


def find_sources(runs: Sequence[Path]) -> tuple[str, ...]:
    """Return the methods of the runs, sorted: what the column `source` of their rows may say.

    Raises:
        JournalError: one of the directories is not a run, or cannot be read.
    """
    sources: set[str] = set()
    for directory in (directory for run in runs for directory in find_runs(run)):
        with Journal.read(directory) as journal:
            sources.add(get_method(RunIdentity.of(journal).method).name)
    return tuple(sorted(sources))


def iter_outcomes(journals: Sequence[Journal]) -> Iterator[FinishedOutcome | Reject]:
    """Yield what became of each image, in the order of image ids, once where several runs asked about it."""
    runs = [{name: value for name, value in journal.identity.items() if name != "shard"} for journal in journals]
    streams = [_iter_entries(journal, runs.index(run)) for journal, run in zip(journals, runs, strict=True)]
    last_id = ""
    for _, outcome in heapq.merge(*streams, key=itemgetter(0)):
        if outcome.image_id == last_id:
            yield Reject("assembly", OutcomeReason.EARLIER_RUN, outcome.ref, str(outcome.journal.run))
            continue
        last_id = outcome.image_id
        yield outcome


def read_outcomes(journal: Journal) -> Iterator[FinishedOutcome]:
    """Yield what became of each image of one run, in the order of image ids."""
    identity = RunIdentity.of(journal)
    method, source = get_method(identity.method), reopen_source(identity.source)
    for finished in journal.outcomes():
        yield FinishedOutcome(finished.body, finished.image_id, finished.ref, journal, identity, method, source)


def _iter_entries(journal: Journal, run: int) -> Iterator[tuple[tuple[str, int, str], FinishedOutcome]]:
    """Yield a run's outcomes with what to sort by: image id, run, and reference, as shards may see an image twice."""
    return (((outcome.image_id, run, outcome.ref), outcome) for outcome in read_outcomes(journal))
