"""Write the directories that later code must still read, as the code of today leaves them.

    python tests/golden/make_fixtures.py tests/golden/made_by_0_1_0

Run it again only when a format is changed on purpose, into a new directory named for that version; what an earlier
version made stays and stays readable. Everything is made by `compact` commands in the new directory, with relative
paths only, so that a copy of it anywhere is as good as the original. It takes about two minutes and no network.

    run/                     a finished run of `compact generate`, and what assembly has seen of its images
    stopped/                 the same run, stopped by its budget; the same command without the budget resumes it
    shards/shard-1-of-2, shard-2-of-2        the same run in two parts
    questions.json           questions about the scenes of the run, in LLaVA's format
    annotated/, augmented/   finished runs of `compact annotate` and `compact augment` on them
    instruction.json, images/square.png      the instruction part of the dataset
    dataset/                 what `compact assemble` makes of the run and the instruction part
    base/                    a LLaVA of a few thousand parameters
    lora.yaml, full.yaml     recipes
    lora/, full/             the finished training runs of the two: an adapter, and a whole model
    lora_stopped/, full_stopped/             the same after a kill that left the checkpoint of step 30 of 40
    evaluation/              what base, lora and full answer to the questions that they were trained on
    experiment.yaml, ablation/               a finished ablation, without the releases and logs that it reads no more

Plots and pages are left out, but for those of the dataset's card: they are for people, and made anew by the same
command.
What binds a directory to what it was made from is recorded inside: those records are the fixtures' purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.cli.main import main
from compact_hf.models.llava.tiny import ModelSize, build_tiny

SCENES = "scenes:39-45"
"""Six scenes, of which one is in the validation split and one yields too few questions."""
GENERATE = ["generate", SCENES, "--teacher", "scenes", "--seed", "7"]
BUDGET = 30
"""Requests after which the stopped run stops: about half of them."""

LORA = {
    "use_peft": True,
    "lora_r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.1,
    "lora_target_modules": [r".*language_model.*\.(q_proj|v_proj|down_proj)"],
    "lora_modules_to_save": ["multi_modal_projector"],
}
TRAINING = {
    "model_name_or_path": "base",
    "dataset_name": "dataset",
    "dataset_config": "all",
    "assistant_only_loss": True,
    "max_length": 1024,
    "per_device_train_batch_size": 2,
    "max_steps": 40,
    "learning_rate": 0.01,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.0,
    "seed": 0,
    "use_cpu": True,
    "bf16": False,
    "dtype": "float32",
    "activation_checkpointing": False,
    "num_processes": 1,
    "num_machines": 1,
    "mixed_precision": "no",
    "dynamo_backend": "no",
    "logging_steps": 5,
    "save_strategy": "steps",
    "save_steps": 30,
    "save_only_model": False,
    "report_to": "none",
}
EXPERIMENT = {
    "runs": ["run"],
    "max_similarity": 1,
    "base": "base",
    "recipe": "tiny-cpu",
    "settings": {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 2},
    "seeds": [0],
    "dataset": "scenes:3",
    "baseline": "low",
    "variants": {"low": {"k": [1, 2], "questions": 4}, "all": {"questions": 4}},
}
# About as small as the parts of a LLaVA still fit together: four patches, two heads of eight.
SIZE = ModelSize(
    image_size=8,
    patch_size=4,
    hidden_size=16,
    vision_heads=2,
    text_heads=2,
    vision_layers=1,
    text_layers=1,
    vocab_size=320,
)


def run_compact(*arguments: str, status: int = 0) -> None:
    """Run a command and see that it ends as it must."""
    actual = main(arguments)
    if actual != status:
        raise SystemExit(f"compact {' '.join(arguments)}: exit status {actual} instead of {status}")


def make_runs() -> None:
    """Make the runs of `generate`: at once, stopped, and in two parts."""
    run_compact(*GENERATE, "--out", "run")
    run_compact(*GENERATE, "--out", "stopped", "--concurrency", "1", "--max-requests", str(BUDGET), status=3)
    for part in (1, 2):
        run_compact(*GENERATE, "--out", f"shards/shard-{part}-of-2", "--shard", f"{part}/2")


def read_accepted_turns(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the accepted turns of each scene, in the order of the scenes."""
    with closing(sqlite3.connect(run / "journal.sqlite")) as journal:
        rows = journal.execute("SELECT ref, body FROM outcomes ORDER BY ref").fetchall()
    outcomes = {ref: json.loads(body)["conversation"] for ref, body in rows}
    return {ref: conversation["turns"] for ref, conversation in outcomes.items() if conversation is not None}


def make_messages(questions: list[tuple[str, str]], *, image: bool) -> list[dict[str, str]]:
    """Return questions with their answers as the messages of LLaVA's format."""
    messages = []
    for number, (question, answer) in enumerate(questions):
        image_token = "<image>\n" if image and not number else ""
        instruction = "" if number else f"\n{SHORT_ANSWER_INSTRUCTION}"
        messages += [
            {"from": "human", "value": f"{image_token}{question}{instruction}"},
            {"from": "gpt", "value": answer},
        ]
    return messages


def make_questions(turns: dict[str, list[dict[str, Any]]]) -> None:
    """Ask about the scenes in LLaVA's format, and make the runs of `annotate` and `augment` of that."""
    items = []
    for ref, scene_turns in turns.items():
        questions = [(turn["question"], turn["answer"]) for turn in scene_turns]
        # The verifier cannot place this question: it stays, as one that needs nothing.
        questions.append(("Would you hang this on a wall?", "yes"))
        items.append({"id": ref, "image": ref, "conversations": make_messages(questions, image=True)})
    write_json("questions.json", items)
    common = ["questions.json", "--image-root", SCENES, "--seed", "7"]
    run_compact("annotate", *common, "--verifier", "scenes", "--out", "annotated")
    run_compact("augment", *common, "--teacher", "scenes", "--out", "augmented")


def make_dataset() -> None:
    """Assemble the run with an instruction part of two rows, one of them with an image."""
    Path("images").mkdir()
    Image.new("RGB", (24, 16), (200, 30, 30)).save("images/square.png")
    items = [
        {
            "id": "image",
            "image": "square.png",
            "conversations": make_messages([("What color is this?", "red")], image=True),
        },
        {"id": "text", "conversations": make_messages([("What is two plus one?", "3")], image=False)},
    ]
    write_json("instruction.json", items)
    instruction = ["--instruction", "instruction.json", "--image-root", "images", "--instruction-fraction", "1"]
    options = ["--keep-similar", "--group-similar", "6", *instruction]
    run_compact("assemble", "run", "--version", "1.0.0", "--out", "dataset", *options)
    # What was seen of a file is kept by its absolute path and its time, neither of which a copy has.
    with closing(sqlite3.connect("run/looks.sqlite")) as database:
        database.execute("DELETE FROM looks WHERE picture LIKE '/%'")
        database.commit()
        database.execute("VACUUM")


def make_models(texts: list[str]) -> None:
    """Build the base, train it as a LoRA and in full, and leave of each run also what a kill would have left."""
    build_tiny(Path("base"), texts, seed=0, size=SIZE)
    for name, overrides in (("lora", LORA), ("full", {})):
        write_yaml(f"{name}.yaml", {**TRAINING, **overrides})
        run_compact("tune", f"{name}.yaml", "--output_dir", name)
        stopped = Path(f"{name}_stopped")
        stopped.mkdir()
        shutil.copy(Path(name) / ".compact-tune", stopped)
        shutil.move(Path(name) / "checkpoint-30", stopped)
        shutil.rmtree(Path(name) / "checkpoint-40")


def make_results() -> None:
    """Evaluate the models, and make the ablation."""
    run_compact("evaluate", "base", "lora", "full", "dataset", "--split", "train", "--out", "evaluation")
    write_yaml("experiment.yaml", EXPERIMENT)
    run_compact("ablate", "experiment.yaml", "--out", "ablation")
    # A finished ablation reads neither again.
    shutil.rmtree("ablation/releases")
    shutil.rmtree("ablation/logs")
    for checkpoint in Path("ablation/models").glob("*/checkpoint-*"):
        shutil.rmtree(checkpoint)


def write_json(name: str, value: Any) -> None:
    """Write a JSON file."""
    Path(name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_yaml(name: str, value: Any) -> None:
    """Write a YAML file, its keys in their order."""
    Path(name).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def make_fixtures(out: Path) -> None:
    """Make everything in the directory `out`, which must not exist yet."""
    out.mkdir(parents=True)
    os.chdir(out)
    make_runs()
    turns = read_accepted_turns(Path("run"))
    make_questions(turns)
    make_dataset()
    make_models(
        [turn[part] for scene_turns in turns.values() for turn in scene_turns for part in ("question", "answer")]
    )
    make_results()
    for path in list(Path().rglob("*")):
        if path.suffix in (".lock", ".html", ".png") and path.parent.name not in ("images", "assets"):
            path.unlink()


if __name__ == "__main__":
    make_fixtures(Path(sys.argv[1]).resolve())
