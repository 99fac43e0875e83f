"""Runs all steps of the package in a few minutes on drawn scenes: generation, dataset, tuning, evaluation, report.

    compact demo --out demo-out

    demo-out/run/              journal of the generation run, with planted faults
    demo-out/instruction/      a small file in LLaVA's format, with its images
    demo-out/release/          the dataset, for `load_dataset`
    demo-out/base/, student/   the tiny model before and after `compact tune`; training.log
    demo-out/before/, after/   its answers about reserved scenes; swapped/: with the images exchanged
    demo-out/report.html       the report; contact_sheet.png shows a few of the images

It needs no network, API key or GPU. If it was stopped, the same command resumes it.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.stats import DatasetStats
from compact_hf.dataset.validate import validate
from compact_hf.demo.report import AFTER, BEFORE, DemoResults, make_report, make_summary
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.questions import SWAPPED_IMAGES
from compact_hf.evaluation.report import build_examples, describe_selection
from compact_hf.evaluation.results_directory import Evaluation
from compact_hf.evaluation.task import DEFAULT_TASK, load_task
from compact_hf.evaluation.tasks.compact.scoring import CompactResults
from compact_hf.hub.card import is_edited, read_card
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.models.loading import without_progress_bars
from compact_hf.output_directory import OutputDirectory
from compact_hf.reports import contact_sheet
from compact_hf.reports.demo_page import render_demo
from compact_hf.runs.run import RunProgress
from compact_hf.scenes.questions import make_question, supported_combinations
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import build_scene
from compact_hf.storage import translate_disk_errors
from compact_hf.training.card_results import read_card_results
from compact_hf.training.child_output import parse_progress
from compact_hf.training.model_card import write_card
from compact_hf.training.recipes import read_recipe, recipe_path
from compact_hf.training.train import TrainingResult, tune
from compact_hf.wording import format_count

FILE_NAME: Final = "instruction.json"
# Generation uses the seeds 0 to N-1. The instruction part begins far above, so that no image is in both parts.
_FIRST_SEED: Final = 500_000
_TURNS: Final = 3  # questions per image of the instruction part


def write_instruction_file(directory: Path, *, num_image_rows: int, num_text_rows: int) -> Path:
    """Write `instruction.json` and its images into `directory`, and return the file's path.

    Args:
        directory (`Path`): output directory; created if needed, existing files are overwritten.
        num_image_rows (`int`): number of rows with an image. One more row is added whose image does not exist.
        num_text_rows (`int`): number of text-only rows.
    """
    image_directory = directory / "scenes"
    image_directory.mkdir(parents=True, exist_ok=True)
    rows = [_make_scene_row(image_directory, _FIRST_SEED + index) for index in range(num_image_rows)]
    rows += [_make_sum_row(index) for index in range(num_text_rows)]
    # A row with a missing image, as in real data: assembly drops it.
    rows.append({**rows[0], "id": "picture-missing", "image": "scenes/missing.png"})
    path = directory / FILE_NAME
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def _make_scene_row(image_directory: Path, seed: int) -> dict[str, Any]:
    """Write the image of a scene, and return a row with up to `_TURNS` questions of k = 1 about it."""
    scene = build_scene(seed)
    name = f"scene-{seed}.png"
    (image_directory / name).write_bytes(render_png(scene))
    # Seeded by the scene, so that a resumed demo writes the same file.
    rng = random.Random(seed)
    candidates = [make_question(scene, combination, rng) for combination in supported_combinations(scene, 1)]
    questions = [question for question in candidates if question is not None][:_TURNS]
    conversation = []
    for index, question in enumerate(questions):
        # LLaVA's format: the image and the instruction are in the first turn only.
        image_token = "<image>\n" if index == 0 else ""
        suffix = f"\n{SHORT_ANSWER_INSTRUCTION}" if index == 0 else ""
        conversation += _make_turn(f"{image_token}{question.question}{suffix}", question.answer)
    return {"id": f"scene-{seed}", "image": f"scenes/{name}", "conversations": conversation}


def _make_sum_row(index: int) -> dict[str, Any]:
    """Return a text-only row with a question about a sum."""
    rng = random.Random(index)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return {
        "id": f"sum-{index}",
        "conversations": _make_turn(f"What is {a} plus {b}, and then {index}?", str(a + b + index)),
    }


def _make_turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


SCENES: Final = 400
STEPS: Final = 250  # half of the recipe's: five passes over the rows, in four minutes
FAULT_RATE: Final = 0.3  # share of drafts with a planted fault
RECIPE: Final = "tiny-cpu"
_MIN_SCENES: Final = 40
_VERSION: Final = "1.0.0"
# Numbers of scenes and rows; they keep the demo at a few minutes.
_MAX_RESERVED_SCENES: Final = 200
_IMAGE_ROWS: Final = 60
_TEXT_ROWS: Final = 20
_INSTRUCTION_ROWS: Final = 40
_EXAMPLES: Final = 8
_SHEET_IMAGES: Final = 6
# Formatted with `release`; other braces are doubled. `or 0`: k is null for instruction rows.
_SNIPPET: Final = """\
from datasets import load_dataset

data = load_dataset({release!r})
print({{split: len(rows) for split, rows in data.items()}})
hardest = max(data["train"], key=lambda row: row["k"] or 0)
print(hardest["images"][0].size, "k =", hardest["k"])
for turn in hardest["turns"]:
    print(turn["question"], "->", turn["answer"], turn["capabilities"])"""

# (stage, done, total, note)
ProgressCallback = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class DemoOutput:
    """The output of the demo.

    Attributes:
        report (`Path`): path of the report.
        summary (`str`): the results, what they mean, and next steps, as text.
    """

    report: Path
    summary: str


def run_demo(
    out: str | Path,
    *,
    scenes: int = SCENES,
    steps: int = STEPS,
    on_progress: ProgressCallback = lambda stage, done, total, note: None,
) -> DemoOutput:
    """Run all steps from images to the scores of a tuned model by k, or resume an earlier call.

    Args:
        out (`str | Path`): output directory; it must be new, empty, or of an earlier demo.
        scenes (`int`, *optional*, defaults to 400): number of scenes for the training data, at least 40. Half as many
            reserved scenes, at most 200, are used for evaluation.
        steps (`int`, *optional*, defaults to 250): number of training steps, of a batch of the recipe each.
        on_progress (`ProgressCallback`, *optional*): called with (stage, done, total, note) during the work.

    Returns:
        The path of the report and a summary.

    Raises:
        UsageError: `out` has other contents or a demo with other settings, or `scenes` or `steps` is too small.
        CompactError: a step failed; the same call resumes at this step.
    """
    if scenes < _MIN_SCENES:
        raise UsageError(f"{scenes} scenes are too few to train on: give at least {_MIN_SCENES}")
    if steps < 1:
        raise UsageError(f"{steps} training steps: give at least 1")
    directory = Path(out)
    output_directory = OutputDirectory(directory, "a demo", ".compact-demo")
    output_directory.claim()
    # The steps that are finished were run with the settings of the first call, so later calls must have the same.
    output_directory.bind({"scenes": scenes, "steps": steps})
    with translate_disk_errors(
        ReleaseError, directory, "free disk space there and run the same command again to resume"
    ):
        return _run_steps(directory, scenes, steps, on_progress)


def _run_steps(directory: Path, scenes: int, steps: int, on_progress: ProgressCallback) -> DemoOutput:
    """Run all steps. Each resumes, skips or repeats its earlier work, so a stopped demo starts again from here."""
    _generate(directory / "run", scenes, on_progress)
    stats = _assemble(directory, on_progress)
    code = _SNIPPET.format(release=str(directory / "release"))
    output = _run_snippet(code)
    base = _make_base_model(directory, on_progress)
    # In `evaluate`, `scenes:N` are scenes with reserved seeds, which `generate` refuses.
    dataset = f"scenes:{min(scenes // 2, _MAX_RESERVED_SCENES)}"
    # Three evaluations of the same questions: before, after, and after with the wrong images.
    before = _evaluate(base, dataset, directory / "before", "questions before tuning", on_progress)
    settings = _settings(directory, steps)
    training = _train(directory, settings, on_progress)
    after = _evaluate(training.output_dir, dataset, directory / "after", "questions after tuning", on_progress)
    swapped = _evaluate(
        training.output_dir,
        dataset,
        directory / "swapped",
        "questions with swapped images",
        on_progress,
        swap_images=True,
    )
    # Replaces the model card of the training, now that the scores are known.
    scores = read_card_results(training.output_dir, directory / "after")
    if not is_edited(read_card(training.output_dir)):
        write_card(training.output_dir, settings={**read_recipe(recipe_path(RECIPE)), **settings}, results=scores)
    task = load_task(DEFAULT_TASK)
    # For each of the two models, question id -> prediction.
    answers = [
        {prediction.id: prediction for prediction in read_predictions(directory / name / evaluation.slugs[0])}
        for name, evaluation in (("before", before), ("after", after))
    ]
    demo = DemoResults(
        directory,
        status(directory / "run"),
        stats,
        code,
        output,
        training,
        build_examples(answers, (BEFORE, AFTER), _EXAMPLES, task=task, read_image=after.read_image),
        describe_selection(_EXAMPLES, len(answers[0]), len(answers), task.stratum_name),
        # A single model each, so there is one result.
        *(cast(CompactResults, evaluation.results[0]) for evaluation in (before, after, swapped)),
    )
    page, sheet = directory / "report.html", directory / "contact_sheet.png"
    report = make_report(demo)
    page.write_text(render_demo(report), encoding="utf-8")
    sheet.write_bytes(contact_sheet.render_sheet(contact_sheet.pick(report.images, _SHEET_IMAGES)))
    return DemoOutput(page, make_summary(demo))


def _generate(run: Path, scenes: int, on_progress: ProgressCallback) -> None:
    """Generate conversations about scenes, with planted faults."""

    def show(progress: RunProgress) -> None:
        on_progress("images", progress.finished, progress.images, format_count(progress.accepted, "question"))

    generate(f"scenes:{scenes}", run, noise=FAULT_RATE, strict=True, on_progress=show)


def _assemble(directory: Path, on_progress: ProgressCallback) -> DatasetStats:
    """Assemble the dataset from the run and the instruction file, and validate it."""
    instruction_file = write_instruction_file(
        directory / "instruction", num_image_rows=_IMAGE_ROWS, num_text_rows=_TEXT_ROWS
    )
    release = directory / "release"
    stats = assemble(
        [directory / "run"],
        release,
        version=_VERSION,
        max_similarity=1,  # near-duplicates stay: questions about scenes share few wordings, all of which matter
        instruction=instruction_file,
        instruction_rows=_INSTRUCTION_ROWS,
    )
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid ({report.counts}): this is a bug in compact_hf, please report it")
    on_progress("release", stats.rows(), stats.rows(), "rows written and checked")
    return stats


def _make_base_model(directory: Path, on_progress: ProgressCallback) -> Path:
    """Copy the tiny model that ships with the package, unless it has been copied before."""
    base = directory / "base"
    # The copy gets its name only when it is complete, so an existing directory is complete.
    if not base.exists():
        copy_aligned(base)
    on_progress("tiny model", 1, 1, "")
    return base


def _settings(directory: Path, steps: int) -> dict[str, str]:
    """Return the settings of `trl sft` that replace those of the recipe."""
    return {
        "model_name_or_path": str(directory / "base"),
        "dataset_name": str(directory / "release"),
        "output_dir": str(directory / "student"),
        "max_steps": str(steps),
        "save_steps": str(steps),
    }


def _train(directory: Path, settings: dict[str, str], on_progress: ProgressCallback) -> TrainingResult:
    """Tune the tiny model with the recipe."""

    def show(line: str) -> None:
        if steps := parse_progress(line):
            on_progress("training steps", *steps, "")

    return tune(RECIPE, overrides=settings, log=directory / "training.log", on_line=show)


def _evaluate(
    model: Path, dataset: str, out: Path, stage: str, on_progress: ProgressCallback, *, swap_images: bool = False
) -> Evaluation:
    """Evaluate a model on the questions of a dataset, with the images exchanged if `swap_images`."""
    return evaluate(
        str(model),
        dataset,
        out,
        task=DEFAULT_TASK,
        control=SWAPPED_IMAGES if swap_images else None,
        on_progress=lambda done, total: on_progress(stage, done, total, ""),
    )


def _run_snippet(code: str) -> str:
    """Run a code snippet and return what it prints to stdout."""
    output = io.StringIO()
    scope: dict[str, Any] = {}
    # In this process: a child would import the libraries again. The report shows what the snippet printed.
    with without_progress_bars(), contextlib.redirect_stdout(output):
        exec(compile(code, "<first look>", "exec"), scope)
    return output.getvalue()
