"""Turns the results of the demo into the sections of its report and a summary for the terminal.

The report is a web page that compares the tiny model before and after tuning, with scores by k and by capability.
"""

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
from compact_hf.wording import format_command

_REASON_BY_FAULT: Final = {
    "superfluous capability": "needs more capabilities",
    "missing capability": "needs fewer capabilities",
    "joined question": "joined questions",
    "low confidence": "low confidence",
    "wrong answer": "answer not confirmed",
}
"""Planted fault -> the reject reason that should find it.

Only runs with `--strict` find wrong answers, because the verification of the paper does not compare answers.
"""


@dataclass(frozen=True, slots=True)
class DemoResults:
    """All results of the demo.

    Attributes:
        directory (`Path`): output directory of the demo.
        status (`RunStatus`): status of the generation run.
        stats (`DatasetStats`): statistics of the dataset.
        code (`str`): a code snippet that loads the dataset.
        output (`str`): what the snippet printed.
        training (`TrainingResult`): result of tuning the tiny model.
        before (`CompactResults`): scores of the model on reserved scenes before tuning.
        after (`CompactResults`): its scores on the same questions after tuning.
        swapped (`CompactResults`): its scores after tuning, with each question asked about another question's image.
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
    """Return the contents of the report page.

    Args:
        demo (`DemoResults`): the results of the demo.
    """
    status = demo.status
    # Similarity 1 keeps near-duplicates, as in the demo's release.
    rows = [row for row in iter_rows([demo.directory / "run"], AssemblyOptions(1)) if isinstance(row, QuestionRow)]
    # The preset `paper` asks for one draft per request, so this is also the number of drafts.
    request_count = status.requests.get("teacher", 0)
    return DemoReport(
        title="COMPACT from drawn scenes",
        summary=(
            f"Made offline by compact demo. The embedded teacher wrote questions about {status.pictures} drawn scenes, "
            "all questions were verified, and a tiny model was tuned on the accepted ones. Faults were planted in some "
            "of the drafts, to measure how many of them verification finds."
        ),
        facts=(
            Fact("images kept", f"{status.conversations} of {status.finished}", "2 to 3 accepted questions per image"),
            Fact("questions accepted", f"{status.questions}", f"of {request_count} requests to the teacher"),
            Fact("rows in the dataset", f"{demo.stats.rows()}", "compositional and instruction part"),
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
            example=Example("Load the dataset and print a row with the largest k", demo.code, demo.output),
        ),
        training=TrainingSection(
            facts=(
                Fact("steps", f"{demo.training.steps}"),
                Fact("time", f"{demo.training.seconds:.0f} s", "including start-up"),
                Fact("command", "compact tune tiny-cpu", "trains all parameters"),
            ),
            loss=demo.training.loss,
        ),
        accuracy=_make_accuracy_section(demo),
        next_steps=_next_steps(demo.directory),
    )


def make_summary(demo: DemoResults) -> str:
    """Return the text that the command prints at its end: results, what they mean, and next steps.

    Args:
        demo (`DemoResults`): the results of the demo.
    """
    status = demo.status
    steps = "\n".join(f"  {step.purpose}:\n    {step.code}" for step in _next_steps(demo.directory))
    return (
        f"{status.conversations} of {status.finished} images kept, {status.questions} questions, "
        f"{demo.stats.rows()} rows in {demo.directory / 'release'}\n"
        f"{_make_caveat(demo)}\n"
        f"report: {demo.directory / 'report.html'}\n"
        f"what to do next:\n{steps}"
    )


def _iter_reject_counts(status: RunStatus) -> Iterator[RejectCount]:
    """Yield each reject reason with its count and, if it should find a planted fault, how often it did."""
    # reason -> faults that were planted for it. A reason is listed even if it dropped nothing.
    faults_by_reason = {_REASON_BY_FAULT[entry.fault]: entry for entry in status.planted}
    counts = {entry.reason: entry.count for entry in status.rejects}
    for reason in [*counts, *(reason for reason in faults_by_reason if reason not in counts)]:
        fault = faults_by_reason.get(reason)
        # None, not 0, for a reason for which no fault can be planted.
        caught = fault.count - fault.passed if fault else None
        yield RejectCount(reason, counts.get(reason, 0), fault.count if fault else None, caught)


def _make_accuracy_section(demo: DemoResults) -> AccuracySection:
    """Return the section that compares the scores before tuning, after tuning, and with swapped images."""
    # The order of `models` below; all three are scored on the same questions.
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
            f"{after.overall.n} questions about scenes with reserved seeds, which training data must not use. "
            "Swapped: after tuning, with each question asked about another question's image. Answers were marked by "
            f"version {after.matching_version} of the rule {after.matching}."
        ),
        caveat=_make_caveat(demo),
    )


def _format_majority(score: ModelScore) -> str:
    return f"always giving the most frequent answer scores {score.majority.accuracy:.2f}"


def _make_caveat(demo: DemoResults) -> str:
    """Return a paragraph on what the scores show and what they do not show."""
    after, swapped = demo.after.overall, demo.swapped.overall
    # Clearly above: the lower end of the 95% interval exceeds the score of the majority answer.
    clear_ks = [f"{k}" for k, score in demo.after.by_k.items() if score.low > score.majority.accuracy]
    claim = (
        f"At k = {', '.join(clear_ks)} this is above the score of always giving the most frequent answer"
        if clear_ks
        else "At no k is this clearly above the score of always giving the most frequent answer"
    )
    meaning = (
        "so it uses the image"
        # The intervals with the right and with a wrong image do not overlap.
        if after.low > swapped.high
        else "which does not show that it uses the image"
    )
    return (
        f"Accuracy went from {demo.before.overall.accuracy:.2f} to {after.accuracy:.2f} on {after.n} questions "
        f"({_format_majority(after)}). {claim}. When each question is asked about another question's image, the tuned "
        f"model scores {swapped.accuracy:.2f}, {meaning}. The results show that the real trainer reads data made here "
        "and that a model learns from them. They do not show that compositional data are better than other data: the "
        "model is tiny, it could describe drawn scenes before, and it was tuned on questions about "
        f"{demo.status.conversations} images for {demo.training.steps} steps."
    )


def _next_steps(directory: Path) -> tuple[Example, ...]:
    """Return commands to try after the demo, each with its purpose."""
    return (
        Example(
            "show what was accepted and what was dropped, and why",
            format_command("compact", "status", directory / "run"),
        ),
        Example(
            "generate from your own images with a Gemini key",
            "export GEMINI_API_KEY=...; compact generate IMAGES --out run --limit 20",
        ),
        Example(
            "make a dataset of them", "compact assemble run --out release --version 1.0.0; compact validate release"
        ),
        Example(
            "tune LLaVA-1.5-7B on the dataset with a GPU",
            "compact base assemble --out llava-base; compact tune llava15-7b-lora-1gpu "
            "--model_name_or_path llava-base --dataset_name release --output_dir adapter",
        ),
    )
