"""Checks docs/evidence.md against docs/figures/evidence.json, which `compact ablate docs/evidence.yaml` wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

from compact_hf.cli.main import make_parser
from compact_hf.evaluation.ablation.plan import read_plan
from compact_hf.evaluation.ablation.results import Ablation, format_markdown
from compact_hf.records import from_json

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "evidence.md").read_text(encoding="utf-8")
FIGURES = (DOCS / "figures" / "evidence.json").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_file() -> None:
    for table in format_markdown(from_json(Ablation, FIGURES)).split("\n\n"):
        assert table.strip() in TEXT


def test_the_file_is_that_of_the_plan() -> None:
    evidence, plan = json.loads(FIGURES), read_plan(DOCS / "evidence.yaml")
    assert evidence["plan"] == plan.to_dict()
    assert len(evidence["units"]) == len(plan.variants) * len(plan.seeds)


def test_what_is_compared_has_as_many_questions_and_the_base_is_named() -> None:
    ablation = from_json(Ablation, FIGURES)
    counts = {unit.variant: sum(unit.data.questions.values()) for unit in ablation.units}
    assert counts == {"k1": 2400, "k123": 2400, "llava-10x": 24000}
    assert len(ablation.plan.seeds) >= 3
    assert {line.label for line in ablation.lines} == {"all", *(f"k = {k}" for k in range(1, 6))}
    assert ablation.base_identity in TEXT


def test_the_text_states_the_accuracies_of_the_file() -> None:
    ablation = from_json(Ablation, FIGURES)
    overall = next(line for line in ablation.lines if line.label == "all")
    shares = {variant: f"{estimate.mean:.0%}" for variant, estimate in overall.accuracy.items()}
    text = " ".join(TEXT.split())
    assert f"twice as many questions right as `k1`: {shares['k123']} against {shares['k1']}." in text
    readme = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"with k = 1 to 3 answer {shares['k123']} right, students" in readme
    assert f"2,400 questions with k = 1 answer {shares['k1']}." in readme
    ratio = overall.accuracy["k123"].mean / overall.accuracy["llava-10x"].mean
    assert f"`k123` reaches {ratio:.0%} of its score." in text


def test_the_command_that_repeats_it_can_be_parsed() -> None:
    commands = re.findall(r"^    compact (.+)$", TEXT, re.MULTILINE)
    assert commands
    for command in commands:
        make_parser().parse_args(command.split())
