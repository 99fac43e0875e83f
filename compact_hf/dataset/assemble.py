"""`compact assemble`: run folders in, a release folder out, with the instruction part beside the compositional one.

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
from compact_hf.methods.assembly import AssemblyOptions, RowSelection, find_sources, iter_rows
from compact_hf.methods.row_kind import MAX_SIMILARITY
from compact_hf.records import Reject, Row, is_validation_image
from compact_hf.reports.table import NotebookSummary

INSTRUCTION_FRACTION: Final = 0.05
"""The share of LLaVA-665K that the paper mixes in (section 3.4)."""

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
    """Write one release of the conversations in the runs and a sample of an instruction file.

    Args:
        runs (`str | Path | Sequence[str | Path]`): a run folder, or several: shards of one run or different runs; or a
            folder that holds the shards of one.
        out (`str | Path`): a folder that is new, empty, or an earlier release, which is then replaced.
        version (`str`): X.Y.Z.
        max_similarity (`float`, *optional*, defaults to 0.9): 0 to 1; a question that shares more of its words, and its
            answer, with one about an earlier image is dropped. 1 keeps all, as drawn scenes need it, whose wording
            repeats by design.
        balance (`bool`, *optional*, defaults to False): of images with more than two questions take the two or three
            that make capabilities, pairs of them and k most even; otherwise all are taken.
        select (`RowSelection`, *optional*): such as a `Selection`: take a part of the conversations only, after all
            else has been left out; the card says which.
        instruction (`str | Path`, *optional*): a JSON list in LLaVA's format, such as llava_v1_5_mix665k.json.
        image_root (`str | Path`, *optional*, defaults to the instruction file's folder): where its image paths start.
        instruction_fraction (`float`, *optional*, defaults to 0.05): share of its rows to take.
        instruction_rows (`int`, *optional*): how many of its rows to take, instead of a share.
        seed (`int`, *optional*, defaults to 0): decides which.
        exclude_ids (`str | Path`, *optional*): a file of ids of rows or images to leave out, one a line, comments
            after `#`. An image's id holds for every release; a row's changes with its questions.
        exclude_images_of (`str | Path | Sequence[str | Path]`, *optional*): benchmarks and the like whose images are
            left out: folders, releases, or `org/name[@revision]` on the Hub. Found are the same files, and the same
            images compressed or scaled again; not what was cropped, mirrored or turned.
        group_similar (`int`, *optional*): 0 to 10 bits of 64 in which the perceptual hashes of images that look alike
            may differ; those for training that are like one for validation are left out. Groups of more than 1% of the
            pictures (and more than 10) are told, and stay.
        image_license (`str`, *optional*): the licence of those of the runs' images whose licence is unknown, such as
            `cc-by-4.0`. The instruction part's images are others', and stay as they are.
        license (`str`, *optional*, defaults to the images' licence if they have one in common, else `other`): that of
            the release, in the card, as the Hub spells it.
        on_balance (`Callable[[NotebookSummary], None]`, *optional*): called with how even the questions were
            and are, with `balance`.
        on_note (`Callable[[str], None]`, *optional*): told which ids matched nothing, and which groups were too large.

    Returns:
        What was written.

    Raises:
        UsageError: no runs, or arguments that are out of range or do not fit together.
        JournalError: a folder is not a run, or the cache of image hashes (image_similarity.py) cannot be kept in the
            first one.
        SourceError: images are gone.
        ReleaseError: `out` holds something else, there is nothing to write, or less than `select` asks for.
    """
    run_directories = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not run_directories:
        raise UsageError("no run was given; name at least one folder that `compact generate --out` made")
    options = {
        "--image-root": image_root,
        "--instruction-fraction": instruction_fraction,
        "--instruction-rows": instruction_rows,
    }
    used_options = [name for name, value in options.items() if value is not None]
    if instruction is None and used_options:
        raise UsageError(f"{used_options[0]} needs --instruction FILE beside it, a JSON list in LLaVA's format")
    if image_license is not None and not _LICENSE.fullmatch(image_license):
        raise UsageError(f"got the licence {image_license!r}; give a short name such as cc-by-4.0")
    max_distance = None if group_similar is None else check_distance(group_similar)
    excluded_ids = frozenset[str]() if exclude_ids is None else read_ids(Path(exclude_ids))
    fingerprint_cache = FingerprintCache(run_directories[0])
    held_out: set[str] = set()
    # Refuses a wrong file at once, and reads it after the runs, when `held_out` is complete.
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
    """Return the instruction part, empty without a file; raises UsageError if the file has another format."""
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
    """Which rows of the runs a release has: read, filtered, selected, each step an iterator over the one before.

    The runs are read once for each question about all of them (which images look alike, which conversations to select)
    and once more for the rows themselves: in memory there are ids and hashes, never rows.
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
        """Yield the rows of the runs, then the instruction part, and fill `held_out` in between.

        Args:
            instruction_sample (`Iterator[Row | Reject]`): read after the last row of the runs.
            held_out (`set[str]`): gets the ids of the images for validation, which stay out of the instruction part.
            on_balance, on_note (`Callable`): see `assemble`.
        """
        row_filter = self._make_filter()
        for row in self._iter_selected(row_filter, on_balance):
            if isinstance(row, Row):
                held_out.update(filter(is_validation_image, row.image_ids))
            yield row
        yield from row_filter.apply(instruction_sample)
        for note in row_filter.notes():
            on_note(note)

    def _make_filter(self) -> RowFilter:
        datasets = [str(dataset) for dataset in self.exclude_images_of]
        exclusions = Exclusions(self.excluded_ids, read_excluded_images(datasets) if datasets else None)
        row_filter = RowFilter(exclusions, self.fingerprint_cache, distance=self.max_distance)
        row_filter.compare_images(self._iter_rows)
        return row_filter

    def _iter_selected(
        self, row_filter: RowFilter, on_balance: Callable[[NotebookSummary], None]
    ) -> Iterator[Row | Reject]:
        if self.select is None:
            return row_filter.apply(self._iter_rows(on_balance))
        apply_choice = self.select.choose(row_filter.apply(self._iter_rows()))
        return apply_choice(row_filter.apply(self._iter_rows(on_balance)))

    def _iter_rows(
        self, on_balance: Callable[[NotebookSummary], None] = lambda balance: None
    ) -> Iterator[Row | Reject]:
        return map(_reject_mixed_splits, iter_rows(self.runs, replace(self.options, on_balance=on_balance)))


def _reject_mixed_splits(row: Row | Reject) -> Row | Reject:
    """Return the row, or a reject where some of its images are for training and others for validation."""
    if isinstance(row, Row) and len(set(map(is_validation_image, row.image_ids))) > 1:
        return Reject("assembly", AssemblyReason.BOTH_SPLITS, row.id, str(row.image_id))
    return row


def _fill_licenses(rows: Iterable[Row | Reject], license: str | None) -> Iterator[Row | Reject]:
    """Set the licence of the runs' images whose licence is unknown."""
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
