"""`compact analyze`: a data set or a run in, or two of them, figures about their questions out.

    compact analyze release
    compact analyze annotated-llava release --out analysis

    DIR/analysis.json    the figures; their schema stands in stats.py
    DIR/analysis.html    the same to look at, one file

Every question is counted; what looks at text (near repeats, answers by type, guessing without the picture) looks at a
sample of whole pictures, at most 100,000 questions, and in a comparison at as many questions of either side: each of
these figures goes up or down with the number of questions, and would tell of nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, UnknownCapabilityError, UsageError
from compact_hf.evaluation.analysis.compare import Comparison, compared
from compact_hf.evaluation.analysis.counting import Counts
from compact_hf.evaluation.analysis.readers import Readable, is_run, of_dataset, of_run
from compact_hf.evaluation.analysis.report import page
from compact_hf.evaluation.analysis.stats import SCHEMA, Analysis, analysis_of

Chosen = str | tuple[str, str] | None

FIGURES: Final = "analysis.json"
PAGE: Final = "analysis.html"
_TELL_EVERY: Final = 500


@dataclass(frozen=True, slots=True)
class Analyzed:
    """One data set in figures, or two beside each other.

    Attributes:
        data (`tuple[Analysis, ...]`): in the order in which they were given.
        comparison (`Comparison | None`): of two.
    """

    data: tuple[Analysis, ...]
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON holds them; their schema stands in stats.py."""
        return {
            "schema": SCHEMA,
            "data": [one.to_json() for one in self.data],
            "comparison": None if self.comparison is None else asdict(self.comparison),
        }


def analyze(
    dataset: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path | None = None,
    config: Chosen = None,
    split: Chosen = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> Analyzed:
    """Measure what the questions of a data set need, how they repeat, and what they give away; nothing is downloaded
    but text.

    Args:
        dataset (`str | Path`): the folder of a release or of other Parquet files with its columns; a repository
            `org/name[@revision][/config]`; or the folder of a run, as of `generate` or of `annotate`, which says of
            anybody's data what they need.
        other (`str | Path`, *optional*): another one, to be compared with.
        out (`str | Path`, *optional*): a folder for analysis.json and analysis.html, in place of earlier ones.
        config, split (`str | tuple[str, str]`, *optional*): of a data set: its default config and all splits where not
            given; of two: one for both, or one for each.
        on_progress (`Callable[[str, int, int], None]`, *optional*): called with the name of what is read, and with how
            many of how many rows (of a run: pictures) are.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what takes long.

    Raises:
        UsageError: an argument cannot be carried out.
        SourceError: there is no such data set, or it cannot be read.
        JournalError: the run cannot be read.
        EvaluationError: there are no questions, not the columns that are needed, or `out` cannot be written.
    """
    given = [str(dataset)] if other is None else [str(dataset), str(other)]
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    chosen = zip(given, _for_each("config", config, len(given)), _for_each("split", split, len(given)), strict=True)
    found = [_opened(*one) for one in chosen]
    counts = [_counted(one, on_progress) for one in found]
    most = min(len(one.sample.questions()) for one in counts)
    samples = [one.sample.questions(most) for one in counts]
    analyses = []
    for name, one, counted, sample in zip(_names(found, given), found, counts, samples, strict=True):
        on_wait(f"measuring {len(sample):,} questions of {name}")
        analyses.append(analysis_of(name, one.k_is, counted, sample))
    comparison = compared(analyses, counts, samples) if len(analyses) == 2 else None
    analyzed = Analyzed(tuple(analyses), comparison)
    if out is not None:
        _write(Path(out), analyzed, _command(given, out, config, split))
    return analyzed


def _for_each(name: str, chosen: Chosen, count: int) -> tuple[str | None, ...]:
    """Return one choice for each data set."""
    if chosen is None or isinstance(chosen, str):
        return (chosen,) * count
    if len(chosen) != count:
        raise UsageError(f"got {len(chosen)} of --{name} for {count} data sets; give one for all, or one for each")
    return chosen


def _opened(where: str, config: str | None, split: str | None) -> Readable:
    if not is_run(Path(where)):
        return of_dataset(where, config=config, split=split)
    if given := next((name for name, value in (("config", config), ("split", split)) if value), None):
        raise UsageError(f"{where} is a run, which has no {given}s; leave --{given} out")
    return of_run(Path(where))


def _counted(found: Readable, on_progress: Callable[[str, int, int], None]) -> Counts:
    counts = Counts()
    try:
        for done, row in enumerate(found.rows(), 1):
            counts.row(row)
            if done % _TELL_EVERY == 0 or done == found.total:
                on_progress(found.name, done, found.total)
    except UnknownCapabilityError as error:
        raise EvaluationError(f"{found.name}: {error}") from error
    if not counts.questions:
        raise EvaluationError(
            f"{found.name} has no questions of which it is known what they need, in {counts.unlabelled:,} rows; give "
            "other data, or have a verifier say it: compact annotate DATASET --out RUN, then compact analyze RUN"
        )
    return counts


def _names(found: list[Readable], given: list[str]) -> list[str]:
    """Return names that tell the data sets apart, and where nothing does, their places."""
    for names in ([one.name for one in found], given):
        if len(set(names)) == len(names):
            return names
    return [f"{name}, {place}" for name, place in zip(given, ("first", "second"), strict=True)]


def _command(given: list[str], out: str | Path, config: Chosen, split: Chosen) -> str:
    """Return what does the same on the command line."""
    options = [("--config", config), ("--split", split), ("--out", str(out))]
    told = [[name, value if isinstance(value, str) else ",".join(value)] for name, value in options if value]
    return shlex.join(["compact", "analyze", *given, *chain.from_iterable(told)])


def _write(out: Path, analyzed: Analyzed, command: str) -> None:
    figures = json.dumps(analyzed.to_json(), ensure_ascii=False, indent=2) + "\n"
    files = {FIGURES: figures, PAGE: page(analyzed.data, analyzed.comparison, command=command)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            half = out / f".{name}.part"
            half.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(half, out / name)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror}); give another --out") from error
