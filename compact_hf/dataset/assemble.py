"""Assembles a dataset release from run directories and, optionally, a sample of an instruction file.

compact assemble RUN... --out DIR --version 1.0.0 [--balance] [--instruction FILE --image-root DIR]
    [--exclude-ids FILE] [--exclude-images-of DATASET] [--group-similar BITS] [--image-license TEXT] [--license ID]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from compact_hf.dataset.exclusions import Exclusions, RowFilter, read_excluded_images, read_ids
from compact_hf.dataset.image_similarity import FingerprintCache, check_distance
from compact_hf.dataset.instruction import sample_instruction_rows
from compact_hf.dataset.provenance import read_provenance
from compact_hf.dataset.reasons import AssemblyReason
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.dataset.stats import DatasetStats
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import UsageError
from compact_hf.methods.assembly import AssemblyOptions, RowSelection, describe_unfinished, find_sources, iter_rows
from compact_hf.methods.row_kind import MAX_SIMILARITY
from compact_hf.records import Reject, Row, is_validation_image
from compact_hf.reports.table import NotebookSummary

INSTRUCTION_FRACTION: Final = 0.05
"""Share of LLaVA-665K that the paper mixes into its training data (section 3.4)."""

# 1 to 100 characters without line breaks, pipes or angle brackets, which would break the tables of a Markdown card.
_LICENSE: Final = re.compile(r"\w[\w .+:/()-]{0,99}")


def assemble(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    version: str,
    max_similarity: float = MAX_SIMILARITY,
    balance: bool = False,
    select: RowSelection | None = None,
    instruction: str | Path | None = None,
    image_root: str | Path | None = None,
    instruction_fraction: float | None = None,
    instruction_rows: int | None = None,
    seed: int = 0,
    exclude_ids: str | Path | None = None,
    exclude_images_of: str | Path | Sequence[str | Path] = (),
    group_similar: int | None = None,
    image_license: str | None = None,
    license: str | None = None,
    on_balance: Callable[[NotebookSummary], None] = lambda balance: None,
    on_note: Callable[[str], None] = lambda message: None,
) -> DatasetStats:
    """Write a dataset release from the conversations of one or more runs and a sample of an instruction file.

    Args:
        runs (`str | Path | Sequence[str | Path]`): one or more run directories (different runs, or shards of one run),
            or a directory that contains the shards of a run.
        out (`str | Path`): the output directory: new, empty, or an earlier release, which is replaced.
        version (`str`): version of the release, X.Y.Z.
        max_similarity (`float`, *optional*, defaults to 0.9): similarity threshold, 0 to 1. A question with the same
            answer as a question about an earlier image is dropped if the share of words they have in common is above
            this. 1 keeps all questions; use it for drawn scenes, whose wording repeats by design.
        balance (`bool`, *optional*, defaults to False): keep only two or three questions of each image that has more
            than two, chosen so that k, capabilities and pairs of capabilities are distributed as evenly as possible.
        select (`RowSelection`, *optional*): keep only a part of the conversations, such as a `Selection`. It is applied
            after all other filters, and the card names it.
        instruction (`str | Path`, *optional*): a JSON list or JSON lines with conversations in the format of LLaVA,
            ShareGPT or TRL, such as llava_v1_5_mix665k.json.
        image_root (`str | Path`, *optional*, defaults to the directory of `instruction`): directory to which the image
            paths in `instruction` are relative.
        instruction_fraction (`float`, *optional*, defaults to 0.05): share of the instruction rows to sample.
        instruction_rows (`int`, *optional*): number of instruction rows to sample, instead of a share.
        seed (`int`, *optional*, defaults to 0): random seed of the instruction sample.
        exclude_ids (`str | Path`, *optional*): a text file with ids of rows or images to exclude, one per line, with
            comments after `#`. An image's id is the same in every release; a row's id changes with its questions.
        exclude_images_of (`str | Path | Sequence[str | Path]`, *optional*): datasets, such as benchmarks, whose images
            are excluded: image directories, releases, or `org/name[@revision]` on the Hub. Identical files are found,
            and images that were compressed or scaled again; cropped, mirrored or rotated copies are not.
        group_similar (`int`, *optional*): number of bits, 0 to 10 of 64, by which the perceptual hashes of similar
            images may differ. Training images that are similar to a validation image are excluded. Groups of more than
            10 images that are also more than 1% of all images are reported and kept.
        image_license (`str`, *optional*): license for those images of the runs whose license is unknown, such as
            `cc-by-4.0`. It does not apply to the images of the instruction part.
        license (`str`, *optional*, defaults to the license that all images share, else `other`): license of the release
            for the card's header, as a Hub identifier.
        on_balance (`Callable[[NotebookSummary], None]`, *optional*): called with the distribution of the questions
            before and after balancing, if `balance` is set.
        on_note (`Callable[[str], None]`, *optional*): called with the number of unfinished images of each run, with
            each excluded id that matched nothing, and with the groups of similar images that were too large to be
            copies.

    Returns:
        The statistics of the release that was written.

    Raises:
        UsageError: `runs` is empty, or arguments are out of range or contradict each other.
        JournalError: a directory is not a run, or the cache of image hashes (image_similarity.py) cannot be written to
            the first run.
        SourceError: an image source cannot be read any more.
        ReleaseError: `out` contains other files, or there are no rows to write, or fewer than `select` asks for.
    """
    run_directories = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not run_directories:
        raise UsageError("no run was given: name at least one directory that `compact generate --out` wrote")
    options = {
        "--image-root": image_root,
        "--instruction-fraction": instruction_fraction,
        "--instruction-rows": instruction_rows,
    }
    used_options = [name for name, value in options.items() if value is not None]
    if instruction is None and used_options:
        raise UsageError(f"{used_options[0]} needs an instruction file: add --instruction FILE")
    if image_license is not None and not _LICENSE.fullmatch(image_license):
        raise UsageError(f"invalid image license {image_license!r}: give a short name such as cc-by-4.0")
    max_distance = None if group_similar is None else check_distance(group_similar)
    excluded_ids = frozenset[str]() if exclude_ids is None else read_ids(Path(exclude_ids))
    # The hashes of the images of all runs and of the instruction part are stored in the first run.
    fingerprint_cache = FingerprintCache(run_directories[0])
    # One set with two users: `_Assembly.iter_rows` fills it, and the instruction sample reads it later.
    held_out: set[str] = set()
    # The file's format is checked here, before any work; its rows are read after the runs, when `held_out` is complete.
    instruction_sample = _sample_instructions(
        instruction,
        image_root=image_root,
        rows=instruction_rows,
        fraction=instruction_fraction,
        seed=seed,
        held_out=held_out,
        fingerprint_cache=fingerprint_cache,
    )
    assembly = _Assembly(
        runs=run_directories,
        options=AssemblyOptions(max_similarity, balance),
        select=select,
        excluded_ids=excluded_ids,
        exclude_images_of=[exclude_images_of] if isinstance(exclude_images_of, str | Path) else exclude_images_of,
        max_distance=max_distance,
        fingerprint_cache=fingerprint_cache,
    )
    for note in describe_unfinished(run_directories):
        on_note(note)
    # A generator: no row is read before `write_dataset` iterates over it.
    rows = assembly.iter_rows(instruction_sample, held_out, on_balance=on_balance, on_note=on_note)
    provenance = replace(read_provenance(run_directories), selection_phrases=select.describe() if select else ())
    return write_dataset(
        _fill_licenses(rows, image_license),
        Path(out),
        version=version,
        sources=[*find_sources(run_directories), *([] if instruction is None else [INSTRUCTION])],
        license=license,
        provenance=provenance,
    )


def _sample_instructions(
    instruction: str | Path | None,
    *,
    image_root: str | Path | None,
    rows: int | None,
    fraction: float | None,
    seed: int,
    held_out: set[str],
    fingerprint_cache: FingerprintCache,
) -> Iterator[Row | Reject]:
    """Return the rows of the instruction part, none if there is no file; raise UsageError for a wrong file format."""
    if instruction is None:
        return iter(())
    return sample_instruction_rows(
        Path(instruction),
        image_root=Path(image_root or Path(instruction).parent),
        seed=seed,
        rows=rows,
        fraction=INSTRUCTION_FRACTION if fraction is None and rows is None else fraction,
        held_out=held_out,
        fingerprint_cache=fingerprint_cache,
    )


@dataclass(frozen=True, slots=True)
class _Assembly:
    """The pipeline that reads, filters and selects rows; each step is an iterator over the one before.

    The runs are read in several passes: one to find similar images, one to select conversations (both only if asked
    for), and one for the rows themselves. Memory holds ids and hashes, never all rows.
    """

    runs: Sequence[Path]
    options: AssemblyOptions
    select: RowSelection | None
    excluded_ids: frozenset[str]
    exclude_images_of: Sequence[str | Path]
    max_distance: int | None
    fingerprint_cache: FingerprintCache

    def iter_rows(
        self,
        instruction_sample: Iterator[Row | Reject],
        held_out: set[str],
        *,
        on_balance: Callable[[NotebookSummary], None],
        on_note: Callable[[str], None],
    ) -> Iterator[Row | Reject]:
        """Yield the rows of the runs, which fill `held_out`, and then the instruction part.

        Args:
            instruction_sample (`Iterator[Row | Reject]`): the instruction part, which is read after the runs.
            held_out (`set[str]`): receives the ids of the validation images; the instruction part excludes them.
            on_balance (`Callable[[NotebookSummary], None]`): see `assemble`.
            on_note (`Callable[[str], None]`): see `assemble`.
        """
        row_filter = self._make_filter()
        # Runs first: the instruction rows can be compared only when all validation images are known.
        for row in self._iter_selected(row_filter, on_balance):
            if isinstance(row, Row):
                held_out.update(filter(is_validation_image, row.image_ids))
            yield row
        # Read only now, when `held_out` is complete.
        yield from row_filter.apply(instruction_sample)
        for note in row_filter.notes():
            on_note(note)

    def _make_filter(self) -> RowFilter:
        """Return the filter for exclusions, with the similar images already grouped if that is asked for."""
        datasets = [str(dataset) for dataset in self.exclude_images_of]
        # None, not an empty set: then no image has to be read for exclusions.
        exclusions = Exclusions(self.excluded_ids, read_excluded_images(datasets) if datasets else None)
        row_filter = RowFilter(exclusions, self.fingerprint_cache, distance=self.max_distance)
        row_filter.compare_images(self._iter_rows)
        return row_filter

    def _iter_selected(
        self, row_filter: RowFilter, on_balance: Callable[[NotebookSummary], None]
    ) -> Iterator[Row | Reject]:
        """Yield the rows that pass the filter and the selection; a selection needs a first pass over all rows."""
        if self.select is None:
            return row_filter.apply(self._iter_rows(on_balance))
        # Pass 1 decides, pass 2 yields the rows. Only pass 2 reports the balance, or it would be reported twice.
        apply_choice = self.select.choose(row_filter.apply(self._iter_rows()))
        return apply_choice(row_filter.apply(self._iter_rows(on_balance)))

    def _iter_rows(
        self, on_balance: Callable[[NotebookSummary], None] = lambda balance: None
    ) -> Iterator[Row | Reject]:
        return map(_reject_mixed_splits, iter_rows(self.runs, replace(self.options, on_balance=on_balance)))


def _reject_mixed_splits(row: Row | Reject) -> Row | Reject:
    """Return the row, or a reject if some of its images belong to the training split and others to validation."""
    # Such a row would be in the training split and have a validation image.
    if isinstance(row, Row) and len(set(map(is_validation_image, row.image_ids))) > 1:
        return row.reject("assembly", AssemblyReason.BOTH_SPLITS, str(row.image_id))
    return row


def _fill_licenses(rows: Iterable[Row | Reject], license: str | None) -> Iterator[Row | Reject]:
    """Replace the license `unknown` in rows of the runs by `license`; instruction rows stay as they are."""
    for row in rows:
        if (
            license is not None
            and isinstance(row, Row)
            and row.source != INSTRUCTION
            and row.image_license == "unknown"
        ):
            yield replace(row, image_license=license)
        else:
            yield row
