"""What is said of analyzed data in tables, on a terminal and on the page: one or two `Analysis` in, `Table`s out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.analysis.compare import Comparison
from compact_hf.evaluation.analysis.readers import Kind
from compact_hf.evaluation.analysis.stats import Analysis, Lengths
from compact_hf.evaluation.analysis.text_only import Guessed, Type
from compact_hf.reports.dataset_charts import PAPER_MEAN_K
from compact_hf.reports.figure import Table
from compact_hf.reports.theme import spoken

MOST_PAIRS: Final = 10
MOST_TYPES: Final = 12

K_IS: Final[Mapping[Kind, str]] = {"asked": "asked for, verified", "judged": "judged"}
_LLAVA, _COMPACT = PAPER_MEAN_K
# Judged by Gemini (arXiv 2504.21850, section 2): data, questions, mode, shares of k <= 2 and of k = 0.
_PAPER: Final = ((_LLAVA, "5,400", "–", "77%", "1.1%"), (_COMPACT, "7,200", "3", "35%", "0%"))
_DISTANCES: Final = {
    "k": "k",
    "capabilities": "capabilities",
    "pairs": "pairs of capabilities",
    "question_words": "words of a question",
    "answer_words": "words of an answer",
    "openings": "first two words",
    "answers": "answers",
}


def figures(data: Sequence[Analysis]) -> Table:
    """Return every single figure, a line each, a column for each data set."""
    rows: list[tuple[str, Callable[[Analysis], str]]] = [
        ("questions", lambda one: f"{one.questions:,}"),
        ("pictures", lambda one: f"{one.pictures:,}"),
        ("rows left out, of which nobody said what they need", lambda one: f"{one.unlabelled_rows:,}"),
        ("mean k", lambda one: f"{one.complexity.mean_k or 0:.2f} ({K_IS[one.k_is]})"),
        ("questions with k <= 2", lambda one: f"{one.complexity.at_most_2 or 0:.1%}"),
        ("questions with k = 0", lambda one: f"{one.complexity.none_needed or 0:.1%}"),
        ("median words of a question (95% have at most)", lambda one: _words(one.question_words)),
        ("median words of an answer (95% have at most)", lambda one: _words(one.answer_words)),
        ("questions whose text was looked at for the lines below", lambda one: f"{one.sampled:,}"),
        ("the same question about the same picture", lambda one: f"{one.repeats.about_the_picture:.1%}"),
        ("the same question, any picture", lambda one: f"{one.repeats.question:.1%}"),
        ("the same question with the same answer", lambda one: f"{one.repeats.question_and_answer:.1%}"),
        ("nearly the same question with the same answer", lambda one: f"{one.repeats.near:.1%}"),
        ("different answers", lambda one: _of(one.answers and f"{one.answers.all.different:,}")),
        ("answers that are yes or no", lambda one: _of(one.answers and f"{one.answers.all.yes_no:.1%}")),
        ("most frequent answer", lambda one: _of(one.answers and most_frequent(one))),
        ("entropy of the answers, bits", lambda one: _of(one.answers and f"{one.answers.entropy:.2f}")),
        (
            "left once the first two words are known",
            lambda one: _of(one.answers and f"{one.openings.mean_entropy:.2f}"),
        ),
        (
            "left once the capabilities are known",
            lambda one: _of(one.answers and f"{one.by_combination.mean_entropy:.2f}"),
        ),
        ("answered from the words alone", lambda one: _of(one.text_alone and guessed(one.text_alone.overall))),
        ("by the most frequent answer of each k", lambda one: _of(one.text_alone and _share(one, "majority"))),
        (
            "by the most frequent answer after each first two words",
            lambda one: _of(one.answers and f"{one.openings.most_share:.1%}"),
        ),
        ("by chance", lambda one: _of(one.text_alone and _share(one, "chance"))),
    ]
    left_out = any(one.unlabelled_rows for one in data)
    return Table(
        ("figure", *(one.name for one in data)),
        tuple(
            (label, *(value(one) for one in data))
            for label, value in rows
            if left_out or not label.startswith("rows left out")
        ),
    )


def complexity(data: Sequence[Analysis]) -> Table:
    """Return the figures that the paper gives for its data, and the paper's own below."""
    found = [(one.name, K_IS[one.k_is], one.complexity) for one in data]
    return Table(
        ("data", "k is", "questions", "mean k", "mode", "k <= 2", "k = 0"),
        (
            *(
                (
                    name,
                    k_is,
                    f"{one.questions:,}",
                    f"{one.mean_k or 0:.2f}",
                    str(one.mode_k),
                    f"{one.at_most_2 or 0:.1%}",
                    f"{one.none_needed or 0:.1%}",
                )
                for name, k_is, one in found
            ),
            *(
                (name, K_IS["judged"], questions, f"{PAPER_MEAN_K[name]:.2f}", *shares)
                for name, questions, *shares in _PAPER
            ),
        ),
    )


def by_k(data: Sequence[Analysis]) -> Table:
    """Return how many questions there are of each k."""
    ks = range(min(min(one.complexity.by_k, default=0) for one in data), _largest_k(data) + 1)
    return Table(
        ("k", *(one.name for one in data)),
        tuple((str(k), *(_count(one.complexity.by_k.get(k, 0), one.questions) for one in data)) for k in ks),
    )


def by_capability(data: Sequence[Analysis]) -> Table:
    """Return how many questions need each of the ten capabilities."""
    return Table(
        ("needed", *(one.name for one in data)),
        tuple(
            (spoken(name), *(_count(one.complexity.by_capability[name], one.questions) for one in data))
            for name in CAPABILITIES
        ),
    )


def by_pair(data: Sequence[Analysis]) -> Table:
    """Return the pairs of capabilities that most questions of the first data set need."""
    found = [
        {f"{spoken(pair.one)} + {spoken(pair.other)}": pair.questions for pair in one.complexity.by_pair}
        for one in data
    ]
    names = list(dict.fromkeys(name for pairs in found for name in pairs))[:MOST_PAIRS]
    return Table(
        ("needed together", *(one.name for one in data)),
        tuple(
            (name, *(_count(pairs.get(name, 0), one.questions) for pairs, one in zip(found, data, strict=True)))
            for name in names
        ),
    )


def types(found: Sequence[Type], head: str) -> Table:
    """Return types of question with what their answers are."""
    return Table(
        (head, "questions", "different answers", "bits", "most frequent"),
        tuple(
            (
                spoken(one.name).replace("+", " + ") or "none",
                f"{one.questions:,}",
                f"{one.different:,}",
                f"{one.entropy:.2f}",
                share_of_most(one),
            )
            for one in found[:MOST_TYPES]
        ),
    )


def text_alone(one: Analysis) -> Table:
    """Return what is answered without the picture, in all and by k."""
    lines = () if one.text_alone is None else (("all", one.text_alone.overall), *one.text_alone.by_k.items())
    return Table(
        ("k", "n", "chance", "majority", "words alone (95%)"),
        tuple(
            (str(k), f"{score.n:,}", f"{score.chance:.1%}", f"{score.majority:.1%}", guessed(score))
            for k, score in lines
        ),
    )


def distances(comparison: Comparison) -> Table:
    """Return how far two data sets lie apart."""
    return Table(
        ("distance of", "0 the same, 1 nothing in common"),
        tuple((label, f"{comparison.distances[name]:.2f}") for name, label in _DISTANCES.items()),
    )


def told(data: Sequence[Analysis], comparison: Comparison | None) -> Iterator[Table]:
    """Yield what a terminal shows."""
    yield complexity(data)
    yield figures(data)
    yield by_k(data)
    yield by_capability(data)
    yield by_pair(data)
    for one in data:
        of = f" of {one.name}" if len(data) > 1 else ""
        if one.answers is not None:
            yield types(one.openings.types, f"first two words{of}")
        if one.text_alone is not None:
            found = text_alone(one)
            yield Table((f"k{of}", *found.head[1:]), found.rows)
    if comparison is not None:
        yield distances(comparison)


def guessed(score: Guessed) -> str:
    """Return a share with its interval."""
    return f"{score.accuracy:.1%} ({score.low:.1%}–{score.high:.1%})"


def most_frequent(one: Analysis) -> str:
    """Return the most frequent answer and its share."""
    return "" if one.answers is None else f"{_quoted(one.answers.all.most)} {one.answers.all.most_share:.1%}"


def share_of_most(one: Type) -> str:
    """Return a type's most frequent answer and its share."""
    return f"{_quoted(one.most)} {one.most_share:.0%}"


def _quoted(answer: str) -> str:
    return f'"{answer}"' if len(answer) <= 24 else f'"{answer[:23]}…"'


def _largest_k(data: Sequence[Analysis]) -> int:
    return max(max(one.complexity.by_k) for one in data)


def _share(one: Analysis, what: str) -> str:
    return f"{getattr(one.text_alone.overall, what):.1%}" if one.text_alone else ""


def _words(found: Lengths | None) -> str:
    return _of(found and f"{found.median} ({found.most})")


def _of(text: object) -> str:
    return str(text) if text else "–"


def _count(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})"
