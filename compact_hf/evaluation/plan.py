"""`compact evaluate ... --dry-run`: what judging will take from here on, before any model is loaded or asked.

In: what `evaluate` takes. Out: how many questions, about how many pictures, and what each model still has to answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_hf.evaluation.datasets import questions_of
from compact_hf.evaluation.evaluate import entrants_of
from compact_hf.evaluation.predict import answered_here
from compact_hf.evaluation.results_folder import finished, places_in, slug_in
from compact_hf.evaluation.server import TOKENS, answered_in
from compact_hf.teachers.prices import price_of


@dataclass(frozen=True, slots=True)
class Left:
    """What one model still has to answer.

    Attributes:
        model (`str`): as it was given.
        answered (`int`): questions that it has answered.
        to_ask (`int`): questions that it has not.
        requests (`int`): to a server; 0 for a model that runs here.
        cost (`float | None`): of these in US dollars, about: a picture of 1,024 pixels and a short answer each; None
            where nobody knows the price.
    """

    model: str
    answered: int
    to_ask: int
    requests: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What judging will take.

    Attributes:
        dataset (`str`): what it is called.
        questions, pictures (`int`): in it.
        by_k (`dict[int, int]`): k -> questions, where that is known.
        notes (`tuple[str, ...]`): what was left out of it.
        models (`tuple[Left, ...]`): in the order given.
    """

    dataset: str
    questions: int
    pictures: int
    by_k: dict[int, int]
    notes: tuple[str, ...]
    models: tuple[Left, ...]


def plan(
    models: str | Path | Sequence[str | Path],
    dataset: str | Path,
    out: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    batch_size: int,
    url: str | None = None,
) -> Plan:
    """Say what `evaluate` with these arguments will take.

    Raises:
        UsageError, EvaluationError: as `evaluate`.
    """
    entrants = entrants_of(models, batch_size=batch_size, url=url)
    asked = questions_of(str(dataset), config=config, split=split, columns=columns, limit=limit)
    places = places_in(Path(out))
    left = []
    for entrant in entrants:
        folder = Path(out) / slug_in(places, entrant)
        count = len(asked.questions)
        answered = count if finished(folder) else max(answered_in(folder), answered_here(folder))
        to_ask = max(0, count - answered)
        if entrant.is_here:
            left.append(Left(entrant.model, answered, to_ask, 0, 0.0))
        else:
            price = price_of(entrant.model)
            cost = None if price is None else to_ask * price.cost(*TOKENS)
            left.append(Left(entrant.model, answered, to_ask, to_ask, cost))
    ks = Counter(question.k for question in asked.questions if question.k is not None)
    pictures = len({question.picture for question in asked.questions})
    return Plan(asked.name, len(asked.questions), pictures, dict(sorted(ks.items())), asked.notes, tuple(left))
