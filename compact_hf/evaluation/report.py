"""The page of a judging: `Judged` in, report.html out, which reports/evaluation_page.py lays out.

compact evaluate MODEL... DATASET --out DIR      leaves DIR/report.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.results_folder import Judged
from compact_hf.evaluation.scoring import TOLERANCE, Matching, Prediction
from compact_hf.evaluation.scoring import Score as ModelScore
from compact_hf.records import digest
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.evaluation_page import (
    OUTCOMES,
    Answered,
    Given,
    JudgingReport,
    Outcome,
    outcome_of,
    render_judging,
)
from compact_hf.reports.pair_charts import Pair
from compact_hf.reports.score_charts import Difference, Interval, Score

PAGE: Final = "report.html"
EXAMPLES: Final = 12
_EXACT: Final = (
    "An answer counts as right where it is the same as a right one, once case, articles, punctuation, number words and "
    "plurals are evened out"
)
_MATCHING: Final[Mapping[Matching, str]] = {
    "exact": f"{_EXACT}.",
    "relaxed": f"{_EXACT}; or where it is a number within {TOLERANCE:.0%} of a right one.",
}


def write_report(judged: Judged, out: Path, *, command: str, settings: Mapping[str, object]) -> Path:
    """Write the page of a judging into its folder, and return its path.

    Args:
        judged (`Judged`): the scores.
        out (`Path`): the judging's folder, with each model's predictions.
        command (`str`): what makes all of it again.
        settings (`Mapping[str, object]`): name -> value of what else the answers depend on, versions included.

    Raises:
        EvaluationError: the predictions cannot be read.
        OSError: the page cannot be written.
    """
    answers = [{one.id: one for one in read_predictions(out / folder)} for folder in judged.folders]
    path = out / PAGE
    path.write_text(render_judging(report_of(judged, answers, command=command, settings=settings)), encoding="utf-8")
    return path


def report_of(
    judged: Judged, answers: Sequence[Mapping[str, Prediction]], *, command: str, settings: Mapping[str, object]
) -> JudgingReport:
    """Return what the page tells.

    Args:
        answers (`Sequence[Mapping[str, Prediction]]`): of each model, by the question's id.
        command, settings: as in `write_report`.
    """
    results = judged.results
    first = results[0]
    models = tuple(one.model for one in results)
    return JudgingReport(
        dataset=judged.dataset,
        facts=_facts(tuple(answers[0].values())),
        models=models,
        overall=line_of("all", *(one.overall for one in results)),
        by_k=tuple(line_of(f"k = {k}", *(one.by_k[k] for one in results)) for k in first.by_k),
        by_capability=tuple(
            line_of(name, *(one.by_capability[name] for one in results)) for name in first.by_capability
        ),
        by_pair={_pair(key): line_of(key, *(one.by_pair[key] for one in results)) for key in first.by_pair},
        comparisons=_differences(judged),
        examples=[_answered(judged, models, [one[id] for one in answers]) for id in chosen(answers, EXAMPLES)],
        chosen_by=_chosen_by(len(answers[0]), len(models)),
        matching=_MATCHING[judged.matching],
        notes=judged.notes,
        made=tuple((name, f"{value}") for name, value in settings.items()),
        command=Example("The same command goes on where it was stopped; with another model it adds that one.", command),
    )


def line_of(label: str, *scores: ModelScore) -> Score:
    """Return one line of a plot from each model's score of the same questions."""
    intervals = tuple(Interval(score.accuracy, score.low, score.high) for score in scores)
    return Score(label, scores[0].n, scores[0].majority.accuracy, intervals)


def chosen(answers: Sequence[Mapping[str, Prediction]], count: int) -> list[str]:
    """Return the ids of at most `count` questions to show, by a rule that nobody's eye has a part in.

    Round by round one of each k is taken, by turns one that some models get right, one that none does and one that all
    do, as far as there are such; of those the one whose id has the smallest hash, if possible of a new picture.
    """
    waiting: dict[int | None, dict[Outcome, list[Prediction]]] = defaultdict(lambda: {name: [] for name in OUTCOMES})
    for id in sorted(answers[0], key=digest):
        asked = answers[0][id]
        waiting[asked.k][outcome_of([one[id].right for one in answers])].append(asked)
    taken: list[str] = []
    shown: set[str] = set()
    turn = 0
    while len(taken) < count and any(some for outcomes in waiting.values() for some in outcomes.values()):
        for place, k in enumerate(sorted(waiting, key=lambda k: (k is None, k))):
            order = [OUTCOMES[(turn + place + step) % len(OUTCOMES)] for step in range(len(OUTCOMES))]
            some = next((waiting[k][outcome] for outcome in order if waiting[k][outcome]), None)
            if some and len(taken) < count:
                one = next((asked for asked in some if asked.picture not in shown), some[0])
                some.remove(one)
                shown.add(one.picture)
                taken.append(one.id)
        turn += 1
    return taken


def _facts(asked: Sequence[Prediction]) -> tuple[Fact, ...]:
    ks = sorted({one.k for one in asked if one.k is not None})
    by_k = ", ".join(f"{sum(one.k == k for one in asked):,} of k = {k}" for k in ks)
    right = {answer for one in asked for answer in one.answers[:1]}
    return (
        Fact("questions", f"{len(asked):,}", by_k),
        Fact("pictures", f"{len({one.picture for one in asked}):,}"),
        Fact("different right answers", f"{len(right):,}"),
    )


def _differences(judged: Judged) -> tuple[Difference, ...]:
    """Return how each further model does against the first."""
    names = [one.model for one in judged.results]
    return tuple(
        Difference(names[0], name, found.n, Interval(found.difference, found.low, found.high), found.p)
        for name, found in zip(names[1:], judged.comparisons, strict=True)
    )


def _answered(judged: Judged, models: Sequence[str], given: Sequence[Prediction]) -> Answered:
    asked = given[0]
    return Answered(
        picture=judged.picture_of(asked.id),
        k=asked.k,
        capabilities=asked.capabilities,
        question=asked.question,
        answer=asked.answers[0],
        given=tuple(Given(model, one.prediction, one.right) for model, one in zip(models, given, strict=True)),
        caption=asked.id,
    )


def _chosen_by(questions: int, models: int) -> str:
    turns = (
        "one that some models get right, one that none does and one that all do"
        if models > 1
        else "one that is answered wrongly and one rightly"
    )
    return (
        f"{min(EXAMPLES, questions)} of the {questions:,} questions, chosen by a fixed rule and not by eye: one of "
        f"each k after the other, by turns {turns}, as far as there are such; which of them, a hash of its id decides."
    )


def _pair(key: str) -> Pair:
    one, other = key.split("+")
    return one, other
