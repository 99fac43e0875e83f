"""`compact evaluate`: judge models on a dataset; `--dry-run` says what that will take before any model is loaded.

    compact evaluate MODEL [MODEL...] DATASET --out DIR

results_folder.py says what DIR holds. The same command resumes, and gives the same files as one that was not stopped;
with another model it adds that one.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compact_hf.errors import UsageError
from compact_hf.evaluation.datasets import Questions, questions_of, with_swapped_pictures
from compact_hf.evaluation.inference import Student, identity
from compact_hf.evaluation.predict import BATCH, MAX_NEW_TOKENS, answered_here, forget_part, predict, read_predictions
from compact_hf.evaluation.report import write_report
from compact_hf.evaluation.results_folder import (
    RESULTS,
    Entrant,
    Judged,
    JudgingFolder,
    finished,
    places_in,
    slug_in,
    write_json,
    write_predictions,
)
from compact_hf.evaluation.scoring import Matching, Prediction, rule_of, score
from compact_hf.evaluation.server import SERVER, TOKENS, answered_in, ask_server
from compact_hf.evaluation.significance import compare
from compact_hf.records import digest
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Terms
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


@dataclass(frozen=True, slots=True)
class Asking:
    """How models are asked.

    Attributes:
        matching (`str`): when an answer is right.
        batch_size (`int`): questions that a model here answers at once.
        max_new_tokens (`int`): where an answer is cut.
        url (`str | None`): the server of `openai:NAME`.
        terms (`Terms`): requests in flight to it, rates and budget.
    """

    matching: Matching
    batch_size: int
    max_new_tokens: int
    url: str | None
    terms: Terms

    def __post_init__(self) -> None:
        rule_of(self.matching)
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"got {name} {getattr(self, name)}; it must be at least 1")


def evaluate(
    models: str | Path | Sequence[str | Path],
    dataset: str | Path,
    out: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    matching: Matching = "exact",
    swap_pictures: bool = False,
    batch_size: int = BATCH,
    max_new_tokens: int = MAX_NEW_TOKENS,
    url: str | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[int, int], None] = lambda answered, total: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> Judged:
    """Ask models a data set's questions, score their answers, and compare each further model with the first.

    Args:
        models (`str | Path | Sequence`): one or several: a folder or a Hub repository (`org/name` or
            `org/name@revision`) of a whole model or a LoRA adapter; or `openai:NAME`, a model behind a server.
        dataset (`str | Path`): `scenes:N`, a folder, a file, or a repository; see dataset.py.
        out (`str | Path`): a new or empty folder, or one in which this data set is judged already.
        config, split, columns, limit (*optional*): of the data set; as for `questions_of`.
        matching (`str`, *optional*, defaults to `exact`): when an answer is right; `relaxed`: near numbers are too.
        swap_pictures (`bool`, *optional*, defaults to False): ask each question about another question's picture, as a
            control: what a model still gets right, it knows from the words.
        batch_size (`int`, *optional*, defaults to 64): questions that a model here answers at once.
        max_new_tokens (`int`, *optional*, defaults to 16): where an answer is cut.
        url (`str`, *optional*, defaults to OPENAI_BASE_URL, else OpenAI itself): the server of `openai:NAME`. Its key
            comes from OPENAI_API_KEY; a server of one's own needs none.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): of requests to a server; as for
            `generate`.
        on_progress (`Callable[[int, int], None]`, *optional*): called with how many of how many answers, of all models,
            are there.
        on_failure (`Callable[[str], None]`, *optional*): called with what a server failed with and is asked again.

    Raises:
        UsageError: an argument cannot be carried out.
        EvaluationError: a model or the data set cannot be used, or `out` cannot be written or holds other things.
        IdentityError: `out` holds the judging of another data set, or one with other settings.
        TeacherError: the server refuses, or cannot be reached.
        StoppedEarly: Ctrl-C while a server is asked, or a budget; the same call goes on.
    """
    terms = Terms(None, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    asking = Asking(matching, batch_size, max_new_tokens, url, terms)
    entrants = entrants_of(models, batch_size=batch_size, url=url)
    asked = questions_of(str(dataset), config=config, split=split, columns=columns, limit=limit)
    if swap_pictures:
        asked = with_swapped_pictures(asked)
    total = len(asked.questions) * len(entrants)
    with JudgingFolder.open(Path(out), _settings(asked, asking)) as folder:
        for number, entrant in enumerate(entrants):
            before = number * len(asked.questions)
            place = folder.place(entrant)
            if not finished(place):
                told = partial(_tell, on_progress, before, total)
                write_predictions(place, _answers(entrant, asked, place, asking, told, on_failure))
                forget_part(place)
            on_progress(before + len(asked.questions), total)
        judged = _judged(folder, asked, matching)
        write_json(folder.out / RESULTS, judged.to_json())
        given = {"config": config, "split": split, "columns": columns, "limit": limit, "swap-pictures": swap_pictures}
        write_report(
            judged,
            folder.out,
            command=_command(folder, str(dataset), {**given, "match": matching, "url": url}),
            settings=_told(asked, asking),
        )
    return judged


def entrants_of(models: str | Path | Sequence[str | Path], *, batch_size: int, url: str | None) -> list[Entrant]:
    """Return who is judged, each looked up.

    Raises:
        UsageError: nobody, or one model twice.
        EvaluationError: a model is not there.
    """
    entrants: dict[str, Entrant] = {}
    for model in [models] if isinstance(models, str | Path) else models:
        told = str(model)
        if told.startswith(SERVER):
            entrant = Entrant(told, digest(told, url), None)
        else:
            entrant = Entrant(told, identity(told), batch_size)
        if entrant.identity in entrants:
            raise UsageError(f"{entrants[entrant.identity].model} and {told} are the same model; give it once")
        entrants[entrant.identity] = entrant
    if not entrants:
        raise UsageError("no model was given; give a folder, a repository or openai:NAME")
    return list(entrants.values())


def _settings(asked: Questions, asking: Asking) -> dict[str, Any]:
    """Return what decides the answers of all models in one folder, as JSON values."""
    return {
        "dataset": asked.name,
        "dataset_identity": asked.identity,
        "matching": asking.matching,
        "max_new_tokens": asking.max_new_tokens,
    }


def _tell(on_progress: Callable[[int, int], None], before: int, total: int, answered: int) -> None:
    on_progress(before + answered, total)


def _command(folder: JudgingFolder, dataset: str, options: Mapping[str, Any]) -> str:
    """Return the command that makes the whole folder, for its page."""
    words = ["compact", "evaluate", *(entrant.model for entrant in folder.places.values()), dataset]
    words += ["--out", str(folder.out)]
    for name, value in options.items():
        if not value or value == "exact":
            continue
        text = ",".join(f"{one}={column}" for one, column in value.items()) if isinstance(value, Mapping) else value
        words += [f"--{name}"] if value is True else [f"--{name}", str(text)]
    return shlex.join(words)


def _told(asked: Questions, asking: Asking) -> dict[str, object]:
    """Return what else the answers depend on, for the page."""
    return {
        "an answer is cut after": f"{asking.max_new_tokens} tokens",
        "questions at a time": asking.batch_size,
        "questions, as a hash": asked.identity,
        # A server is asked without the other two.
        **{name: version(name) for name in ("compact_hf", "torch", "transformers") if find_spec(name)},
    }


def _answers(
    entrant: Entrant,
    asked: Questions,
    place: Path,
    asking: Asking,
    on_progress: Callable[[int], None],
    on_failure: Callable[[str], None],
) -> list[Prediction]:
    if entrant.batch_size is None:
        return ask_server(
            entrant.model,
            asked.questions,
            place,
            url=asking.url,
            terms=asking.terms,
            max_new_tokens=asking.max_new_tokens,
            matching=asking.matching,
            on_progress=on_progress,
            on_failure=on_failure,
        )
    return predict(
        Student(entrant.model),
        asked.questions,
        place,
        matching=asking.matching,
        batch_size=entrant.batch_size,
        max_new_tokens=asking.max_new_tokens,
        on_progress=on_progress,
    )


def _judged(folder: JudgingFolder, asked: Questions, matching: Matching) -> Judged:
    """Score and compare all models that have answered, and write each one's scores."""
    answers = {slug: read_predictions(folder.out / slug) for slug in folder.places if finished(folder.out / slug)}
    names = _names({slug: folder.places[slug] for slug in answers})
    results = []
    for slug, predictions in answers.items():
        results.append(score(predictions, model=names[slug], dataset=asked.name, matching=matching))
        write_json(folder.out / slug / RESULTS, results[-1].to_json())
    first, *others = answers.values()
    readers = {question.id: question.read_picture for question in asked.questions}
    return Judged(
        dataset=asked.name,
        matching=matching,
        results=tuple(results),
        folders=tuple(answers),
        comparisons=tuple(compare(other, first) for other in others),
        notes=asked.notes,
        picture_of=lambda id: readers[id](),
    )


def _names(places: Mapping[str, Entrant]) -> dict[str, str]:
    """Return slug -> a model's name, or its slug, which no other has, where an earlier one has that name."""
    names: dict[str, str] = {}
    for slug, entrant in places.items():
        names[slug] = slug if entrant.name in names.values() else entrant.name
    return names
