"""Builds the tab Results, which shows accuracy by k and by capability from a results.json, and the paper's table."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from page import render_template

from compact_hf.escaping import escape_line
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, TABLE
from compact_hf.parsing import read_json
from compact_hf.records import READABLE_RESULTS_SCHEMAS

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot
    from compact_hf.reports.score_charts import ScoreRow

SHIPPED_RESULTS: Final = Path(__file__).with_name("results.json")
"""Results of the shipped student: `compact evaluate students/aligned students/tuned scenes:60 --out judged`."""


def build_tab(results_path: str, results_tab: gr.Tab) -> None:
    """Lay out the tab. The plots are drawn when it is opened first, because they take a second.

    Args:
        results_path (`str`): a results.json or the directory of an evaluation; empty for the shipped results.
        results_tab (`gr.Tab`): the tab.
    """
    html = gr.HTML('<p class="note">Drawing …</p>', padding=False, elem_classes="ours-html")
    results_tab.select(
        lambda: _render_page(results_path), None, html, api_name="results", show_progress="hidden", concurrency_limit=4
    )


# Cached for the lifetime of the process, a failure too: after a fix of the file, the Space has to be restarted.
@cache
def _render_page(results_path: str) -> str:
    try:
        results = read_results(Path(results_path) if results_path else SHIPPED_RESULTS)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).error("RESULTS cannot be used: %s", escape_line(str(error)))
        # The tab then has only the paper's table.
        return render_template("results.html.jinja", judged=None, plots=(), benchmarks=BENCHMARKS, table=TABLE)
    return render_template(
        "results.html.jinja", judged=results, plots=_draw_plots(results), benchmarks=BENCHMARKS, table=TABLE
    )


def read_results(path: Path) -> dict[str, Any]:
    """Return the contents of a results.json.

    Args:
        path (`Path`): the file or its directory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a results.json of accuracy by k.
    """
    path = path / "results.json" if path.is_dir() else path
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


def _draw_plots(results: dict[str, Any]) -> list[Plot]:
    from compact_hf.reports.score_charts import plot_accuracy

    # All models answered the same questions, so each has the groups of the first one.
    models = [model["model"] for model in results["models"]]
    by_k = [_build_score(results, f"k = {k}", "by_k", k) for k in results["models"][0]["by_k"]]
    by_capability = [
        _build_score(results, name, "by_capability", name) for name in results["models"][0]["by_capability"]
    ]
    return [
        plot_accuracy(by_k, models, name="results-by-k", title="Accuracy by k"),
        plot_accuracy(by_capability, models, name="results-by-capability", title="Accuracy by capability"),
    ]


def _build_score(results: dict[str, Any], label: str, group: str, key: str) -> ScoreRow:
    from compact_hf.reports.score_charts import Interval, ScoreRow

    scores = [model[group][key] for model in results["models"]]
    intervals = tuple(Interval(score["accuracy"], score["low"], score["high"]) for score in scores)
    return ScoreRow(label, scores[0]["n"], scores[0]["majority"]["accuracy"], intervals)
