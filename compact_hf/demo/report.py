"""What the demo tells: its figures in, the report's sections and a few plain sentences out. Nothing is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compact_hf.dataset.stats import DatasetStats
from compact_hf.evaluation.scoring import Score as ModelScore
from compact_hf.evaluation.scoring import build_score_row
from compact_hf.evaluation.tasks.compact.scoring import CompactResults
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.methods.status import RunStatus
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.demo_page import AccuracySection, DemoReport, Example, Fact, ReleaseSection, TrainingSection
from compact_hf.training.train import TrainingResult

_REASON_BY_FAULT: Final = {
    "superfluous capability": "needs more capabilities",
    "missing capability": "needs fewer capabilities",
    "joined question": "joined questions",
    "low confidence": "low confidence",
    "wrong answer": "answer not confirmed",
}
"""Planted fault -> the reason that is there to find it. The last takes `--strict`: the paper compares no answers."""


@dataclass(frozen=True, slots=True)
class DemoResults:
    """Everything that the demo found out.

    Attributes:
        directory (`Path`): the demo's.
        status (`RunStatus`): of generation.
        stats (`DatasetStats`): of the release.
        code, output (`str`): a first look at the release, and what it printed.
        training (`TrainingResult`): of the tiny model.
        before, after (`CompactResults`): its scores on reserved scenes.
        swapped (`CompactResults`): after tuning, each question about another question's image.
    """

    directory: Path
    status: RunStatus
    stats: DatasetStats
    code: str
    output: str
    training: TrainingResult
    before: CompactResults
    after: CompactResults
    swapped: CompactResults


def make_report(demo: DemoResults) -> DemoReport:
    """Return the page that tells the story."""
    status = demo.status
    rows = [row for row in iter_rows([demo.directory / "run"], AssemblyOptions(1)) if isinstance(row, QuestionRow)]
    request_count = status.requests.get("teacher", 0)
    return DemoReport(
        title="COMPACT from drawn scenes",
        summary=(
            f"Made offline by compact demo: {status.pictures} drawn scenes were asked about by the embedded teacher, "
            f"every question was verified, and a tiny model was tuned on what passed. Faults were planted in a part of "
            "the drafts, to see what verification finds."
        ),
        facts=(
            Fact("pictures kept", f"{status.conversations} of {status.finished}", "2 to 3 accepted questions each"),
            Fact("questions accepted", f"{status.questions}", f"of {request_count} that the teacher was asked for"),
            Fact("rows in the release", f"{demo.stats.rows()}", "compositional and instruction part"),
            Fact("accuracy after tuning", f"{demo.after.overall.accuracy:.2f}", _format_majority(demo.after.overall)),
        ),
        combination_counts=Counter(turn.capabilities for row in rows for turn in row.turns),
        images=[
            QuestionItem(read_image(), row.k, row.turns, f"row {row.id[:8]}")
            for row in rows
            for read_image in row.read_images
        ],
        rejects=tuple(_iter_reject_counts(status)),
        release=ReleaseSection(
            facts=tuple(Fact(name, f"{demo.stats.rows(*leaves)} rows") for name, leaves in demo.stats.configs.items()),
            example=Example("Load it, and look at its hardest row", demo.code, demo.output),
        ),
        training=TrainingSection(
            facts=(
                Fact("steps", f"{demo.training.steps}"),
                Fact("time", f"{demo.training.seconds:.0f} s", "start-up included"),
                Fact("command", "compact tune tiny-cpu", "all parameters are trained"),
            ),
            loss=demo.training.loss,
        ),
        accuracy=_make_accuracy_section(demo),
        next_steps=_next_steps(demo.directory),
    )


def make_summary(demo: DemoResults) -> str:
    """Return what the command says at its end: what came out, what it shows, how to go on."""
    status = demo.status
    steps = "\n".join(f"  {step.purpose}:\n    {step.code}" for step in _next_steps(demo.directory))
    return (
        f"{status.conversations} of {status.finished} pictures kept, {status.questions} questions, "
        f"{demo.stats.rows()} rows in {demo.directory / 'release'}\n"
        f"{_make_caveat(demo)}\n"
        f"look at it: {demo.directory / 'report.html'}\n"
        f"what to do next:\n{steps}"
    )


def _iter_reject_counts(status: RunStatus) -> Iterator[RejectCount]:
    faults_by_reason = {_REASON_BY_FAULT[entry.fault]: entry for entry in status.planted}
    counts = {entry.reason: entry.count for entry in status.rejects}
    for reason in [*counts, *(reason for reason in faults_by_reason if reason not in counts)]:
        fault = faults_by_reason.get(reason)
        caught = fault.count - fault.passed if fault else None
        yield RejectCount(reason, counts.get(reason, 0), fault.count if fault else None, caught)


def _make_accuracy_section(demo: DemoResults) -> AccuracySection:
    evaluations = (demo.before, demo.swapped, demo.after)
    after = demo.after
    return AccuracySection(
        models=("before", "swapped", "after"),
        overall=build_score_row("all", *(evaluation.overall for evaluation in evaluations)),
        by_k=tuple(
            build_score_row(f"k = {k}", *(evaluation.by_k[k] for evaluation in evaluations)) for k in after.by_k
        ),
        by_capability=tuple(
            build_score_row(name, *(evaluation.by_capability[name] for evaluation in evaluations))
            for name in after.by_capability
        ),
        questions=(
            f"{after.overall.n} questions about scenes whose seeds are reserved: no training data may use them. "
            "Swapped: after tuning, with each question put to another question's picture."
        ),
        caveat=_make_caveat(demo),
    )


def _format_majority(score: ModelScore) -> str:
    return f"the most frequent answers give {score.majority.accuracy:.2f}"


def _make_caveat(demo: DemoResults) -> str:
    after, swapped = demo.after.overall, demo.swapped.overall
    clear_ks = [f"{k}" for k, score in demo.after.by_k.items() if score.low > score.majority.accuracy]
    claim = (
        f"At k = {', '.join(clear_ks)} that is above always giving the most frequent answer"
        if clear_ks
        else "At no k is that clearly above always giving the most frequent answer"
    )
    meaning = (
        "so it looks at the picture"
        if after.low > swapped.high
        else "so what it has learnt is how questions are worded and what their answers are like, not yet to look"
    )
    return (
        f"Accuracy went from {demo.before.overall.accuracy:.2f} to {after.accuracy:.2f} on {after.n} questions "
        f"({_format_majority(after)}). {claim}. With each question put to another question's picture the tuned model "
        f"scores {swapped.accuracy:.2f}, {meaning}. The figures show that data made here are read by the real trainer "
        "and teach a model something. They do not show that compositional data are better than other data: the "
        f"model is tiny; it had learnt to describe drawn scenes before, and saw {demo.status.conversations} pictures "
        f"with questions for {demo.training.steps} steps."
    )


def _next_steps(directory: Path) -> tuple[Example, ...]:
    return (
        Example("what passed here, what was dropped, and why", f"compact status {directory / 'run'}"),
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
