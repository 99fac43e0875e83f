"""Tests ablation plans: the shipped ones are valid, and errors in a plan are reported in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compact_hf.capabilities import CAPABILITIES
from compact_hf.cli.main import main
from compact_hf.errors import UsageError
from compact_hf.evaluation.ablation.plan import find_plan, plan_names, read_plan
from compact_hf.methods.compact.selection import LLAVA_K_SHARES
from compact_hf.training.recipes import read_recipe

EVIDENCE = Path(__file__).parents[3] / "docs" / "evidence.yaml"


@pytest.mark.parametrize("name", plan_names())
def test_a_plan_that_comes_along_says_what_it_is_for_and_names_a_recipe_that_there_is(name: str) -> None:
    plan = read_plan(name)
    assert read_recipe(plan.recipe).keys() >= plan.settings.keys()
    assert find_plan(name).read_text(encoding="utf-8").startswith("# ")
    assert f"#   compact ablate {name} " in find_plan(name).read_text(encoding="utf-8")
    assert plan.scenes is None or plan.max_similarity == 1


def test_the_papers_ablations_come_along() -> None:
    assert {variant.k for variant in read_plan("k-range").variants.values()} == {(), (1,), (1, 2), (3,)}
    excluded = [variant.without for variant in read_plan("leave-one-out").variants.values()]
    assert excluded == [(), *((name,) for name in CAPABILITIES)]
    for plan in ("forced-k", EVIDENCE):
        assert LLAVA_K_SHARES in [variant.k_shares for variant in read_plan(plan).variants.values()]
    assert [item.instruction_fraction for item in read_plan("instruction-fraction").variants.values()][:2] == [
        None,
        0.01,
    ]
    sizes = [variant.conversations or 0 for variant in read_plan("data-size").variants.values()]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sedes": [0]}, r"sedes: Extra inputs are not permitted; valid keys are .*; did you mean seeds\?"),
        ({"variants": {"k1": {"question": 3}, "b": {}}}, r"variants.k1.question: .*; did you mean questions\?"),
        ({"runs": ["run"]}, "give either `runs`"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "is listed in `seeds` twice"),
        ({"baseline": "k2"}, "the baseline 'k2' is not one of the variants k1, k123"),
        ({"settings": {"seed": 3}}, "the setting seed is set by the ablation; remove it"),
        ({"variants": {"k1": {}, "../up": {}}}, "is not a valid variant name"),
        ({"variants": {"k1": {"instruction_fraction": 0.1}, "b": {}}}, "needs the plan's `instruction`"),
        ({"variants": {"k1": {"without": ["colour"]}, "b": {}}}, "variant k1: unknown capability 'colour'"),
        ({"variants": {"k1": {"questions": 0}, "b": {}}}, "variant k1: 0 questions requested"),
    ],
)
def test_what_is_wrong_in_a_plan_is_told_in_one_line(change: dict[str, object], told: str, tmp_path: Path) -> None:
    plan = yaml.safe_load(EVIDENCE.read_text(encoding="utf-8"))
    content = {**plan, "baseline": "k1", "variants": {"k1": {}, "k123": {}}, **change}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=told) as excinfo:
        read_plan(file)
    assert "\n" not in str(excinfo.value)


def test_a_plan_that_is_not_there_is_told_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "k-rnge", "--out", "nowhere"]) == 2
    assert "did you mean k-range?" in capsys.readouterr().err


def test_a_plan_is_shown_to_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "k-range", "--show"]) == 0
    assert capsys.readouterr().out == find_plan("k-range").read_text(encoding="utf-8")
