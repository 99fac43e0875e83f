"""Accuracy by k and by capability, for `evaluate`: answers and what is right in, shares with their intervals out.

    evaluate.load("org/compact_accuracy").compute(predictions=..., references=..., k=..., capabilities=...)

It is loaded as a file of its own, from a folder or from the Hub, where nothing of compact_hf is installed: so it has a
copy of answers.py beside it. It gives the same numbers as `compact evaluate`. `evaluate` reads its imports line by
line, one module on each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from math import sqrt
from operator import index
from typing import Any

import datasets
import evaluate

from .answers import same_answer

CAPABILITIES = (
    "color",
    "shape",
    "object_recognition",
    "action_recognition",
    "text_recognition",
    "spatial_recognition",
    "counting",
    "spatial_relationship",
    "object_interaction",
    "scene_understanding",
)
_Z95 = 1.959963984540054

_DESCRIPTION = """
The share of short answers to visual questions that are right, by the number k of visual capabilities that a question
needs, and by capability. A prediction is right if it is the same as one of its references after the VQA evaluation's
normalising: case, articles, punctuation, number words and plurals do not count.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): the model's answers.
    references (`list[str | list[str]]`): the right answer of each question, or several of which any counts.
    k (`list[int]`): how many capabilities each question needs, 1 to 10.
    capabilities (`list[list[str]]`): which.

Returns:
    accuracy (`float`): 0 to 1.
    n (`int`): questions.
    low, high (`float`): the 95% Wilson interval of accuracy.
    by_k (`dict[int, dict]`): k -> the same four, of its questions.
    by_capability (`dict[str, dict]`): capability -> the same four, of the questions that need it.

Raises:
    ValueError: an input is missing or empty, their lengths differ, or one of them is not as above.
"""
_CITATION = """
@inproceedings{wu2026compact,
  title     = {{COMPACT}: {COMP}ositional Atomic-to-Complex Visual Capability Tuning},
  author    = {Wu, Xindi and Hwang, Hee Seung and Kirichenko, Polina and Tureci, Esin and Russakovsky, Olga},
  booktitle = {International Conference on Learning Representations},
  year      = {2026},
  url       = {https://arxiv.org/abs/2504.21850}
}
"""


class CompactAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Exact match over any of several right answers, by k and by capability."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": text,
                    "references": datasets.Sequence(text),
                    "k": datasets.Value("int64"),
                    "capabilities": datasets.Sequence(text),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2504.21850"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Take in questions, checked before any is kept: what evaluate itself says of bad input is pages long."""
        super().add_batch(**check_inputs({"predictions": predictions, "references": references, **kwargs}))

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Take in one question."""
        inputs = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: None if value is None else [value] for name, value in inputs.items()})

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        k: list[int],
        capabilities: list[list[str]],
    ) -> dict[str, Any]:
        right = [
            any(same_answer(prediction, answer) for answer in answers)
            for prediction, answers in zip(predictions, references, strict=True)
        ]
        by_k: dict[int, list[bool]] = defaultdict(list)
        by_capability: dict[str, list[bool]] = defaultdict(list)
        for correct, question_k, names in zip(right, k, capabilities, strict=True):
            by_k[question_k].append(correct)
            for name in set(names):
                by_capability[name].append(correct)
        return {
            **score(right),
            "by_k": {question_k: score(by_k[question_k]) for question_k in sorted(by_k)},
            "by_capability": {name: score(by_capability[name]) for name in CAPABILITIES if name in by_capability},
        }


def score(right: list[bool]) -> dict[str, Any]:
    """Return how many of some questions are answered rightly, with the 95% Wilson interval (Wilson 1927)."""
    n = len(right)
    accuracy = sum(right) / n
    spread = _Z95 * sqrt(accuracy * (1 - accuracy) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    middle = accuracy + _Z95**2 / (2 * n)
    low, high = max(0.0, min(accuracy, (middle - spread) / scale)), min(1.0, max(accuracy, (middle + spread) / scale))
    return {"accuracy": accuracy, "n": n, "low": low, "high": high}


def check_inputs(inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the four inputs as lists, each question's references as a list too.

    Raises:
        ValueError: one is missing, unknown or empty, their lengths differ, or a value is not what it should be.
    """
    allowed = ("predictions", "references", "k", "capabilities")
    for name in inputs:
        if name not in allowed:
            raise ValueError(f"unknown input {name!r}; the inputs are {', '.join(allowed)}")
    missing = [name for name in allowed if inputs.get(name) is None]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}; give {', '.join(allowed)}, one of each for every question")
    columns = {name: _to_list(inputs[name], name) for name in allowed}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"got {lengths}; give one of each for every question")
    if not columns["predictions"]:
        raise ValueError("got no questions; give at least one prediction with its references, k and capabilities")
    return {
        "predictions": [_check_text(value, f"predictions[{row}]") for row, value in enumerate(columns["predictions"])],
        "references": [_parse_references(value, row) for row, value in enumerate(columns["references"])],
        "k": [_parse_k(value, row) for row, value in enumerate(columns["k"])],
        "capabilities": [_parse_capabilities(value, row) for row, value in enumerate(columns["capabilities"])],
    }


def _to_list(column: Any, name: str) -> list[Any]:
    if isinstance(column, str) or not isinstance(column, Iterable):
        raise ValueError(f"{name} is {column!r}; give a list with one entry for every question")
    return list(column)


def _check_text(value: Any, location: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{location} is {value!r}; give a string")
    return value


def _parse_references(value: Any, row: int) -> list[str]:
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, Iterable) or not (answers := list(answers)):
        raise ValueError(f"references[{row}] is {value!r}; give a string, or a list of strings of which any is right")
    return [_check_text(answer, f"references[{row}][{number}]") for number, answer in enumerate(answers)]


def _parse_k(value: Any, row: int) -> int:
    try:
        k = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        k = -1
    if not 1 <= k <= len(CAPABILITIES):
        raise ValueError(f"k[{row}] is {value!r}; give how many capabilities the question needs, an int of 1 to 10")
    return k


def _parse_capabilities(value: Any, row: int) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"capabilities[{row}] is {value!r}; give a list of names")
    names = list(value)
    for name in names:
        if name not in CAPABILITIES:
            near = get_close_matches(str(name), CAPABILITIES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"capabilities[{row}] has {name!r}; the ten are {', '.join(CAPABILITIES)}{hint}")
    return names
