"""The tab Results: a judging's results.json in, accuracy by k and by capability out, and the paper's table below."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from page import rendered

from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, TABLE
from compact_hf.records import RESULTS_SCHEMA

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot
    from compact_hf.reports.score_charts import Score

SHIPPED: Final = Path(__file__).with_name("results.json")
"""Of the student that ships: `compact evaluate students/aligned students/tuned scenes:60 --out judged`."""


def tab(setting: str, selected: gr.Tab) -> None:
    """Lay out the tab; `setting` is a results.json, a judging's folder, or empty for what ships. It is drawn when it is
    looked at first: drawing takes a second that the page's start need not wait for."""
    html = gr.HTML('<p class="note">Drawing …</p>', padding=False, elem_classes="ours-html")
    selected.select(lambda: _page(setting), None, html, api_name="results", show_progress="hidden", concurrency_limit=4)


@cache
def _page(setting: str) -> str:
    try:
        judged = read(Path(setting) if setting else SHIPPED)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).error("RESULTS cannot be used: %s", error)
        return rendered("results.html.jinja", judged=None, plots=(), benchmarks=BENCHMARKS, table=TABLE)
    return rendered("results.html.jinja", judged=judged, plots=_plots(judged), benchmarks=BENCHMARKS, table=TABLE)


def read(path: Path) -> dict[str, Any]:
    """Return a judging's results.json; `path` is the file or its folder.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    path = path / "results.json" if path.is_dir() else path
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("schema") != RESULTS_SCHEMA or not found.get("models"):
        raise ValueError(
            f"{path.name} is no results.json of schema {RESULTS_SCHEMA} with models; compact evaluate writes one"
        )
    return found


def _plots(judged: dict[str, Any]) -> list[Plot]:
    from compact_hf.reports.score_charts import accuracy

    models = [model["model"] for model in judged["models"]]
    by_k = [_score(judged, f"k = {k}", "by_k", k) for k in judged["models"][0]["by_k"]]
    by_capability = [_score(judged, name, "by_capability", name) for name in judged["models"][0]["by_capability"]]
    return [
        accuracy(by_k, models, name="results-by-k", title="Accuracy by k"),
        accuracy(by_capability, models, name="results-by-capability", title="Accuracy by capability"),
    ]


def _score(judged: dict[str, Any], label: str, parted: str, key: str) -> Score:
    from compact_hf.reports.score_charts import Interval, Score

    scores = [model[parted][key] for model in judged["models"]]
    shares = tuple(Interval(one["accuracy"], one["low"], one["high"]) for one in scores)
    return Score(label, scores[0]["n"], scores[0]["majority"]["accuracy"], shares)
