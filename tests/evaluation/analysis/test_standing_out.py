"""Tests that the sentences about the main results agree with the statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compact_hf.capabilities import CAPABILITIES
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
    ("needed", "sentence"),
    [
        ({}, "All ten capabilities are equally frequent (0.0% of the questions); 45 of the 45 pairs"),
        (dict.fromkeys(CAPABILITIES, 3), "All ten capabilities are equally frequent (30.0% of the questions); "),
        (
            {"color": 4, "shape": 4},
            "The most frequent capabilities are color and shape (40.0% of the questions), the least frequent object "
            "recognition, action recognition, text recognition and 5 others (0.0%); ",
        ),
        (
            dict.fromkeys(CAPABILITIES, 3) | {"shape": 2, "counting": 4},
            "The most frequent capability is counting (40.0% of the questions), the least frequent shape (20.0%); ",
        ),
    ],
)
def test_equally_frequent_capabilities_are_not_ranked(
    analysis: Analysis, needed: dict[str, int], sentence: str
) -> None:
    counts = dict.fromkeys(CAPABILITIES, 0) | needed
    sentences = list_highlights(
        replace(analysis, questions=10, complexity=replace(analysis.complexity, by_capability=counts, by_pair=()))
    )
    assert any(highlight.startswith(sentence) for highlight in sentences), sentences


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
