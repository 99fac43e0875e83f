"""Defines rows of questions with capabilities: their columns, their subsets (k1, k2, ...) and their validity checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.compact.samples import describe_filters, make_question_sample
from compact_hf.methods.compact.statistics import QuestionStatistics
from compact_hf.methods.row_kind import Column, Filters, Record, RowDefect, RowKind, RowStatistics, Sample
from compact_hf.records import MAX_CONFIDENCE, Row, Turn

# k1, k2, ..., without leading zeros. A method's name cannot match it (registry.py).
_SUBSET: Final = re.compile(r"k[1-9]\d*")
_PROVENANCE_COLUMNS: Final = ("teacher", "verifier", "preset_version")


@dataclass(frozen=True, kw_only=True)
class QuestionRow(Row):
    """A row whose questions each need `k` capabilities.

    Attributes:
        k (`int`): number of capabilities that each question needs.
        capabilities (`tuple[str, ...]`): all capabilities that its questions need, in canonical order.
        turns (`tuple[Turn, ...]`): each question with its answer, and the results of its verification.
    """

    k: int
    capabilities: tuple[str, ...]
    turns: tuple[Turn, ...]

    def own_columns(self) -> dict[str, Any]:
        """See `Row.own_columns`."""
        return {
            "k": self.k,
            "capabilities": list(self.capabilities),
            "turns": [
                {
                    "question": turn.question,
                    "answer": turn.answer,
                    "capabilities": list(turn.capabilities),
                    "verified_capabilities": list(turn.verified_capabilities),
                    "confidence": turn.confidence,
                }
                for turn in self.turns
            ],
        }


class QuestionRowKind(RowKind):
    """Rows of questions with capabilities, as made by COMPACT and augment."""

    config = "compositional"
    statistics: ClassVar[type[RowStatistics]] = QuestionStatistics

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """Return the columns `k`, `capabilities` and `turns`; see `RowKind.columns`."""
        from datasets import List, Value

        # The types in Parquet. Lists of dictionaries are `List({...})`; `Sequence` would store a dictionary of lists.
        text, number = Value("string"), Value("int64")
        turn = {
            "question": text,
            "answer": text,
            "capabilities": List(text),
            "verified_capabilities": List(text),
            "confidence": number,
        }
        return {
            "k": Column(number, "number of capabilities that each question of the row needs; null for other rows"),
            "capabilities": Column(List(text), "all capabilities that the row's questions need"),
            "turns": Column(
                List(turn),
                "each question with its answer, the capabilities asked for, those the verifier found, and the "
                "teacher's confidence in per cent",
            ),
        }

    @classmethod
    def get_subset(cls, record: Record) -> str:
        """Return `k1`, `k2`, ...; see `RowKind.get_subset`.

        Args:
            record (`Record`): the row.
        """
        return f"k{record['k']}"

    @classmethod
    def has_subset(cls, subset: str) -> bool:
        """See `RowKind.has_subset`."""
        return _SUBSET.fullmatch(subset) is not None

    @classmethod
    def describe_filters(cls, filters: Filters) -> str | None:
        """Describe the filters `k` and `capability`; see `RowKind.describe_filters`.

        Args:
            filters (`Filters`): names and values of the filters.
        """
        return describe_filters(filters)

    @classmethod
    def may_match(cls, subset: str, filters: Filters) -> bool:
        """Whether the k of the subset is the one that the filters ask for; see `RowKind.may_match`.

        Args:
            subset (`str`): the name of the subset.
            filters (`Filters`): names and values of the filters.
        """
        return filters.get("k") in (None, int(subset[1:]))

    @classmethod
    def make_sample(cls, record: Record, caption: str, filters: Filters) -> Sample | None:
        """See `RowKind.make_sample`."""
        return make_question_sample(
            record["k"],
            [parse_turn(turn) for turn in record["turns"]],
            caption=caption,
            teacher=record["teacher"],
            verifier=record["verifier"],
            filters=filters,
        )

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        """See `RowKind.check`."""
        for name in _PROVENANCE_COLUMNS:
            if not record[name]:
                yield "provenance is missing", name
        if not record["turns"]:
            yield "no turns", ""
        for turn in record["turns"]:
            yield from _check_turn(turn, record["k"])
        # Compared as sets and by number, so that a duplicate in the row's column is found too.
        turn_capabilities = set(chain.from_iterable(turn["capabilities"] for turn in record["turns"]))
        if len(record["capabilities"]) != len(turn_capabilities) or set(record["capabilities"]) != turn_capabilities:
            yield "capabilities are not those of the turns", ", ".join(record["capabilities"])
        yield from _check_turn_messages(record)


def parse_turn(turn: Record) -> Turn:
    """Return a turn.

    Args:
        turn (`Record`): an element of the column `turns`.
    """
    return Turn(
        turn["question"],
        turn["answer"],
        tuple(turn["capabilities"]),
        tuple(turn["verified_capabilities"]),
        turn["confidence"],
    )


def _check_turn(turn: Record, k: int) -> Iterator[RowDefect]:
    """Yield the defects of one turn in a row with this k."""
    requested, verified = turn["capabilities"], turn["verified_capabilities"]
    if unknown := set(requested) - CAPABILITIES.keys():
        yield "unknown capability", ", ".join(sorted(unknown))
    if len(requested) != k or len(set(requested)) != k:
        yield "k is not the number of capabilities", f"k = {k}, {', '.join(requested)}"
    if len(verified) != len(set(verified)) or set(verified) != set(requested):
        yield "verified capabilities differ", f"requested {', '.join(requested)}; verified {', '.join(verified)}"
    if not 0 <= turn["confidence"] <= MAX_CONFIDENCE:
        yield "confidence out of range", str(turn["confidence"])


def _check_turn_messages(record: Record) -> Iterator[RowDefect]:
    """Yield a defect if questions and answers of the turns are not those of the messages."""
    contents = [message["content"] for message in record["messages"]]
    # Messages alternate between user and assistant; the first question also contains the instruction to answer briefly.
    turns = record["turns"]
    exchanges = zip(turns, contents[::2], contents[1::2], strict=False)
    # `zip` ends with the shorter one; a difference in length is compared first.
    if 2 * len(turns) != len(contents) or any(
        turn["question"] not in question or turn["answer"] != answer for turn, question, answer in exchanges
    ):
        yield "turns and messages differ", f"{len(turns)} turns, {len(contents)} messages"
