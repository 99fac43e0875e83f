"""Trains the student that ships with the package, from random weights; an interrupted call can be resumed.

    python student_script/build_student.py student_script/student.yaml --out build
    python student_script/build_student.py student_script/student.yaml --out build --ship

The config, such as student.yaml, sets the stages of training, which follow those of LLaVA. Their results are:

    build/untrained/        the tiny LLaVA with random weights
    build/seeing/           after pre-training of the vision tower, which replaces CLIP; its loss is in seeing.jsonl
    build/language/         after pre-training of the language model on text, which replaces Vicuna; language.jsonl
    build/aligned/          after alignment on descriptions of images; its loss is in alignment.jsonl
    build/run/, release/    the dataset, questions about other scenes
    build/tuned/            a LoRA adapter on `aligned`, tuned on the dataset by `trl sft`; its output is in tuning.log
    build/judged/           answers and scores of base and adapter on questions about reserved scenes
    build/swapped/          answers and scores of the adapter when each question gets the image of another question
    build/student.json      all results; --ship copies them to docs/figures and spaces_demo, and the checkpoints into
                            the package
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml
from captions import conversation
from pretrain import FIRST_SEEDS, ConversationSchedule, align, pretrain_language, pretrain_tower
from pydantic import BaseModel, ConfigDict
from training_loop import Step, TrainingSchedule

from compact_hf import CompactError, assemble, evaluate, generate
from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.capabilities import CAPABILITIES
from compact_hf.cli.console import ProgressBar, log, print_data
from compact_hf.config import read_config
from compact_hf.errors import TuningError, UsageError
from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.scoring import SHORT_ANSWER_RULES, score_answers
from compact_hf.hub.card import CARD
from compact_hf.models.llava.shipped import ALIGNED, CHECKPOINTS_DIRECTORY, TUNED, set_adapter_base
from compact_hf.models.llava.tiny import STUDENT_SIZE, build_tiny
from compact_hf.scenes.questions import make_question, read_question
from compact_hf.scenes.scene import EVALUATION_SEEDS, build_scene
from compact_hf.scenes.source import parse_scenes
from compact_hf.storage import is_empty_directory, replace_directory, write_atomically
from compact_hf.training.train import tune
from compact_hf.wording import format_count

_ROOT: Final = Path(__file__).parents[1]
# File in the output directory -> its copy in the docs or in the Space.
_RESULT_FILES: Final = {
    "student.json": "docs/figures/student.json",
    "judged/results.json": "spaces_demo/results.json",
    "swapped/results.json": "spaces_demo/swapped.json",
}
# A copy of the config in the output directory, which marks the directory as that of a student.
_MARKER_FILE: Final = "student.yaml"
_STAGES: Final = ("seeing", "language", "alignment")
_LIBRARIES: Final = ("torch", "transformers", "peft", "trl")
# Checkpoint -> the files that are shipped; optimizer states and logs are not.
_CHECKPOINT_FILES: Final = {
    ALIGNED: ("config.json", "generation_config.json", "model.safetensors"),
    TUNED: ("adapter_config.json", "adapter_model.safetensors"),
}
_PROCESSOR_FILES: Final = ("chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json")


class TowerConfig(BaseModel):
    """Settings of the first stage, pre-training of the tower; see `TrainingSchedule`."""

    model_config = ConfigDict(extra="forbid")

    steps: int
    batch: int
    learning_rate: float


class ConversationConfig(TowerConfig):
    """Settings of the other two stages, on conversations; see `ConversationSchedule`."""

    tokens: int


class Config(BaseModel):
    """All settings of the student.

    Attributes:
        seed (`int`): random seed of weights, descriptions and questions.
        vocabulary_scenes (`int`): number of scenes whose descriptions and questions the tokenizer is trained on.
        seeing (`TowerConfig`): pre-training of the tower.
        language (`ConversationConfig`): pre-training of the language model on text alone.
        alignment (`ConversationConfig`): alignment on descriptions of images.
        source (`str`): the scenes of the tuning dataset, as `compact generate` takes them.
        k (`list[int]`): values of k in the tuning dataset.
        recipe (`str`): file name of the tuning recipe, in the directory of the config.
        reserved_scenes (`int`): number of reserved scenes for evaluation.
    """

    model_config = ConfigDict(extra="forbid")

    seed: int
    vocabulary_scenes: int
    seeing: TowerConfig
    language: ConversationConfig
    alignment: ConversationConfig
    source: str
    k: list[int]
    recipe: str
    reserved_scenes: int


def build(config: Config, out: Path, *, recipe: Path) -> dict[str, Any]:
    """Train and evaluate the student; stages that are complete are not repeated.

    Args:
        config (`Config`): all settings.
        out (`Path`): a new or empty directory, or that of an earlier call with the same config.
        recipe (`Path`): the tuning recipe, for `trl sft`.

    Returns:
        `dict[str, Any]`: all results, which are also written to `out/student.json`.

    Raises:
        UsageError: if two stages would use the same scenes, or `out` holds something else.
        CompactError: if a stage failed or was stopped; the same call resumes.
    """
    check_seeds(config)
    _init_output_dir(config, out)
    untrained, aligned, release, tuned = (out / name for name in ("untrained", ALIGNED, "release", TUNED))
    if not untrained.exists():
        # Every stage gets its final name only when it is complete.
        temp_directory = out / "untrained.part"
        shutil.rmtree(temp_directory, ignore_errors=True)
        build_tiny(
            temp_directory, iter_texts(config.vocabulary_scenes, config.seed), seed=config.seed, size=STUDENT_SIZE
        ).rename(untrained)
    if not (out / "seeing").exists():
        schedule = TrainingSchedule(**config.seeing.model_dump(), seed=config.seed)
        with _log_steps(out, "seeing", schedule.steps) as log_step:
            pretrain_tower(untrained, out / "seeing", schedule, on_step=log_step)
    for stage, pretrain, base, result_directory in (
        ("language", pretrain_language, out / "seeing", out / "language"),
        ("alignment", align, out / "language", aligned),
    ):
        if not result_directory.exists():
            conversation_schedule = ConversationSchedule(**getattr(config, stage).model_dump(), seed=config.seed)
            with _log_steps(out, stage, conversation_schedule.steps) as log_step:
                pretrain(base, result_directory, conversation_schedule, on_step=log_step)
    if not release.exists():
        _make_release(config, out / "run", release)
    # No check of `tuned` here: `tune` and `evaluate` resume from their own files in `out`.
    result = tune(
        recipe,
        overrides={"model_name_or_path": str(aligned), "dataset_name": str(release), "output_dir": str(tuned)},
        log=out / "tuning.log",
        on_line=log,
    )
    metrics = {
        "config": config.model_dump(),
        "recipe": yaml.safe_load(recipe.read_text(encoding="utf-8")),
        "size": {field: getattr(STUDENT_SIZE, field) for field in STUDENT_SIZE.__slots__},
        "versions": {name: version(name) for name in _LIBRARIES},
        **{stage: _summarize_log(out / f"{stage}.jsonl") for stage in _STAGES},
        "tuning": {"steps": result.steps, "seconds": round(result.seconds), "loss": result.loss},
        "scores": _evaluate_student(config, out),
        "by_query": _score_by_query(out / "judged" / TUNED, config.k),
    }
    write_atomically(out / "student.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def check_seeds(config: Config) -> None:
    """Raise UsageError if two stages would use the same scenes, or one of them those of evaluation."""
    source = parse_scenes(config.source)
    seeds = {
        "source": range(source.start, source.stop),
        "vocabulary_scenes": _vocabulary_seeds(config.vocabulary_scenes),
        "reserved_scenes": EVALUATION_SEEDS[: config.reserved_scenes],
    }
    for stage, first_seed in FIRST_SEEDS.items():
        settings: TowerConfig = getattr(config, stage)
        seeds[stage] = range(first_seed, first_seed + settings.steps * settings.batch)
    ordered = sorted(seeds.items(), key=lambda item: item[1].start)
    for (name, used), (next_name, next_used) in itertools.pairwise(ordered):
        if used.stop > next_used.start:
            raise UsageError(
                f"{name} has scenes with the seeds {used.start} to {used.stop - 1}, and {next_name} begins at "
                f"{next_used.start}: make {name} smaller"
            )


def iter_texts(scenes: int, seed: int) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on: descriptions of scenes, and questions of all k with answers.

    Args:
        scenes (`int`): number of scenes, none of which is used in training.
        seed (`int`): random seed.
    """
    # Evaluation appends it to each question, so its words need tokens.
    yield SHORT_ANSWER_INSTRUCTION
    for number in _vocabulary_seeds(scenes):
        scene, rng = build_scene(number), random.Random(f"{seed} {number}")
        yield from itertools.chain.from_iterable(conversation(scene, rng))
        # No question about a scene needs more than five capabilities.
        for k in range(1, 6):
            question = make_question(scene, tuple(rng.sample(list(CAPABILITIES), k)), rng)
            if question:
                yield from (question.question, question.answer)


def _vocabulary_seeds(scenes: int) -> range:
    """Return the seeds of the scenes for the tokenizer, just below those of alignment."""
    return range(FIRST_SEEDS["alignment"] - scenes, FIRST_SEEDS["alignment"])


def ship(out: Path) -> int:
    """Copy the checkpoints into the package and the results to docs and Space; return the checkpoints' size in bytes.

    Args:
        out (`Path`): output directory of `build`.
    """
    # The checkpoints of an earlier student are replaced when the new ones are complete.
    with replace_directory(
        CHECKPOINTS_DIRECTORY, is_replaceable=lambda directory: True, error_type=TuningError
    ) as directory:
        for name, weights in _CHECKPOINT_FILES.items():
            (directory / name).mkdir()
            for file in (*weights, *_PROCESSOR_FILES):
                shutil.copyfile(out / name / file, directory / name / file)
        _halve_weights(directory / ALIGNED / "model.safetensors")
        # Remove the local path of the base; `copy_student` sets the path of the copy.
        set_adapter_base(directory / TUNED, ALIGNED)
        # The card is written by hand.
        shutil.copyfile(CHECKPOINTS_DIRECTORY / ALIGNED / CARD, directory / ALIGNED / CARD)
    for file, copy in _RESULT_FILES.items():
        shutil.copyfile(out / file, _ROOT / copy)
    return sum(path.stat().st_size for path in CHECKPOINTS_DIRECTORY.rglob("*") if path.is_file())


def _halve_weights(path: Path) -> None:
    """Store weights in bfloat16, to which `align` rounded them; the model's config has them loaded as float32."""
    import torch
    from safetensors.torch import load_file, save

    weights = load_file(path)
    halves = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    if any(not torch.equal(half.float(), weights[name]) for name, half in halves.items()):
        raise TuningError(
            f"{path} has weights that are not rounded to bfloat16: make it again with {Path(__file__).name}"
        )
    path.write_bytes(save(halves, metadata={"format": "pt"}))


def _init_output_dir(config: Config, out: Path) -> None:
    """Claim the output directory by writing the config to it, or check that it has the same config."""
    marker, config_text = out / _MARKER_FILE, yaml.safe_dump(config.model_dump(), sort_keys=False)
    if marker.is_file():
        # Stages that are complete were trained with the earlier config.
        if marker.read_text(encoding="utf-8") != config_text:
            raise UsageError(f"{out} holds a student of another config ({marker}): give a new directory")
        return
    if out.exists() and not is_empty_directory(out):
        raise UsageError(f"{out} holds something that is not a student: give a new or empty directory")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, config_text)


@contextmanager
def _log_steps(out: Path, stage: str, steps: int) -> Iterator[Callable[[Step], None]]:
    """Yield a function that writes a step to the stage's log and shows it in a progress bar."""
    path = out / f"{stage}.jsonl"
    # A call that resumes adds to the log, and to the seconds of the calls before it.
    entries = _read_log(path) if path.exists() else []
    start = time.monotonic() - (entries[-1]["seconds"] if entries else 0)
    # Line-buffered: a killed process leaves complete lines.
    with path.open("a", encoding="utf-8", buffering=1) as log, ProgressBar(stage) as bar:

        def log_step(step: Step) -> None:
            seconds = round(time.monotonic() - start, 1)
            log.write(json.dumps({"step": step.number, "loss": round(step.loss, 4), "seconds": seconds}) + "\n")
            bar.show(step.number, steps, f"loss {step.loss:.2f}")

        yield log_step


def _read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _summarize_log(path: Path) -> dict[str, Any]:
    """Return steps, wall-clock seconds and mean losses from a stage's log.

    A run that was killed repeats steps after it is resumed; the last entry of each step counts.
    """
    entries = _read_log(path)
    steps = {entry["step"]: entry["loss"] for entry in entries}
    # Mean loss of each 20 steps.
    means = [
        (number, round(sum(steps[step] for step in range(number - 19, number + 1)) / 20, 4))
        for number in range(20, len(steps) + 1, 20)
    ]
    return {"steps": len(steps), "seconds": round(entries[-1]["seconds"]), "loss": means}


def _make_release(config: Config, run: Path, release: Path) -> None:
    """Generate questions about the config's scenes and assemble them."""
    with ProgressBar("images") as bar:
        generate(
            config.source,
            run,
            ks=tuple(config.k),
            seed=config.seed,
            on_progress=lambda progress: bar.show(
                progress.finished, progress.images, format_count(progress.accepted, "question")
            ),
        )
    # Questions about drawn scenes have similar wording by design, so near-duplicates are kept (max_similarity=1).
    assemble([run], release, version="1.0.0", max_similarity=1, seed=config.seed, on_note=log)


def _evaluate_student(config: Config, out: Path) -> dict[str, Any]:
    """Return the scores of base and adapter, and of the adapter with swapped images, a control."""
    reserved = f"scenes:{config.reserved_scenes}"
    with ProgressBar("evaluation") as bar:
        evaluation = evaluate([out / ALIGNED, out / TUNED], reserved, out / "judged", on_progress=bar.show)
    with ProgressBar("evaluation, images swapped") as bar:
        swapped = evaluate(out / TUNED, reserved, out / "swapped", swap_pictures=True, on_progress=bar.show)
    scores = {results.model: results.to_json() for results in evaluation.results}
    return {**scores, "swapped": swapped.results[0].to_json()}


def _score_by_query(directory: Path, ks: Sequence[int]) -> dict[str, Any]:
    """Return the scores of the capabilities that questions ask for; each has its own most frequent answer.

    In `by_capability` of an evaluation, a question counts for all capabilities that it needs.

    Args:
        directory (`Path`): predictions of an evaluation.
        ks (`Sequence[int]`): the values of k that the model was tuned on.

    Returns:
        `dict[str, Any]`: `all`, `tuned` (questions with k in `ks`) and `untuned` (the others) -> capability -> score.
    """

    def get_query(prediction: Any) -> str:
        program = read_question(prediction.question)
        if program is None:
            raise ValueError(f"{prediction.question!r} is not a question about a scene")
        return program.query

    def get_parts(prediction: Any) -> list[tuple[str, str]]:
        query = get_query(prediction)
        return [("all", query), ("tuned" if prediction.k in ks else "untuned", query)]

    _, parts = score_answers(
        read_predictions(directory), SHORT_ANSWER_RULES["exact"], get_stratum=get_query, get_parts=get_parts
    )
    return {name: {query: asdict(score) for query, score in part.items()} for name, part in parts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`): the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a YAML file such as student.yaml")
    parser.add_argument("--out", type=Path, required=True, help="output directory; an existing one is resumed")
    parser.add_argument("--ship", action="store_true", help="copy checkpoints and results into the package and docs")
    args = parser.parse_args(arguments)
    try:
        config = read_config(args.config, Config, example="student.yaml")
        metrics = build(config, args.out, recipe=args.config.with_name(config.recipe))
        if args.ship:
            log(f"shipped {ship(args.out):,} bytes in {CHECKPOINTS_DIRECTORY}")
    except CompactError as error:
        log(f"error: {error}")
        return error.exit_status
    for name in (ALIGNED, TUNED, "swapped"):
        results = metrics["scores"][name]
        by_k = {k: f"{score['accuracy']:.2f}" for k, score in results["by_k"].items()}
        print_data(f"{name}: accuracy {results['overall']['accuracy']:.2f}; by k {by_k}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
