"""What was measured of a model, as its card tells it: the folder of a judging in; table, picture and index out.

The table and the picture have the other models that were asked the same questions beside it, such as its base; the
index, which the Hub reads, has this model alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.loading import identity_of
from compact_hf.records import RESULTS_SCHEMA
from compact_hf.reports.score_charts import Difference, Interval, Score, accuracy, describe_differences, table
from compact_hf.reports.theme import MOST_MODELS, spoken

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from compact_hf.reports.figure import Plot, Table

THIS: Final = "this model"
_NAMED: Final = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?(?: \((?P<parts>[^)]*)\))?.*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A data set's name as `compact evaluate` puts it, `org/name@v1.0.0 (config, split)`, and its parts.

    Of one that is not on the Hub the name is all there is.
    """

    name: str
    repository: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @property
    def linked(self) -> str:
        """The name, of a repository as a link."""
        if self.repository is None:
            return self.name
        link = f"[{self.repository}](https://huggingface.co/datasets/{self.repository})"
        return link + self.name.removeprefix(self.repository)


@dataclass(frozen=True, slots=True)
class Measured:
    """The scores of some models on one data set, and which of the models the card is about.

    Attributes:
        judging (`Mapping[str, Any]`): the content of DIR/results.json.
        model (`str`): the name that it has there.
    """

    judging: Mapping[str, Any]
    model: str

    @property
    def own(self) -> Mapping[str, Any]:
        """The model's own results."""
        found: Mapping[str, Any] = next(one for one in self.judging["models"] if one["model"] == self.model)
        return found

    @property
    def models(self) -> tuple[Mapping[str, Any], ...]:
        """Every model's results, its own first, as many as one plot keeps apart."""
        others = [one for one in self.judging["models"] if one["model"] != self.model]
        return (self.own, *others[: MOST_MODELS - 1])

    @property
    def asked(self) -> Asked:
        """The data set."""
        return _asked(str(self.judging["dataset"]))

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called in the card."""
        return (THIS, *(_public(one["model"]) for one in self.models[1:]))

    def lines(self) -> tuple[Score, ...]:
        """Return a line for all questions, for each k and for each capability."""
        own = self.own
        return (
            _line("all", [one["overall"] for one in self.models]),
            *(_line(f"k = {k}", [one["by_k"][k] for one in self.models]) for k in own["by_k"]),
            *(_line(name, [one["by_capability"][name] for one in self.models]) for name in own["by_capability"]),
        )

    def plot(self) -> Plot:
        """Draw accuracy by k."""
        lines = self.lines()[: 1 + len(self.own["by_k"])]
        return accuracy(lines, self.names, name="accuracy-by-k", title="Accuracy by k")

    def table(self) -> Table:
        """Return every line's numbers."""
        return table(self.lines(), self.names)

    def differences(self) -> tuple[str, ...]:
        """Return a sentence for each comparison of this model with another."""
        return describe_differences(
            [self._difference(one) for one in self.judging["comparisons"] if self.model in _two(one)]
        )

    def _difference(self, found: Mapping[str, Any]) -> Difference:
        """Return a comparison as the plots have it: how the further model does against the baseline."""
        baseline, further = (THIS if name == self.model else _public(name) for name in _two(found))
        share = Interval(found["difference"], found["low"], found["high"])
        return Difference(baseline, further, found["n"], share, found["p"])

    def index(self) -> list[EvalResult]:
        """Return the model's own shares of 1 as the Hub's `model-index` takes them, one for each line."""
        from huggingface_hub import EvalResult

        own, asked = self.own, self.asked
        parts: list[tuple[str, dict[str, Any] | None, Mapping[str, Any]]] = [("all", None, own["overall"])]
        parts += [(f"k = {k}", {"k": int(k)}, score) for k, score in own["by_k"].items()]
        parts += [(spoken(name), {"capability": name}, score) for name, score in own["by_capability"].items()]
        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=asked.repository or asked.name,
                dataset_name=asked.name,
                dataset_config=asked.config,
                dataset_split=asked.split,
                dataset_revision=asked.revision,
                metric_type="accuracy",
                metric_name=f"accuracy, {label}",
                metric_args=given,
                metric_value=round(score["accuracy"], 4),
            )
            for label, given, score in parts
        ]


def measured(folder: Path, results: Path) -> Measured:
    """Return what a judging found out about the model in a folder.

    Args:
        folder (`Path`): the model's or the adapter's.
        results (`Path`): what `compact evaluate` wrote as --out.

    Raises:
        TuningError: there are no results, they are another version's, or they are of other models than this one as it
            is now.
    """
    again = f"measure again: compact evaluate {folder} DATASET --out DIR"
    try:
        told, judging = (json.loads((results / name).read_bytes()) for name in ("evaluation.json", "results.json"))
    except (OSError, ValueError) as error:
        raise TuningError(
            f"{results} has no results that can be read ({error}); give what compact evaluate wrote as --out"
        ) from error
    if judging.get("schema") != RESULTS_SCHEMA or "models" not in told:
        raise TuningError(
            f"{results / 'results.json'} has schema {judging.get('schema')!r}, this version reads {RESULTS_SCHEMA}; "
            f"{again}"
        )
    identity = identity_of(folder)
    slug = next((slug for slug, one in told["models"].items() if one["identity"] == identity), None)
    if slug is None:
        others = ", ".join(one["model"] for one in told["models"].values())
        raise TuningError(
            f"the results in {results} are those of {others} as they were then, not of {folder} as it is; {again}"
        )
    own = results / slug / "results.json"
    if not own.is_file():
        raise TuningError(f"{results} lacks answers of {folder}; the same compact evaluate goes on")
    return Measured(judging, json.loads(own.read_bytes())["model"])


def _asked(name: str) -> Asked:
    found = _NAMED.fullmatch(name)
    if found is None:
        return Asked(name)
    parts = found["parts"].split(", ") if found["parts"] else []
    return Asked(
        name,
        found["repository"],
        found["revision"],
        config=parts[0] if len(parts) > 1 else None,
        split=parts[-1] if parts else None,
    )


def _public(model: str) -> str:
    # Where things lay on one machine is nobody else's business.
    return Path(model).name if Path(model).is_absolute() else model


def _two(comparison: Mapping[str, Any]) -> tuple[str, str]:
    return comparison["baseline"], comparison["model"]


def _line(label: str, scores: Sequence[Mapping[str, Any]]) -> Score:
    intervals = tuple(Interval(one["accuracy"], one["low"], one["high"]) for one in scores)
    return Score(label, scores[0]["n"], scores[0]["majority"]["accuracy"], intervals)
