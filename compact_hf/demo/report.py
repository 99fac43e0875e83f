"""What the demo tells: its figures in, the report's sections and a few plain sentences out. Nothing is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compact_hf.dataset.stats import Facts
from compact_hf.evaluation.report import line_of
from compact_hf.evaluation.scoring import Results
from compact_hf.evaluation.scoring import Score as ModelScore
from compact_hf.methods.compact.rows import conversation_rows
from compact_hf.methods.compact.status import Status
from compact_hf.records import Row
from compact_hf.reports.contact_sheet import Shown
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.demo_page import AccuracySection, Example, Fact, ReleaseSection, Report, TrainingSection
from compact_hf.training.train import TrainingResult

_FOUND_AS: Final = {
    "superfluous capability": "needs more capabilities",
    "missing capability": "needs fewer capabilities",
    "joined question": "joined questions",
    "low confidence": "low confidence",
    "wrong answer": "answer not confirmed",
}
"""Planted fault -> the reason that is there to find it. The last takes `--strict`: the paper compares no answers."""


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that the demo found out.

    Attributes:
        folder (`Path`): the demo's.
        status (`Status`): of generation.
        facts (`Facts`): of the release.
        code, printed (`str`): a first look at the release, and what it printed.
        training (`TrainingResult`): of the tiny model.
        before, after (`Results`): its scores on reserved scenes.
        swapped (`Results`): after tuning, each question about another question's picture.
    """

    folder: Path
    status: Status
    facts: Facts
    code: str
    printed: str
    training: TrainingResult
    before: Results
    after: Results
    swapped: Results


def report_of(story: Story) -> Report:
    """Return the page that tells the story."""
    found = story.status
    rows = [row for row in conversation_rows([story.folder / "run"], max_similarity=1) if isinstance(row, Row)]
    asked = found.requests.get("teacher", 0)
    return Report(
        title="COMPACT from drawn scenes",
        summary=(
            f"Made offline by compact demo: {found.pictures} drawn scenes were asked about by the embedded teacher, "
            f"every question was verified, and a tiny model was tuned on what passed. Faults were planted in a part of "
            "the drafts, to see what verification finds."
        ),
        facts=(
            Fact("pictures kept", f"{found.conversations} of {found.finished}", "2 to 3 accepted questions each"),
            Fact("questions accepted", f"{found.questions}", f"of {asked} that the teacher was asked for"),
            Fact("rows in the release", f"{story.facts.rows()}", "compositional and instruction part"),
            Fact(
                "accuracy after tuning", f"{story.after.overall.accuracy:.2f}", _against_majority(story.after.overall)
            ),
        ),
        accepted=Counter(turn.capabilities for row in rows for turn in row.turns),
        pictures=[
            Shown(row.read_picture(), row.k or 0, row.turns, f"row {row.id[:8]}") for row in rows if row.read_picture
        ],
        rejects=tuple(_reject_counts(found)),
        release=ReleaseSection(
            facts=tuple(
                Fact(name, f"{story.facts.rows(*leaves)} rows") for name, leaves in story.facts.configs.items()
            ),
            example=Example("Load it, and look at its hardest row", story.code, story.printed),
        ),
        training=TrainingSection(
            facts=(
                Fact("steps", f"{story.training.steps}"),
                Fact("time", f"{story.training.seconds:.0f} s", "start-up included"),
                Fact("command", "compact tune tiny-cpu", "all parameters are trained"),
            ),
            loss=story.training.loss,
        ),
        accuracy=_accuracy(story),
        next_steps=_next_steps(story.folder),
    )


def summary_of(story: Story) -> str:
    """Return what the command says at its end: what came out, what it shows, how to go on."""
    found = story.status
    steps = "\n".join(f"  {step.purpose}:\n    {step.code}" for step in _next_steps(story.folder))
    return (
        f"{found.conversations} of {found.finished} pictures kept, {found.questions} questions, "
        f"{story.facts.rows()} rows in {story.folder / 'release'}\n"
        f"{_caveat(story)}\n"
        f"look at it: {story.folder / 'report.html'}\n"
        f"what to do next:\n{steps}"
    )


def _reject_counts(found: Status) -> Iterator[RejectCount]:
    planted = {_FOUND_AS[one.fault]: one for one in found.planted}
    counted = {one.reason: one.count for one in found.rejects}
    for reason in [*counted, *(reason for reason in planted if reason not in counted)]:
        fault = planted.get(reason)
        caught = fault.count - fault.passed if fault else None
        yield RejectCount(reason, counted.get(reason, 0), fault.count if fault else None, caught)


def _accuracy(story: Story) -> AccuracySection:
    runs = (story.before, story.swapped, story.after)
    after = story.after
    return AccuracySection(
        models=("before", "swapped", "after"),
        overall=line_of("all", *(run.overall for run in runs)),
        by_k=tuple(line_of(f"k = {k}", *(run.by_k[k] for run in runs)) for k in after.by_k),
        by_capability=tuple(line_of(name, *(run.by_capability[name] for run in runs)) for name in after.by_capability),
        questions=(
            f"{after.overall.n} questions about scenes whose seeds are reserved: no training data may use them. "
            "Swapped: after tuning, with each question put to another question's picture."
        ),
        caveat=_caveat(story),
    )


def _against_majority(score: ModelScore) -> str:
    return f"the most frequent answers give {score.majority.accuracy:.2f}"


def _caveat(story: Story) -> str:
    after, swapped = story.after.overall, story.swapped.overall
    above = [f"{k}" for k, score in story.after.by_k.items() if score.low > score.majority.accuracy]
    learnt = (
        f"At k = {', '.join(above)} that is above always giving the most frequent answer"
        if above
        else "At no k is that clearly above always giving the most frequent answer"
    )
    looking = (
        "so it looks at the picture"
        if after.low > swapped.high
        else "so what it has learnt is how questions are worded and what their answers are like, not yet to look"
    )
    return (
        f"Accuracy went from {story.before.overall.accuracy:.2f} to {after.accuracy:.2f} on {after.n} questions "
        f"({_against_majority(after)}). {learnt}. With each question put to another question's picture the tuned model "
        f"scores {swapped.accuracy:.2f}, {looking}. The figures show that data made here are read by the real trainer "
        "and teach a model something. They do not show that compositional data are better than other data: the "
        f"model is tiny; it had learnt to describe drawn scenes before, and saw {story.status.conversations} pictures "
        f"with questions for {story.training.steps} steps."
    )


def _next_steps(folder: Path) -> tuple[Example, ...]:
    return (
        Example("what passed here, what was dropped, and why", f"compact status {folder / 'run'}"),
        Example(
            "your own pictures, with a Gemini key",
            "export GEMINI_API_KEY=...; compact generate PICTURES --out run --limit 20",
        ),
        Example("a release of them", "compact assemble run --out release --version 1.0.0; compact validate release"),
        Example(
            "LLaVA-1.5-7B tuned with it, on a GPU",
            "compact base assemble --out llava-base; compact tune llava15-7b-lora-1gpu "
            "--model_name_or_path llava-base --dataset_name release --output_dir adapter",
        ),
    )
