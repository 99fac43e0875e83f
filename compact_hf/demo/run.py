"""`compact demo`: the whole way, offline, in minutes: drawn scenes in, a report out.

    compact demo --out demo-out

    demo-out/run/              the journal of generation, with planted faults
    demo-out/instruction/      a small file in LLaVA's format, with its pictures
    demo-out/release/          the data set, read by `load_dataset`
    demo-out/base/, student/   the tiny model before and after `compact tune`; training.log
    demo-out/before/, after/   its answers to questions about reserved scenes; swapped/: about other pictures
    demo-out/report.html       all of it, to look at; contact_sheet.png, a few of the pictures

The same command goes on where it stopped. No network, no key, no GPU.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.stats import Facts
from compact_hf.dataset.validate import validate
from compact_hf.demo.report import Story, report_of, summary_of
from compact_hf.errors import IdentityError, ReleaseError, UsageError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.scoring import Results
from compact_hf.methods.compact.generate import generate
from compact_hf.methods.compact.status import status
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.models.loading import without_progress_bars
from compact_hf.reports import contact_sheet
from compact_hf.reports.demo_page import render
from compact_hf.runs.run import Standing
from compact_hf.scenes.questions import ask, supported
from compact_hf.scenes.render import png
from compact_hf.scenes.scene import scene_of
from compact_hf.training.card_results import measured
from compact_hf.training.child_output import steps_in
from compact_hf.training.model_card import write_card
from compact_hf.training.recipes import read_recipe, recipe_path
from compact_hf.training.train import TrainingResult, tune

FILE_NAME: Final = "instruction.json"
# Far from the seeds 0 to N-1 that the demo generates from, so that no picture is in both parts.
_FIRST_SEED: Final = 500_000
_TURNS: Final = 3


def write_instruction_file(folder: Path, *, with_picture: int, without_picture: int) -> Path:
    """Write `instruction.json` and its pictures into `folder`, and return the file's path.

    Args:
        folder (`Path`): is made; what stands there is written over.
        with_picture, without_picture (`int`): rows of each kind; one row more names a picture that is not there.
    """
    pictures = folder / "scenes"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [_about_a_scene(pictures, _FIRST_SEED + index) for index in range(with_picture)]
    rows += [_about_a_sum(index) for index in range(without_picture)]
    rows.append({**rows[0], "id": "picture-missing", "image": "scenes/missing.png"})
    file = folder / FILE_NAME
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return file


def _about_a_scene(pictures: Path, seed: int) -> dict[str, Any]:
    scene = scene_of(seed)
    name = f"scene-{seed}.png"
    (pictures / name).write_bytes(png(scene))
    rng = random.Random(seed)
    asked = [ask(scene, combination, rng) for combination in supported(scene, 1)]
    chosen = [question for question in asked if question is not None][:_TURNS]
    conversation = []
    for index, question in enumerate(chosen):
        mark = "<image>\n" if index == 0 else ""
        end = f"\n{SHORT_ANSWER_INSTRUCTION}" if index == 0 else ""
        conversation += _turn(f"{mark}{question.question}{end}", question.answer)
    return {"id": f"scene-{seed}", "image": f"scenes/{name}", "conversations": conversation}


def _about_a_sum(index: int) -> dict[str, Any]:
    rng = random.Random(index)
    one, other = rng.randint(2, 9), rng.randint(2, 9)
    return {
        "id": f"sum-{index}",
        "conversations": _turn(f"What is {one} plus {other}, and then {index}?", str(one + other + index)),
    }


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


SCENES: Final = 400
NOISE: Final = 0.3
RECIPE: Final = "tiny-cpu"
_FEWEST_SCENES: Final = 40
_VERSION: Final = "1.0.0"
_RESERVED: Final = 200
_WITH_PICTURE: Final = 60
_WITHOUT_PICTURE: Final = 20
_INSTRUCTION_ROWS: Final = 40
_ON_SHEET: Final = 6
_MARK: Final = ".compact-demo"
_FIRST_LOOK: Final = """\
from datasets import load_dataset

data = load_dataset({release!r})
print({{split: len(rows) for split, rows in data.items()}})
hardest = max(data["train"], key=lambda row: row["k"] or 0)
print(hardest["images"][0].size, "k =", hardest["k"])
for turn in hardest["turns"]:
    print(turn["question"], "->", turn["answer"], turn["capabilities"])"""

Tell = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo left: the report's path, and a few plain sentences on what came out and how to go on."""

    report: Path
    summary: str


def run_demo(
    out: str | Path,
    *,
    scenes: int = SCENES,
    steps: int | None = None,
    on_progress: Tell = lambda stage, done, total, note: None,
) -> Demo:
    """Go the whole way from pictures to a tuned model's score by k, or go on with it.

    Args:
        out (`str | Path`): a folder that is new, empty, or an earlier demo's.
        scenes (`int`, *optional*, defaults to 400): pictures to generate from, at least 40, to learn from. Half as
            many others, at most 200, are for judging.
        steps (`int`, *optional*, defaults to the recipe's): training steps.
        on_progress (`Tell`, *optional*): called with (stage, done, total, note) as work proceeds.

    Raises:
        UsageError: `out` holds something else or a demo with other settings, or `scenes` is too small.
        CompactError: whatever a stage raises; the same call goes on there.
    """
    if scenes < _FEWEST_SCENES:
        raise UsageError(f"got {scenes} scenes; the demo needs at least {_FEWEST_SCENES} to learn from")
    folder = _claimed(Path(out), {"scenes": scenes, "steps": steps})
    _generate(folder / "run", scenes, on_progress)
    facts = _assemble(folder, on_progress)
    code = _FIRST_LOOK.format(release=str(folder / "release"))
    printed = _printed(code)
    base = _base(folder, on_progress)
    reserved = f"scenes:{min(scenes // 2, _RESERVED)}"
    before = _evaluate(base, reserved, folder / "before", "questions before tuning", on_progress)
    settings = _settings(folder, steps)
    training = _train(folder, settings, on_progress)
    after = _evaluate(training.output_dir, reserved, folder / "after", "questions after tuning", on_progress)
    swapped = _evaluate(
        training.output_dir, reserved, folder / "swapped", "pictures swapped", on_progress, swap_pictures=True
    )
    # Last, over the card that TRL leaves: only now are the scores known.
    scores = measured(training.output_dir, folder / "after")
    write_card(training.output_dir, settings={**read_recipe(recipe_path(RECIPE)), **settings}, results=scores)
    story = Story(folder, status(folder / "run"), facts, code, printed, training, before, after, swapped)
    page, sheet = folder / "report.html", folder / "contact_sheet.png"
    report = report_of(story)
    page.write_text(render(report), encoding="utf-8")
    sheet.write_bytes(contact_sheet.sheet(contact_sheet.pick(report.pictures, _ON_SHEET)))
    return Demo(page, summary_of(story))


def _claimed(folder: Path, settings: dict[str, int | None]) -> Path:
    mark = folder / _MARK
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {folder} already holds something that is not a demo; give a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else settings
        if held != settings:
            # What was trained and judged belongs to the settings of the first call.
            raise IdentityError(
                str(folder), {name: (held.get(name), now) for name, now in settings.items() if held.get(name) != now}
            )
        mark.write_text(json.dumps(settings), encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"--out {folder} holds a demo that was cut off at its start; remove {mark}") from error
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written ({error.strerror}); give another folder") from error
    return folder


def _generate(run: Path, scenes: int, tell: Tell) -> None:
    def show(standing: Standing) -> None:
        tell("pictures", standing.finished, standing.pictures, f"{standing.accepted} questions")

    generate(f"scenes:{scenes}", run, noise=NOISE, strict=True, on_progress=show)


def _assemble(folder: Path, tell: Tell) -> Facts:
    file = write_instruction_file(folder / "instruction", with_picture=_WITH_PICTURE, without_picture=_WITHOUT_PICTURE)
    release = folder / "release"
    facts = assemble(
        [folder / "run"],
        release,
        version=_VERSION,
        max_similarity=1,  # drawn scenes repeat their wording by design: the tiny student has to learn from it
        instruction=file,
        instruction_rows=_INSTRUCTION_ROWS,
    )
    report = validate(release)
    if not report.is_valid:
        raise ReleaseError(f"{release} is not valid: {report.counts}; this is a defect of compact_hf, please report it")
    tell("release", facts.rows(), facts.rows(), "rows written and checked")
    return facts


def _base(folder: Path, tell: Tell) -> Path:
    base = folder / "base"
    if not base.exists():
        # Renamed when it is whole, so that a kill cannot leave half a model behind.
        half = folder / "base.part"
        shutil.rmtree(half, ignore_errors=True)
        copy_aligned(half).rename(base)
    tell("tiny model", 1, 1, "")
    return base


def _settings(folder: Path, steps: int | None) -> dict[str, str]:
    """Return what replaces the recipe's settings, as `trl sft` takes it."""
    return {
        "model_name_or_path": str(folder / "base"),
        "dataset_name": str(folder / "release"),
        "output_dir": str(folder / "student"),
        **({"max_steps": str(steps), "save_steps": str(steps)} if steps else {}),
    }


def _train(folder: Path, settings: dict[str, str], tell: Tell) -> TrainingResult:
    def show(line: str) -> None:
        if steps := steps_in(line):
            tell("training steps", *steps, "")

    return tune(RECIPE, overrides=settings, log=folder / "training.log", on_line=show)


def _evaluate(model: Path, reserved: str, out: Path, stage: str, tell: Tell, *, swap_pictures: bool = False) -> Results:
    return evaluate(
        str(model),
        reserved,
        out,
        swap_pictures=swap_pictures,
        on_progress=lambda done, total: tell(stage, done, total, ""),
    ).results[0]


def _printed(code: str) -> str:
    """Run a snippet as its reader would, and return what it prints."""
    said = io.StringIO()
    scope: dict[str, Any] = {}
    with without_progress_bars(), contextlib.redirect_stdout(said):
        exec(compile(code, "<first look>", "exec"), scope)
    return said.getvalue()
