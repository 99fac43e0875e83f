"""Builds the tab Results: accuracy by k and by capability from a results.json, a control, and the paper's table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from page import render_template

from compact_hf.escaping import escape_line
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, TABLE
from compact_hf.parsing import read_json
from compact_hf.records import FIRST_RULE_VERSION, READABLE_RESULTS_SCHEMAS

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot
    from compact_hf.reports.score_charts import ScoreRow

SHIPPED_RESULTS: Final = Path(__file__).with_name("results.json")
"""Results of the shipped student: `compact evaluate students/aligned students/tuned scenes:300 --out judged`."""

CONTROL_FILE: Final = "swapped.json"
"""The control beside a results.json, if there is one; the shipped one is the results.json of `compact evaluate
students/tuned scenes:300 --control swapped-images --out swapped`."""


@dataclass(frozen=True, slots=True)
class Series:
    """The scores of a model.

    Attributes:
        name (`str`): what visitors read.
        scores (`Mapping[str, Any]`): the entry of the model in a results.json.
        is_control (`bool`, *optional*, defaults to False): whether the images were swapped.
    """

    name: str
    scores: Mapping[str, Any]
    is_control: bool = False

    @property
    def conditions(self) -> tuple[dict[str, int], str, str]:
        """What scores in one chart share: the number of questions by k and by capability, the rule and its version."""
        groups = {**self.scores["by_k"], **self.scores["by_capability"]}
        counts = {name: group["n"] for name, group in groups.items()}
        return counts, self.scores["matching"], self.scores.get("matching_version", FIRST_RULE_VERSION)


def build_tab(results_path: str, names: Mapping[str, str], results_tab: gr.Tab) -> None:
    """Lay out the tab. The plots are drawn when it is opened first, because they take a second.

    Args:
        results_path (`str`): a results.json or the directory of an evaluation; empty for the shipped results.
        names (`Mapping[str, str]`): name of a model in a results.json -> its name in the tab Ask.
        results_tab (`gr.Tab`): the tab.
    """
    html = gr.HTML('<p class="note">Drawing …</p>', elem_classes="ours-html")
    path = Path(results_path) if results_path else SHIPPED_RESULTS

    # Cached for the lifetime of the process, a failure too: after a fix of the file, the Space has to be restarted.
    @cache
    def render_page() -> str:
        return _render_page(path / "results.json" if path.is_dir() else path, names)

    results_tab.select(render_page, None, html, api_name="results", show_progress="hidden", concurrency_limit=4)


def _render_page(path: Path, names: Mapping[str, str]) -> str:
    series = read_series(path, names)
    return render_template(
        "results.html.jinja",
        series=series,
        plots_by_k=_draw_plots(series, "k"),
        plots_by_capability=_draw_plots(series, "capability"),
        benchmarks=BENCHMARKS,
        table=TABLE,
    )


def read_series(path: Path, names: Mapping[str, str]) -> list[Series]:
    """Return the scores in a results.json and its control, without what cannot be used; the log says why.

    Args:
        path (`Path`): the results.json.
        names (`Mapping[str, str]`): name of a model in it -> its name in the tab Ask.
    """
    log = logging.getLogger(__name__)
    try:
        series = [Series(names.get(entry["model"], entry["model"]), entry) for entry in read_results(path)["models"]]
        if any(one.conditions != series[0].conditions for one in series):
            raise ValueError(
                f"the models in {path.name} answered other questions or were marked by other rules: evaluate all of "
                "them with compact evaluate and the same --out"
            )
    except (OSError, ValueError) as error:
        log.error("RESULTS cannot be used: %s", escape_line(str(error)))
        return []
    control_path = path.with_name(CONTROL_FILE)
    if not control_path.exists():
        return series
    try:
        return [*series, *_iter_controls(read_results(control_path)["models"], series)]
    except (OSError, ValueError) as error:
        log.error("the control of RESULTS cannot be used: %s", escape_line(str(error)))
        return series


def _iter_controls(entries: Sequence[Mapping[str, Any]], originals: Sequence[Series]) -> Iterator[Series]:
    """Yield the scores with swapped images.

    Raises:
        ValueError: the scores are those of other models or questions, or were marked by another rule.
    """
    original_by_model = {original.scores["model"]: original for original in originals}
    for entry in entries:
        original = original_by_model.get(entry["model"])
        control = Series("swapped images", entry, is_control=True)
        if original is None or control.conditions != original.conditions:
            raise ValueError(
                f"{CONTROL_FILE} has other models, questions or rules than the results.json beside it: write it with "
                "the same compact evaluate and --control swapped-images"
            )
        yield control if len(entries) == 1 else replace(control, name=f"{original.name}, swapped images")


def read_results(path: Path) -> dict[str, Any]:
    """Return the contents of a results.json.

    Args:
        path (`Path`): the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a results.json of accuracy by k.
    """
    results = read_json(path)
    if (
        not isinstance(results, dict)
        or results.get("schema") not in READABLE_RESULTS_SCHEMAS
        or results.get("task", "compact") != "compact"
        or not results.get("models")
    ):
        schemas = " or ".join(map(str, READABLE_RESULTS_SCHEMAS))
        raise ValueError(
            f"{path.name} is not a results.json of schema {schemas} with accuracy by k: write one with compact evaluate"
        )
    return results


def _draw_plots(series: Sequence[Series], group: str) -> list[Plot]:
    """Return the plots of accuracy by `k` or by `capability`; none if there are no scores."""
    from compact_hf.reports.score_charts import plot_accuracy_in_handfuls

    # All models answered the same questions, so each has the keys of the first one.
    keys = series[0].scores[f"by_{group}"] if series else ()
    rows = [_build_score(series, f"k = {key}" if group == "k" else key, f"by_{group}", key) for key in keys]
    names = [one.name for one in series]
    return list(plot_accuracy_in_handfuls(rows, names, name=f"results-by-{group}", title=f"By {group}"))


def _build_score(series: Sequence[Series], label: str, group: str, key: str) -> ScoreRow:
    from compact_hf.reports.score_charts import Interval, ScoreRow

    scores = [one.scores[group][key] for one in series]
    intervals = tuple(Interval(score["accuracy"], score["low"], score["high"]) for score in scores)
    return ScoreRow(label, scores[0]["n"], scores[0]["majority"]["accuracy"], intervals)
