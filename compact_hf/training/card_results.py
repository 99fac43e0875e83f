"""Turns evaluation results into the table, figure and metadata of a model card.

It reads the directory that `compact evaluate` wrote. Every task's results.json has a headline score, and one `by_...`
entry per grouping of the questions, such as `by_k`. Nothing else is read, so that a card can be written on a machine
without the task's package.

Table and figure also show the other models of the same evaluation, such as the base. The metadata (`model-index`),
which the Hub reads, has this model's scores only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from compact_hf.errors import TuningError
from compact_hf.hub.card_rules import to_identifier
from compact_hf.hub.ref import REPO_ID, RepoRef, page_url
from compact_hf.models.loading import hash_model, is_adapter
from compact_hf.parsing import read_json
from compact_hf.records import FIRST_RULE_VERSION, READABLE_RESULTS_SCHEMAS
from compact_hf.reports.markdown import escape_markdown
from compact_hf.reports.score_charts import (
    Interval,
    ModelDifference,
    ScoreRow,
    describe_differences,
    make_score_table,
    plot_accuracy,
)
from compact_hf.reports.theme import MAX_MODELS, get_label
from compact_hf.training.training_record import read_adapter_info
from compact_hf.wording import format_command

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from compact_hf.reports.figure import Plot
    from compact_hf.reports.table import Table

THIS_MODEL: Final = "this model"
_UNNAMED_TASK: Final = "compact"
"""The task of results with schema 2, which do not name one."""
_OMITTED_GROUPINGS: Final = ("pair",)
"""Groupings with too many parts for a card."""
# Groups of `org/name@revision (config, split)`, of which only `org/name` is required.
_DATASET_NAME: Final = re.compile(rf"(?P<repository>{REPO_ID})(?:@(?P<revision>\S+))?(?: \((?P<parts>[^)]*)\))?.*")


@dataclass(frozen=True, slots=True)
class EvaluatedDataset:
    """The name of an evaluation dataset, `org/name@v1.0.0 (config, split)` in `compact evaluate`, and its components.

    Attributes:
        name (`str`): the whole name.
        repository (`str`, *optional*): `org/name`; None, like the fields below, if the dataset is not on the Hub.
        revision (`str`, *optional*): tag, branch or commit.
        config (`str`, *optional*): the dataset's config.
        split (`str`, *optional*): the dataset's split.
    """

    name: str
    repository: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @property
    def identifier(self) -> str:
        """The repository, or an identifier made of the name: the Hub allows no spaces there."""
        return self.repository or to_identifier(re.split(r"@| \(", self.name)[0]) or "dataset"

    @property
    def link(self) -> Markup:
        """The name in Markdown, with a link if it is a repository."""
        if self.repository is None:
            return escape_markdown(self.name)
        link = Markup(f"[{self.repository}]({page_url(self.repository, kind='datasets')})")
        return link + escape_markdown(self.name.removeprefix(self.repository))


@dataclass(frozen=True, slots=True)
class CardResults:
    """Scores of several models on one dataset; one of them is the model of the card.

    Attributes:
        evaluation (`Mapping[str, Any]`): the content of results.json.
        model (`str`): the name of the card's model in results.json.
    """

    evaluation: Mapping[str, Any]
    model: str

    @property
    def own_results(self) -> Mapping[str, Any]:
        """Results of the card's model."""
        results: Mapping[str, Any] = next(model for model in self.evaluation["models"] if model["model"] == self.model)
        return results

    @property
    def models(self) -> tuple[Mapping[str, Any], ...]:
        """Results of the card's model and then of the others, at most as many as one plot can distinguish."""
        others = [model for model in self.evaluation["models"] if model["model"] != self.model]
        return (self.own_results, *others[: MAX_MODELS - 1])

    @property
    def dataset(self) -> EvaluatedDataset:
        """The dataset of the evaluation."""
        return _parse_dataset_name(str(self.evaluation["dataset"]))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `models` in the card."""
        return (THIS_MODEL, *(_public_name(model["model"]) for model in self.models[1:]))

    @property
    def task(self) -> str:
        """The evaluation task."""
        return str(self.evaluation.get("task", _UNNAMED_TASK))

    @property
    def matching_version(self) -> str:
        """The version of the rule that marked the answers."""
        return str(self.evaluation.get("matching_version", FIRST_RULE_VERSION))

    @property
    def metric_identifier(self) -> str:
        """The metric as the Hub identifies it, such as `accuracy`."""
        return to_identifier(self.metric) or "score"

    @property
    def metric(self) -> str:
        """The name of the headline score, such as `accuracy`."""
        return str(_get_headline(self.own_results)["metric"])

    def iter_parts(self) -> Iterator[tuple[str, str]]:
        """Yield (grouping, part), such as `("k", "2")`, for each part of the questions that has a row in the card."""
        for key, parts in self.own_results.items():
            grouping = key.removeprefix("by_")
            if grouping != key and grouping not in _OMITTED_GROUPINGS:
                yield from ((grouping, part) for part in parts)

    def scores(self) -> tuple[ScoreRow, ...]:
        """Return a row for all questions, and one for each part of them."""
        return (
            # `overall` has the majority baseline too; tasks that do not count right answers have only a headline.
            _build_score("all", [model.get("overall") or _get_headline(model) for model in self.models]),
            *(
                _build_score(_format_part(grouping, part), [model[f"by_{grouping}"][part] for model in self.models])
                for grouping, part in self.iter_parts()
            ),
        )

    def plot(self) -> Plot:
        """Return a plot of the headline and of the first grouping's scores, such as accuracy by k."""
        # The plot has the headline and the first grouping; the table has all of them.
        groupings = [grouping for grouping, _ in self.iter_parts()]
        scores = self.scores()[: 1 + groupings.count(groupings[0])] if groupings else self.scores()
        by, title = (f"-by-{groupings[0]}", f" by {groupings[0]}") if groupings else ("", "")
        metric = self.metric
        return plot_accuracy(
            scores, self.names, name=f"{metric.lower()}{by}", title=f"{metric[:1].upper()}{metric[1:]}{title}"
        )

    def table(self) -> Table:
        """Return all scores as a table."""
        return make_score_table(self.scores(), self.names)

    def differences(self) -> tuple[str, ...]:
        """Return one sentence per comparison of this model with another."""
        return describe_differences(
            [
                self._difference(comparison)
                for comparison in self.evaluation["comparisons"]
                if self.model in _compared_models(comparison)
            ]
        )

    def _difference(self, comparison: Mapping[str, Any]) -> ModelDifference:
        """Return a comparison in the form that plots take: the candidate's difference to the baseline."""
        baseline, candidate = (
            THIS_MODEL if name == self.model else _public_name(name) for name in _compared_models(comparison)
        )
        interval = Interval(comparison["difference"], comparison["low"], comparison["high"])
        return ModelDifference(baseline, candidate, comparison["n"], interval, comparison["p"])

    def eval_results(self) -> list[EvalResult]:
        """Return the model's scores (0 to 1) for the Hub's `model-index`, one entry per row of the table."""
        from huggingface_hub import EvalResult

        results, dataset = self.own_results, self.dataset
        headline = _get_headline(results)
        # (label, metric_args, score from 0 to 1), one entry per row of the table.
        entries: list[tuple[str, dict[str, Any] | None, float]] = [("all", None, headline["value"])]
        entries += [
            (
                get_label(_format_part(grouping, part)),
                # Keys of JSON objects are strings, but k is a number.
                {grouping: int(part) if grouping == "k" else part},
                results[f"by_{grouping}"][part]["accuracy"],
            )
            for grouping, part in self.iter_parts()
        ]
        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=dataset.identifier,
                dataset_name=dataset.name,
                dataset_config=dataset.config,
                dataset_split=dataset.split,
                dataset_revision=dataset.revision,
                metric_type=self.metric_identifier,
                metric_name=f"{headline['metric']}, {label}",
                metric_args=metric_args,
                metric_value=round(value, 4),
            )
            for label, metric_args, value in entries
        ]


def read_card_results(directory: Path, results_directory: Path) -> CardResults:
    """Return the evaluation results of the model in a directory.

    Args:
        directory (`Path`): directory of the model or adapter.
        results_directory (`Path`): the output directory of `compact evaluate`.

    Returns:
        `CardResults`: the results of all models in that evaluation.

    Raises:
        TuningError: if there are no results, they have an unknown schema, or none of them is of this model with its
            current weights and base. A base that is not a local directory is only compared with the one that was given
            in the evaluation.
    """
    advice = f"evaluate again: {format_command('compact', 'evaluate', directory, 'DATASET', '--out', 'DIR')}"
    try:
        manifest, evaluation = (read_json(results_directory / name) for name in ("evaluation.json", "results.json"))
    except (OSError, ValueError) as error:
        raise TuningError(
            f"{results_directory} has no readable results ({error}): give the --out directory of compact evaluate"
        ) from error
    if evaluation.get("schema") not in READABLE_RESULTS_SCHEMAS or "models" not in manifest:
        raise TuningError(
            f"{results_directory / 'results.json'} has schema {evaluation.get('schema')!r}, but "
            f"this version reads {' and '.join(map(str, READABLE_RESULTS_SCHEMAS))}; {advice}"
        )
    # Models are identified by the hash of their files: a name does not change when a model is trained again.
    identity = hash_model(directory)
    own = {slug: entry for slug, entry in manifest["models"].items() if entry["identity"] == identity}
    if is_adapter(directory):
        own = _select_own_base(own, read_adapter_info(directory).base)
    if len(own) != 1:
        names = ", ".join(_describe_entry(entry) for entry in (own or manifest["models"]).values())
        problem = (
            f"and which of them is {directory} with its own base is not known"
            if own
            else f"not of {directory} with its current weights{' and base' if is_adapter(directory) else ''}"
        )
        raise TuningError(f"the results in {results_directory} are of {names}, {problem}; {advice}")
    (slug,) = own
    # The manifest lists all models of the evaluation; one that was interrupted has no results yet.
    own_file = results_directory / slug / "results.json"
    if not own_file.is_file():
        raise TuningError(
            f"{results_directory} lacks answers of {directory}: run the same compact evaluate again to resume"
        )
    return CardResults(evaluation, read_json(own_file)["model"])


def _select_own_base(entries: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return those entries of an adapter that may be of the base in its config."""
    if Path(base).is_dir():
        identity = hash_model(Path(base))
        same = {slug: entry for slug, entry in entries.items() if entry.get("base") == identity}
        # Version 0.1.0 did not record it.
        return same or {slug: entry for slug, entry in entries.items() if entry.get("base") is None}
    same = {slug: entry for slug, entry in entries.items() if entry.get("given_base") in (None, base)}
    # A local base that is gone may have been moved, and given from there.
    return same if same or RepoRef.parse(base) else dict(entries)


def _describe_entry(entry: Mapping[str, Any]) -> str:
    return " on ".join(filter(None, (entry["model"], entry.get("given_base"))))


def _parse_dataset_name(name: str) -> EvaluatedDataset:
    """Split a dataset's name into its components; other names have none."""
    match = _DATASET_NAME.fullmatch(name)
    if match is None:
        return EvaluatedDataset(name)
    # `(config, split)`, or only `(split)`.
    parts = match["parts"].split(", ") if match["parts"] else []
    return EvaluatedDataset(
        name,
        match["repository"],
        match["revision"],
        config=parts[0] if len(parts) > 1 else None,
        split=parts[-1] if parts else None,
    )


def _public_name(model: str) -> str:
    # A card shows no local directories.
    return Path(model).name if Path(model).is_absolute() else model


def _compared_models(comparison: Mapping[str, Any]) -> tuple[str, str]:
    return comparison["baseline"], comparison["model"]


def _get_headline(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's headline score; results with schema 2 have it as `overall`."""
    if "headline" in results:
        headline: Mapping[str, Any] = results["headline"]
        return headline
    return {"metric": "accuracy", "value": results["overall"]["accuracy"], **results["overall"]}


def _format_part(grouping: str, part: str) -> str:
    return f"k = {part}" if grouping == "k" else part


def _build_score(label: str, scores: Sequence[Mapping[str, Any]]) -> ScoreRow:
    """Return a row with the score of each model; only accuracies have a majority baseline."""
    intervals = tuple(
        # A SCORE has `accuracy`, a headline has `value`; both have the interval and n.
        Interval(score["accuracy"] if "accuracy" in score else score["value"], score["low"], score["high"])
        for score in scores
    )
    majority = scores[0].get("majority")
    return ScoreRow(label, scores[0]["n"], majority and majority["accuracy"], intervals)
