"""Tests that the sentences about the main results agree with the statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compact_hf.evaluation.analysis.analyze import analyze
from compact_hf.evaluation.analysis.highlights import list_highlights
from compact_hf.evaluation.analysis.stats import Analysis
from compact_hf.evaluation.analysis.text_only import BaselineScore, TextOnlyBaseline
from tests.evaluation.analysis.samples import write_questions


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    directory = write_questions(tmp_path_factory.mktemp("table"), [("p1", "What color is the cat?", "red", ["color"])])
    (result,) = analyze(directory).data
    return result


@pytest.mark.parametrize(
    ("low", "sentence"),
    [
        (
            0.35,
            "A classifier that only sees the text answers 45% of the questions correctly, not significantly more than "
            "a constant answer: the most frequent answer of each k is right for 40%.",
        ),
        (
            0.41,
            "A classifier that only sees the text answers 45% of the questions correctly; the most frequent answer of "
            "each k is right for 40%, and",
        ),
    ],
)
def test_only_a_whole_interval_above_the_majority_answer_counts_as_more(
    analysis: Analysis, low: float, sentence: str
) -> None:
    overall = BaselineScore(100, 45, 0.45, low, 0.55, majority=0.4, chance=0.3)
    sentences = list_highlights(replace(analysis, text_alone=TextOnlyBaseline(overall, {})))
    assert any(highlight.startswith(sentence) for highlight in sentences)
