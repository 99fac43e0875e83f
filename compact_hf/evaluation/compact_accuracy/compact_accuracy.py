"""Defines a metric for the `evaluate` library: accuracy by k and by capability, with 95% intervals.

    evaluate.load("org/compact_accuracy").compute(predictions=..., references=..., k=..., capabilities=...)

`evaluate` loads this file on its own, from a directory or from the Hub, where compact_hf may not be installed. So there
is a copy of answers.py next to it. The scores are the same as those of `compact evaluate`. `evaluate` parses the import
statements line by line, so there is only one module per line.
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

from .answers import ANSWER_RULES_VERSION, same_answer

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
_Z95 = 1.959963984540054  # the 97.5th percentile of the standard normal distribution

_DESCRIPTION = f"""
Accuracy of short answers to visual questions, by the number k of visual capabilities that a question needs, and by
capability. A prediction is right if it equals one of its references after normalisation as in the VQA evaluation, which
ignores case, articles, punctuation and hyphens and converts number words to digits; a plural equals its singular.
Answers are compared by version {ANSWER_RULES_VERSION} of these rules.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): the model's answers.
    references (`list[str | list[str]]`): the right answer to each question, or a list of answers that are all right.
    k (`list[int]`): the number of capabilities that each question needs, 1 to 10.
    capabilities (`list[list[str]]`): the names of these capabilities.

Returns:
    accuracy (`float`): the share of right answers, 0 to 1.
    n (`int`): the number of questions.
    low (`float`): the lower end of the 95% Wilson interval of the accuracy.
    high (`float`): the upper end of this interval.
    by_k (`dict[int, dict]`): k -> the same four values for its questions.
    by_capability (`dict[str, dict]`): capability -> the same four values for the questions that need it.
    answer_rules (`str`): the version of the rules that compared the answers. Scores of different versions cannot be
        compared.

Raises:
    ValueError: an input is missing, empty or invalid, or the inputs have different lengths.
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
    """The share of predictions that match one of their references, in all, by k and by capability."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # References are always lists here: `check_inputs` makes a list of a single answer.
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
        """Add questions. Inputs are checked first, because the error messages of `evaluate` itself are very long."""
        super().add_batch(**check_inputs({"predictions": predictions, "references": references, **kwargs}))

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one question."""
        # A missing input stays None, so that `check_inputs` names it in its error.
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
        # k or capability -> for each of its questions, whether the answer is right.
        by_k: dict[int, list[bool]] = defaultdict(list)
        by_capability: dict[str, list[bool]] = defaultdict(list)
        for correct, question_k, names in zip(right, k, capabilities, strict=True):
            by_k[question_k].append(correct)
            # A capability that is listed twice counts once.
            for name in set(names):
                by_capability[name].append(correct)
        return {
            **score(right),
            "by_k": {question_k: score(by_k[question_k]) for question_k in sorted(by_k)},
            "by_capability": {name: score(by_capability[name]) for name in CAPABILITIES if name in by_capability},
            "answer_rules": ANSWER_RULES_VERSION,
        }


def score(right: list[bool]) -> dict[str, Any]:
    """Return accuracy, n and the 95% Wilson interval (Wilson 1927) of a list with at least one outcome."""
    n = len(right)
    accuracy = sum(right) / n
    spread = _Z95 * sqrt(accuracy * (1 - accuracy) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    middle = accuracy + _Z95**2 / (2 * n)
    # Rounding can move a bound slightly past 0, 1 or the accuracy.
    low, high = max(0.0, min(accuracy, (middle - spread) / scale)), min(1.0, max(accuracy, (middle + spread) / scale))
    return {"accuracy": accuracy, "n": n, "low": low, "high": high}


def check_inputs(inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the four inputs as lists, with a list of references for each question.

    Raises:
        ValueError: an input is missing, unknown, empty or invalid, or the inputs have different lengths.
    """
    allowed = ("predictions", "references", "k", "capabilities")
    for name in inputs:
        if name not in allowed:
            raise ValueError(f"unknown input {name!r}; the inputs are {', '.join(allowed)}")
    missing = [name for name in allowed if inputs.get(name) is None]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}; give {', '.join(allowed)}, with one entry per question")
    # Input -> list; an iterator can only be read once.
    columns = {name: _to_list(inputs[name], name) for name in allowed}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"got {lengths}; give one entry per question in each of them")
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
        raise ValueError(f"{name} is {column!r}; give a list with one entry per question")
    return list(column)


def _check_text(value: Any, location: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{location} is {value!r}; give a string")
    return value


def _parse_references(value: Any, row: int) -> list[str]:
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, Iterable) or not (answers := list(answers)):
        raise ValueError(f"references[{row}] is {value!r}; give a right answer as a string, or a list of right answers")
    return [_check_text(answer, f"references[{row}][{number}]") for number, answer in enumerate(answers)]


def _parse_k(value: Any, row: int) -> int:
    try:
        # `index` accepts integers of NumPy too, and refuses floats. True would be 1. -1 is out of range.
        k = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        k = -1
    if not 1 <= k <= len(CAPABILITIES):
        raise ValueError(f"k[{row}] is {value!r}; give the number of capabilities that the question needs, 1 to 10")
    return k


def _parse_capabilities(value: Any, row: int) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"capabilities[{row}] is {value!r}; give a list of capability names")
    names = list(value)
    for name in names:
        if name not in CAPABILITIES:
            near = get_close_matches(str(name), CAPABILITIES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"capabilities[{row}] has the unknown name {name!r}; give names from {', '.join(CAPABILITIES)}{hint}"
            )
    return names
