"""Tests relative performance: it is computed from the paper's scores, and a differing printed value is shown too."""

from __future__ import annotations

import pytest

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, REFERENCE, TABLE, relative_performance


def test_relative_performance_comes_out_of_the_papers_rows() -> None:
    computed = {row.data: round(relative_performance(row.scores, REFERENCE.scores), 1) for row in TABLE}
    assert computed == {
        "LLaVA-665K": 100.0,
        "random": 95.4,
        "EL2N": 96.1,
        "D2-Pruning": 96.1,
        "ICONS": 97.5,
        "COMPACT": 100.2,
    }
    assert len(BENCHMARKS) == 8
    assert all(tuple(row.scores) == BENCHMARKS for row in TABLE)


def test_what_the_paper_prints_otherwise_stands_beside_what_is_computed() -> None:
    assert {row.data: row.format_relative() for row in TABLE} == {
        "LLaVA-665K": "100.0",
        "random": "95.4",
        "EL2N": "96.1 (printed: 97.1)",
        "D2-Pruning": "96.1 (printed: 97.1)",
        "ICONS": "97.5",
        "COMPACT": "100.2",
    }


def test_each_benchmark_weighs_the_same_whatever_its_unit() -> None:
    assert relative_performance({"MME": 750, "MM-Vet": 30}, {"MME": 1500, "MM-Vet": 20}) == pytest.approx(100)


@pytest.mark.parametrize(
    ("scores", "reference", "told"),
    [
        ({"MME": 1.0}, {"MME": 1.0, "MMStar": 1.0}, "(missing: MMStar)"),
        ({"MME": 1.0, "VQA": 1.0}, {"MMStar": 1.0}, "(without a reference: MME, VQA; missing: MMStar)"),
        ({}, {}, "nothing to average"),
        ({"MME": 1.0}, {"MME": 0.0}, "the reference score of MME is 0.0"),
        ({"MME": 1.0}, {"MME": float("nan")}, "the reference score of MME is nan"),
    ],
)
def test_what_has_no_relative_performance_is_told(
    scores: dict[str, float], reference: dict[str, float], told: str
) -> None:
    with pytest.raises(EvaluationError) as excinfo:
        relative_performance(scores, reference)
    assert told in str(excinfo.value)
