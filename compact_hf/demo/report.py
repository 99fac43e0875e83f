"""Turns the results of the demo into the sections of its report and a summary for the terminal.

The report is a web page that compares the tiny model before and after tuning: its accuracy, with scores by k and by
capability, and its answers to a few questions. What the model was tuned on follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Final

from compact_hf.dataset.stats import DatasetStats
from compact_hf.evaluation.scoring import Score as ModelScore
from compact_hf.evaluation.scoring import build_score_row
from compact_hf.evaluation.tasks.compact.scoring import CompactResults
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.methods.status import RunStatus
from compact_hf.reports.answered_questions import AnsweredQuestion
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.demo_page import AccuracySection, DemoReport, ReleaseSection, TrainingSection
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.training.train import TrainingResult
from compact_hf.wording import format_command

BEFORE: Final = "before tuning"
AFTER: Final = "after tuning"
SWAPPED: Final = "with swapped images"

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
        examples (`Sequence[AnsweredQuestion]`): reserved questions with the answers before and after tuning.
        selection_rule (`str`): how the examples were selected, as a sentence.
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
    examples: Sequence[AnsweredQuestion]
    selection_rule: str
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
    before, after, swapped = demo.before.overall, demo.after.overall, demo.swapped.overall
    return DemoReport(
        title="COMPACT demo: a tiny model before and after tuning",
        summary=(
            f"Of {after.n:,} questions about drawn scenes that it was not tuned on, the model answers "
            f"{before.accuracy:.1%} correctly before tuning and {after.accuracy:.1%} after. The embedded teacher wrote "
            f"its training questions about {status.pictures:,} other scenes, and all of them were verified. Everything "
            "on this page was made offline by compact demo."
        ),
        facts=(
            _accuracy_fact(BEFORE, before),
            _accuracy_fact(AFTER, after),
            _accuracy_fact(SWAPPED, swapped),
            Fact("majority answer", f"{after.majority.accuracy:.1%}", "the most frequent right answer of each k"),
        ),
        data_facts=(
            Fact("images kept", f"{status.conversations:,} of {status.finished:,}", "2 to 3 accepted questions each"),
            Fact("questions accepted", f"{status.questions:,}", f"of {request_count:,} requests to the teacher"),
        ),
        combination_counts=Counter(turn.capabilities for row in rows for turn in row.turns),
        images=[
            QuestionItem(read_image(), row.k, row.turns, f"row {row.id[:8]}")
            for row in rows
            for read_image in row.read_images
        ],
        rejects=tuple(_iter_reject_counts(status)),
        release=ReleaseSection(
            facts=tuple(
                Fact(name, f"{demo.stats.rows(*leaves):,} rows") for name, leaves in demo.stats.configs.items()
            ),
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
    steps = "\n".join(f"  {step.purpose}:\n{indent(step.code, ' ' * 4)}" for step in _next_steps(demo.directory))
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
    evaluations = (demo.before, demo.after, demo.swapped)
    after = demo.after
    return AccuracySection(
        models=(BEFORE, AFTER, SWAPPED),
        overall=build_score_row("all", *(evaluation.overall for evaluation in evaluations)),
        by_k=tuple(
            build_score_row(f"k = {k}", *(evaluation.by_k[k] for evaluation in evaluations)) for k in after.by_k
        ),
        by_capability=tuple(
            build_score_row(name, *(evaluation.by_capability[name] for evaluation in evaluations))
            for name in after.by_capability
        ),
        questions=(
            f"{after.overall.n:,} questions about scenes with reserved seeds, which training data must not use. "
            "Swapped images: after tuning, each question is asked about another question's image. The majority answer "
            "is the most frequent right answer among the questions of the same k. Answers were marked by version "
            f"{after.matching_version} of the rule {after.matching}."
        ),
        caveat=_make_caveat(demo),
        examples=demo.examples,
        selection_rule=demo.selection_rule,
    )


def _accuracy_fact(model: str, score: ModelScore) -> Fact:
    return Fact(f"right {model}", f"{score.accuracy:.1%}", f"95% interval {score.low:.1%} to {score.high:.1%}")


def _format_majority(score: ModelScore) -> str:
    return f"always giving the most frequent answer scores {score.majority.accuracy:.1%}"


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
        f"Accuracy went from {demo.before.overall.accuracy:.1%} to {after.accuracy:.1%} on {after.n:,} questions "
        f"({_format_majority(after)}). {claim}. When each question is asked about another question's image, the tuned "
        f"model scores {swapped.accuracy:.1%}, {meaning}. The results show that the real trainer reads data made here "
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
            "export GEMINI_API_KEY=...\ncompact generate IMAGES --out run --limit 20",
        ),
        Example(
            "make a dataset of them", "compact assemble run --out release --version 1.0.0\ncompact validate release"
        ),
        Example(
            "tune LLaVA-1.5-7B on the dataset with a GPU",
            "compact base assemble --out llava-base\ncompact tune llava15-7b-lora-1gpu "
            "--model_name_or_path llava-base --dataset_name release --output_dir adapter",
        ),
    )
