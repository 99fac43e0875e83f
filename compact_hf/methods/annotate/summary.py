"""What the annotated questions of a run come to: the numbers that the paper gives for LLaVA-665K and for COMPACT.

In: a run folder. Out: its annotations one by one, or a `Summary`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_hf.errors import UsageError
from compact_hf.methods.annotate.annotation import METHOD, Annotation, annotated_of
from compact_hf.methods.compact.complexity import Pair, complexity_of
from compact_hf.runs.journal import Journal


@dataclass(frozen=True, slots=True)
class Summary:
    """Annotated questions in numbers (paper, section 2 and figure 2).

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): pictures that are done.
        questions (`int`): questions that were annotated.
        mean_k (`float | None`): None without any question.
        mode_k (`int | None`): the k that most questions have, the smaller in a tie.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> questions, from 0 to the largest that there is.
        by_capability (`dict[str, int]`): capability -> questions that need it; all ten.
        by_pair (`tuple[Pair, ...]`): pairs that some question needs, most frequent first.
        rejects (`dict[str, int]`): reason -> rows, pictures or questions that could not be annotated.
        verifiers (`tuple[str, ...]`): the model versions that judged.
    """

    identity: dict[str, Any]
    pictures: int
    questions: int
    mean_k: float | None
    mode_k: int | None
    at_most_2: float | None
    none_needed: float | None
    by_k: dict[int, int]
    by_capability: dict[str, int]
    by_pair: tuple[Pair, ...]
    rejects: dict[str, int]
    verifiers: tuple[str, ...]


def annotations_of(run: str | Path) -> Iterator[Annotation]:
    """Yield what a run found, in the order of image ids and within a picture in that of the data set.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        for finished in journal.outcomes():
            yield from annotated_of(finished.body).annotations


def summary(run: str | Path) -> Summary:
    """Return a run's annotations in numbers, also while it goes on.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    needed: Counter[tuple[str, ...]] = Counter()
    verifiers: set[str] = set()
    pictures = 0
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        rejects = Counter(reject.reason for reject in journal.picture_rejects())
        for finished in journal.outcomes():
            pictures += 1
            outcome = annotated_of(finished.body)
            rejects.update(reject.reason for reject in outcome.rejects)
            verifiers.update(filter(None, [outcome.verifier]))
            needed.update(annotation.capabilities for annotation in outcome.annotations)
        identity = journal.identity
    found = complexity_of(needed)
    return Summary(
        identity=identity,
        pictures=pictures,
        questions=found.questions,
        mean_k=found.mean_k,
        mode_k=found.mode_k,
        at_most_2=found.at_most_2,
        none_needed=found.none_needed,
        by_k=found.by_k,
        by_capability=found.by_capability,
        by_pair=found.by_pair,
        rejects=dict(sorted(rejects.items(), key=lambda item: (-item[1], item[0]))),
        verifiers=tuple(sorted(verifiers)),
    )


def check_method(journal: Journal) -> None:
    """Do nothing for a run of `compact annotate`.

    Raises:
        UsageError: it is a run of another command.
    """
    method = journal.identity["method"]
    if method != METHOD:
        raise UsageError(f"{journal.run} is a run of {method}, not of {METHOD}; `compact status` shows it")
