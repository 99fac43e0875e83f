"""Assembles the rows of a dataset from the journals of one or more runs, sorted by image id (step 4, for all methods).

The result does not depend on timing, interruptions or sharding: the same replies give the same rows in the same order.
Runs of methods that share their assembly (compact and augment) are merged; the runs of other methods follow one after
another.
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
    """Options for assembling rows.

    Attributes:
        max_similarity (`float`): similarity of two questions, 0 to 1, above which they count as near-duplicates. A
            question that is too similar to one about an earlier image and has the same answer is dropped. 1 keeps all
            questions.
        balance (`bool`): from images with more questions than needed, keep those that make the dataset most even.
        on_balance (`Callable[[NotebookSummary], None]`): called with a summary of what balancing did.
    """

    max_similarity: float = MAX_SIMILARITY
    balance: bool = False
    on_balance: Callable[[NotebookSummary], None] = lambda summary: None


class RowSelection(Protocol):
    """Selects a part of one method's rows by that method's own criteria; rows of other methods pass unchanged."""

    def describe(self) -> tuple[str, ...]:
        """Return what is selected, in words: one phrase per criterion."""
        ...

    def choose(self, rows: Iterable[Row | Reject]) -> Callable[[Iterable[Row | Reject]], Iterator[Row | Reject]]:
        """Decide which rows to keep, in a first pass over all rows.

        Args:
            rows (`Iterable[Row | Reject]`): all rows of the dataset, and the rejects.

        Returns:
            A function for the second pass: given the same rows again, it yields the selected ones, and a reject for
            each question that was not selected.

        Raises:
            ReleaseError: there are fewer rows than requested.
        """
        ...


@dataclass(frozen=True, slots=True)
class FinishedOutcome:
    """What a run's journal holds about one finished image.

    Attributes:
        body (`str`): the outcome, as JSON in the method's own format.
        image_id, ref (`str`): the image's id, and its location in the source.
        journal (`Journal`): the run's journal.
        identity (`RunIdentity`): the run's settings.
        method (`type[Method]`): the run's method; its name is the `source` of the rows.
        source (`ImageSource`): the source from which the image can be read again.
    """

    body: str
    image_id: str
    ref: str
    journal: Journal
    identity: RunIdentity
    method: type[Method]
    source: ImageSource

    def get_image(self) -> ImageInfo | None:
        """Return the image, or None if the run did not find it when it was last started."""
        return self.journal.get_image(self.image_id, self.ref)

    def reject_gone(self) -> Reject:
        """Return a reject for an image that its source no longer has."""
        return Reject("assembly", OutcomeReason.GONE, self.ref)


def iter_rows_by_image(method: type[Method], journals: Sequence[Journal]) -> Iterator[Row | Reject]:
    """Yield the rows that a method makes of each image that its runs finished.

    Args:
        method (`type[Method]`): the method of the runs.
        journals (`Sequence[Journal]`): the journals of the runs.

    Yields:
        Rows and rejects, in the order of image ids.
    """
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
    """Return how a contact sheet shows an outcome; the default for methods that do not define it, see `Method`.

    Args:
        method (`type[Method]`): the method of the run.
        outcome (`FinishedOutcome`): the outcome of one image.
        filters (`Filters`): filters that the method knows.
        rejects (`bool`): whether to show what was dropped instead of what was kept.

    Returns:
        The sample, or None if there is nothing to show.
    """
    teacher, verifier = (outcome.identity.teachers.get(role, "") for role in ROLES)
    if rejects:
        # Texts that were dropped; rejects of other stages are about images or rows.
        stages = ("generation", "verification")
        dropped = tuple(
            item for item in method.parse_outcome(outcome.body).rejects if item.stage in stages and item.subject
        )
        section = Section(0, method.name)
        make_item = partial(RejectsItem, section=section, rejects=dropped, caption=outcome.ref)
        return Sample(section, teacher, verifier, make_item) if dropped else None
    image = outcome.get_image()
    rows = () if image is None else method.make_rows(outcome, image, partial(reread_verified, outcome.source, image))
    # Only the first row is made: `make_rows` is a generator.
    row = next((row for row in rows if isinstance(row, Row)), None)
    return None if row is None else method.make_sample(row.to_record(), outcome.ref, filters)


def iter_rows(runs: Sequence[Path], options: AssemblyOptions) -> Iterator[Row | Reject]:
    """Yield the rows of all conversations in the runs, and every reject, with only a few in memory at a time.

    If several runs of one method asked about the same image, only the first of them in the given order counts. The
    shards of one run may come in any order. Images that a run did not find when it was last started are left out.

    Args:
        runs (`Sequence[Path]`): run directories, or directories that contain the shards of one run.
        options (`AssemblyOptions`): which rows to leave out.

    Yields:
        Rows and rejects, grouped by method and in the order of image ids.

    Raises:
        UsageError: one of the directories is not a run, one of the runs makes no rows, or an option is out of range.
        JournalError: one of the runs cannot be read.
        SourceError: the images of a run cannot be found.
    """
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for run in runs for directory in find_runs(run)]
        # Runs of methods that share `iter_rows` are assembled together, so that near-duplicates between them are found.
        groups: dict[object, tuple[type[Method], list[Journal]]] = {}
        # Group the journals, and refuse runs without rows before the first row is yielded.
        for journal in journals:
            method = get_method(RunIdentity.of(journal).method)
            if not method.makes_rows:
                raise UsageError(f"{journal.run} is a run of {method.name}, which makes no conversations: leave it out")
            groups.setdefault(_defining_function(method), (method, []))[1].append(journal)
        for journal in journals:
            # Images that could not be read are rejects of the release too.
            yield from journal.image_rejects()
        for method, method_journals in groups.values():
            yield from method.iter_rows(method_journals, options)


def _defining_function(method: type[Method]) -> object:
    """Return a key that is equal for methods whose runs are assembled together.

    It is the `iter_rows` function that a method shares with others by inheritance. Methods that only inherit the
    default of `Method` share nothing, so the key is the method itself.
    """
    # The function itself, which inheriting classes share; the bound method differs for each class.
    function = inspect.getattr_static(method, "iter_rows").__func__
    return method if function is inspect.getattr_static(Method, "iter_rows").__func__ else function


def describe_unfinished(runs: Sequence[Path]) -> list[str]:
    """Return one line for each run with images that are not finished, which its dataset will not contain.

    Args:
        runs (`Sequence[Path]`): run directories, or directories that contain the shards of one run.

    Raises:
        UsageError: one of the directories is not a run.
        JournalError: one of the runs cannot be read.
    """
    lines = []
    for run in runs:
        total = unfinished = 0
        for directory in find_runs(run):
            with Journal.read(directory) as journal:
                images = journal.read_image_total() or 0
                total += images
                unfinished += max(0, images - journal.counts()[0])
        if unfinished:
            lines.append(
                f"{unfinished:,} of {total:,} images of {run} are not finished, and not in the dataset: the command "
                "that started the run finishes them"
            )
    return lines


def find_sources(runs: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of the runs' methods, sorted: the possible values of the column `source` in their rows.

    Args:
        runs (`Sequence[Path]`): run directories, or directories that contain the shards of one run.

    Raises:
        UsageError: one of the directories is not a run.
        JournalError: one of the runs cannot be read.
    """
    sources: set[str] = set()
    for directory in (directory for run in runs for directory in find_runs(run)):
        with Journal.read(directory) as journal:
            sources.add(get_method(RunIdentity.of(journal).method).name)
    return tuple(sorted(sources))


def iter_outcomes(journals: Sequence[Journal]) -> Iterator[FinishedOutcome | Reject]:
    """Yield the outcome of each image in the order of image ids, once if several runs asked about the image.

    Args:
        journals (`Sequence[Journal]`): the journals of the runs. For an image in several runs the first one counts.

    Yields:
        An outcome per image, and a reject for each outcome of the same image in a later run.
    """
    # The shards of one run differ only in `shard`: without it they get the same index in `runs` and count as one run.
    runs = [{name: value for name, value in journal.identity.items() if name != "shard"} for journal in journals]
    streams = [_iter_entries(journal, runs.index(run)) for journal, run in zip(journals, runs, strict=True)]
    # Each stream is sorted by image id, so the outcomes of one image come directly one after the other.
    last_id = ""
    for _, outcome in heapq.merge(*streams, key=itemgetter(0)):
        # The same image again, in a later run or in another shard: the first one counts.
        if outcome.image_id == last_id:
            yield Reject("assembly", OutcomeReason.EARLIER_RUN, outcome.ref, str(outcome.journal.run))
            continue
        last_id = outcome.image_id
        yield outcome


def read_outcomes(journal: Journal) -> Iterator[FinishedOutcome]:
    """Yield the outcome of each image of one run, in the order of image ids."""
    identity = RunIdentity.of(journal)
    method, source = get_method(identity.method), reopen_source(identity.source)
    for finished in journal.outcomes():
        yield FinishedOutcome(finished.body, finished.image_id, finished.ref, journal, identity, method, source)


def _iter_entries(journal: Journal, run: int) -> Iterator[tuple[tuple[str, int, str], FinishedOutcome]]:
    """Yield a run's outcomes with their sort key: image id, index of the run, image reference.

    The reference is needed because two shards of one run may contain the same image under different references.
    """
    return (((outcome.image_id, run, outcome.ref), outcome) for outcome in read_outcomes(journal))
