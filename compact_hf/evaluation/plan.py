"""Estimates the work and cost of an evaluation before any model is loaded: `compact evaluate --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compact_hf.evaluation.evaluate import EvaluationSettings, identity_settings, list_models, resolve_models
from compact_hf.evaluation.predict import count_local_answers
from compact_hf.evaluation.questions import DataOptions
from compact_hf.evaluation.results_directory import choose_slug, is_finished, read_entries
from compact_hf.evaluation.server import TOKENS_PER_REQUEST, check_server_options, count_journal_answers
from compact_hf.evaluation.task import choose_task, describe_parts, read_questions
from compact_hf.runs.options import RunLimits
from compact_hf.teachers.prices import lookup_price


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The questions that one model still has to answer.

    Attributes:
        model (`str`): the model as given on the command line.
        answered (`int`): number of questions answered already.
        to_ask (`int`): number of questions left.
        requests (`int`): requests to a server; 0 for a local model.
        cost (`float | None`): estimated cost of these requests in US dollars, assuming an image of 1,024 pixels and a
            short answer each; None if the price is unknown.
    """

    model: str
    answered: int
    to_ask: int
    requests: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """The work that an evaluation requires.

    Attributes:
        dataset (`str`): display name of the dataset.
        questions (`int`): number of questions.
        pictures (`int`): number of images.
        parts (`dict[str, dict[str, int]]`): grouping -> part -> number of questions, as far as it is known.
        description (`str`): `parts` as text; empty if `parts` is.
        notes (`tuple[str, ...]`): which rows were skipped, and why.
        models (`tuple[ModelPlan, ...]`): the models, in the order given.
    """

    dataset: str
    questions: int
    pictures: int
    parts: dict[str, dict[str, int]]
    description: str
    notes: tuple[str, ...]
    models: tuple[ModelPlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, with a `by_...` key for each grouping."""
        return {
            "dataset": self.dataset,
            "questions": self.questions,
            "pictures": self.pictures,
            **{f"by_{grouping}": counts for grouping, counts in self.parts.items()},
            "notes": list(self.notes),
            "models": [asdict(model) for model in self.models],
        }


def plan_evaluation(
    models: str | Path | Sequence[str | Path],
    dataset: str | Path,
    out: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    task: str | None = None,
    matching: str | None = None,
    control: str | None = None,
    batch_size: int,
    max_new_tokens: int | None = None,
    base: str | None = None,
    url: str | None = None,
    limits: RunLimits = RunLimits(),  # noqa: B008  # frozen
) -> EvaluationPlan:
    """Return the work that `evaluate` would do with these arguments.

    The arguments are those of `evaluate`. `limits` holds its `concurrency`, `rpm`, `tpm`, budget and prices.

    Raises:
        UsageError: as for `evaluate`.
        EvaluationError: as for `evaluate`.
        SettingsMismatchError: as for `evaluate`.
    """
    check_server_options(list_models(models), url=url, limits=limits)
    entries = resolve_models(models, batch_size=batch_size, url=url, base=base)
    chosen_task = choose_task(task, str(dataset))
    settings = EvaluationSettings.of(chosen_task, matching, batch_size, max_new_tokens, url, limits)
    options = DataOptions(config, split, columns)
    question_set = read_questions(chosen_task, str(dataset), options, limit=limit, control=control)
    # Nothing is created here: a new model gets the name that its subdirectory would have.
    existing = read_entries(Path(out), identity_settings(chosen_task, question_set, settings))
    model_plans = []
    for entry in entries:
        directory = Path(out) / choose_slug(existing, entry)
        count = len(question_set.questions)
        # A model has either a journal or a file of saved answers, so the larger number is the right one.
        answered = (
            count if is_finished(directory) else max(count_journal_answers(directory), count_local_answers(directory))
        )
        to_ask = count - answered
        if entry.is_local:
            model_plans.append(ModelPlan(entry.model, answered, to_ask, 0, 0.0))
        else:
            price = lookup_price(entry.model)
            cost = None if price is None else to_ask * price.cost(*TOKENS_PER_REQUEST)
            model_plans.append(ModelPlan(entry.model, answered, to_ask, to_ask, cost))
    parts = chosen_task.count_parts(question_set.questions)
    # Questions about one image share its id, even if a control swaps or removes the image.
    image_count = len({question.image_id for question in question_set.questions})
    return EvaluationPlan(
        question_set.name,
        len(question_set.questions),
        image_count,
        parts,
        describe_parts(chosen_task, parts),
        question_set.notes,
        tuple(model_plans),
    )
