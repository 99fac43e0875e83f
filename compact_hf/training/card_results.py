"""What was measured of a model, as its card tells it: the folder of a judging in; table, image and index out.

Every task's results.json has a headline, and one `by_...` for each way to part the questions into right and wrong ones;
more is not asked of it, so that a card can be written where the task's package is not installed.

The table and the image have the other models that were asked the same questions beside it, such as its base; the
index, which the Hub reads, has this model alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.hub.ref import REPO_ID
from compact_hf.models.loading import hash_model
from compact_hf.records import READABLE_RESULTS_SCHEMAS
from compact_hf.reports.score_charts import (
    Interval,
    ModelDifference,
    ScoreRow,
    describe_differences,
    make_score_table,
    plot_accuracy,
)
from compact_hf.reports.theme import MAX_MODELS, get_label

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from compact_hf.reports.figure import Plot
    from compact_hf.reports.table import Table

THIS_MODEL: Final = "this model"
_UNNAMED_TASK: Final = "compact"
"""The task of results of schema 2, which names none."""
_OMITTED_GROUPINGS: Final = ("pair",)
"""Too many parts for a card."""
_DATASET_NAME: Final = re.compile(rf"(?P<repository>{REPO_ID})(?:@(?P<revision>\S+))?(?: \((?P<parts>[^)]*)\))?.*")


@dataclass(frozen=True, slots=True)
class EvaluatedDataset:
    """A dataset's name as `compact evaluate` puts it, `org/name@v1.0.0 (config, split)`, and its parts.

    Of one that is not on the Hub the name is all there is.
    """

    name: str
    repository: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @property
    def link(self) -> str:
        """The name, of a repository as a link."""
        if self.repository is None:
            return self.name
        link = f"[{self.repository}](https://huggingface.co/datasets/{self.repository})"
        return link + self.name.removeprefix(self.repository)


@dataclass(frozen=True, slots=True)
class CardResults:
    """The scores of some models on one dataset, and which of the models the card is about.

    Attributes:
        evaluation (`Mapping[str, Any]`): the content of DIR/results.json.
        model (`str`): the name that it has there.
    """

    evaluation: Mapping[str, Any]
    model: str

    @property
    def own_results(self) -> Mapping[str, Any]:
        """The model's own results."""
        results: Mapping[str, Any] = next(model for model in self.evaluation["models"] if model["model"] == self.model)
        return results

    @property
    def models(self) -> tuple[Mapping[str, Any], ...]:
        """Every model's results, its own first, as many as one plot keeps apart."""
        others = [model for model in self.evaluation["models"] if model["model"] != self.model]
        return (self.own_results, *others[: MAX_MODELS - 1])

    @property
    def dataset(self) -> EvaluatedDataset:
        """The dataset."""
        return _parse_dataset_name(str(self.evaluation["dataset"]))

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called in the card."""
        return (THIS_MODEL, *(_public_name(model["model"]) for model in self.models[1:]))

    @property
    def task(self) -> str:
        """The task by which they were judged."""
        return str(self.evaluation.get("task", _UNNAMED_TASK))

    @property
    def metric(self) -> str:
        """What the headline is, such as `accuracy`."""
        return str(_get_headline(self.own_results)["metric"])

    def iter_parts(self) -> Iterator[tuple[str, str]]:
        """Yield (grouping, part) of each part of the questions that the card has a line for, such as `k` and `2`."""
        for key, parts in self.own_results.items():
            grouping = key.removeprefix("by_")
            if grouping != key and grouping not in _OMITTED_GROUPINGS:
                yield from ((grouping, part) for part in parts)

    def scores(self) -> tuple[ScoreRow, ...]:
        """Return a line for all questions and for each part of them."""
        return (
            _build_score("all", [model.get("overall") or _get_headline(model) for model in self.models]),
            *(
                _build_score(_format_part(grouping, part), [model[f"by_{grouping}"][part] for model in self.models])
                for grouping, part in self.iter_parts()
            ),
        )

    def plot(self) -> Plot:
        """Draw the headline, and the scores of the parts of the first grouping, such as accuracy by k."""
        groupings = [grouping for grouping, _ in self.iter_parts()]
        scores = self.scores()[: 1 + groupings.count(groupings[0])] if groupings else self.scores()
        by, title = (f"-by-{groupings[0]}", f" by {groupings[0]}") if groupings else ("", "")
        metric = self.metric
        return plot_accuracy(
            scores, self.names, name=f"{metric.lower()}{by}", title=f"{metric[:1].upper()}{metric[1:]}{title}"
        )

    def table(self) -> Table:
        """Return every line's numbers."""
        return make_score_table(self.scores(), self.names)

    def differences(self) -> tuple[str, ...]:
        """Return a sentence for each comparison of this model with another."""
        return describe_differences(
            [
                self._difference(comparison)
                for comparison in self.evaluation["comparisons"]
                if self.model in _compared_models(comparison)
            ]
        )

    def _difference(self, comparison: Mapping[str, Any]) -> ModelDifference:
        """Return a comparison as the plots have it: how the further model does against the baseline."""
        baseline, candidate = (
            THIS_MODEL if name == self.model else _public_name(name) for name in _compared_models(comparison)
        )
        interval = Interval(comparison["difference"], comparison["low"], comparison["high"])
        return ModelDifference(baseline, candidate, comparison["n"], interval, comparison["p"])

    def eval_results(self) -> list[EvalResult]:
        """Return the model's own shares of 1 as the Hub's `model-index` takes them, one for each line."""
        from huggingface_hub import EvalResult

        results, dataset = self.own_results, self.dataset
        headline = _get_headline(results)
        entries: list[tuple[str, dict[str, Any] | None, float]] = [("all", None, headline["value"])]
        entries += [
            (
                get_label(_format_part(grouping, part)),
                {grouping: int(part) if grouping == "k" else part},
                results[f"by_{grouping}"][part]["accuracy"],
            )
            for grouping, part in self.iter_parts()
        ]
        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=dataset.repository or dataset.name,
                dataset_name=dataset.name,
                dataset_config=dataset.config,
                dataset_split=dataset.split,
                dataset_revision=dataset.revision,
                metric_type=headline["metric"].lower(),
                metric_name=f"{headline['metric']}, {label}",
                metric_args=metric_args,
                metric_value=round(value, 4),
            )
            for label, metric_args, value in entries
        ]


def read_card_results(directory: Path, results_directory: Path) -> CardResults:
    """Return what a judging found out about the model in a folder.

    Args:
        directory (`Path`): the model's or the adapter's.
        results_directory (`Path`): what `compact evaluate` wrote as --out.

    Raises:
        TuningError: there are no results, they are another version's, or they are of other models than this one as it
            is now.
    """
    advice = f"measure again: compact evaluate {directory} DATASET --out DIR"
    try:
        manifest, evaluation = (
            json.loads((results_directory / name).read_bytes()) for name in ("evaluation.json", "results.json")
        )
    except (OSError, ValueError) as error:
        raise TuningError(
            f"{results_directory} has no results that can be read ({error}); give what compact evaluate wrote as --out"
        ) from error
    if evaluation.get("schema") not in READABLE_RESULTS_SCHEMAS or "models" not in manifest:
        raise TuningError(
            f"{results_directory / 'results.json'} has schema {evaluation.get('schema')!r}, "
            f"this version reads {' and '.join(map(str, READABLE_RESULTS_SCHEMAS))}; {advice}"
        )
    identity = hash_model(directory)
    slug = next((slug for slug, entry in manifest["models"].items() if entry["identity"] == identity), None)
    if slug is None:
        others = ", ".join(entry["model"] for entry in manifest["models"].values())
        raise TuningError(
            f"the results in {results_directory} are those of {others} as they were then, not of {directory} "
            f"as it is; {advice}"
        )
    own_file = results_directory / slug / "results.json"
    if not own_file.is_file():
        raise TuningError(f"{results_directory} lacks answers of {directory}; the same compact evaluate goes on")
    return CardResults(evaluation, json.loads(own_file.read_bytes())["model"])


def _parse_dataset_name(name: str) -> EvaluatedDataset:
    match = _DATASET_NAME.fullmatch(name)
    if match is None:
        return EvaluatedDataset(name)
    parts = match["parts"].split(", ") if match["parts"] else []
    return EvaluatedDataset(
        name,
        match["repository"],
        match["revision"],
        config=parts[0] if len(parts) > 1 else None,
        split=parts[-1] if parts else None,
    )


def _public_name(model: str) -> str:
    # Where things lay on one machine is nobody else's business.
    return Path(model).name if Path(model).is_absolute() else model


def _compared_models(comparison: Mapping[str, Any]) -> tuple[str, str]:
    return comparison["baseline"], comparison["model"]


def _get_headline(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's headline, which results of schema 2 have as `overall` alone."""
    if "headline" in results:
        headline: Mapping[str, Any] = results["headline"]
        return headline
    return {"metric": "accuracy", "value": results["overall"]["accuracy"], **results["overall"]}


def _format_part(grouping: str, part: str) -> str:
    return f"k = {part}" if grouping == "k" else part


def _build_score(label: str, scores: Sequence[Mapping[str, Any]]) -> ScoreRow:
    """Return a line from each model's score: an accuracy with a baseline, or a headline, which has none."""
    intervals = tuple(
        Interval(score["accuracy"] if "accuracy" in score else score["value"], score["low"], score["high"])
        for score in scores
    )
    majority = scores[0].get("majority")
    return ScoreRow(label, scores[0]["n"], majority and majority["accuracy"], intervals)
