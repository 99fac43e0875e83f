"""Tests properties of scene questions: answers are right, all parts are needed, and questions can be parsed again."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import UnknownCapabilityError
from compact_hf.scenes.questions import (
    UNANSWERABLE,
    SceneQuestion,
    analyze_question,
    make_question,
    supported_combinations,
)
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.search import index_scene

from .reader import parse_question

seeds = st.integers(min_value=0, max_value=10**6)


@st.composite
def scene_questions(draw: st.DrawFn) -> tuple[int, SceneQuestion]:
    """Draw the seed of a scene and a question about it, with k from 1 to 5."""
    seed = draw(seeds)
    combos = supported_combinations(build_scene(seed), draw(st.integers(1, 5)))
    assume(combos)
    question = make_question(build_scene(seed), draw(st.sampled_from(combos)), random.Random(draw(st.integers(0, 99))))
    assert question is not None
    return seed, question


@given(scene_questions())
def test_answer_is_what_an_independent_reader_finds(case: tuple[int, SceneQuestion]) -> None:
    seed, question = case
    assert parse_question(build_scene(seed), question.question).answer() == question.answer


@given(scene_questions())
def test_question_says_exactly_its_capabilities_and_needs_each(case: tuple[int, SceneQuestion]) -> None:
    seed, question = case
    reading = parse_question(build_scene(seed), question.question)
    parts = {*reading.conditions, *(["counting"] if reading.count else [])}
    assert {reading.asked_capability, *parts} == set(question.capabilities)
    assert len(parts) == len(question.capabilities) - 1
    for part in parts:
        assert reading.referents(without=part) != reading.referents(), f"{part} is superfluous: {question.question}"


@given(scene_questions())
def test_answer_is_short_and_not_in_the_question(case: tuple[int, SceneQuestion]) -> None:
    _, question = case
    words = re.findall(r"[\w-]+", question.question)
    assert 1 <= len(question.answer.split()) <= 2
    assert not set(question.answer.split()) & set(words)


@given(scene_questions())
def test_question_is_one_sentence_of_plain_english(case: tuple[int, SceneQuestion]) -> None:
    text = case[1].question
    assert re.fullmatch(r"[A-Z][^.?!]*\?", text)
    assert "  " not in text
    assert "{" not in text
    assert " a a" not in text
    assert " a o" not in text


@given(scene_questions())
def test_verifier_finds_the_same_from_text_and_truth_alone(case: tuple[int, SceneQuestion]) -> None:
    seed, question = case
    assert analyze_question(build_scene(seed), question.question) == question


@given(seeds, st.integers(1, 3))
def test_exactly_the_supported_combinations_have_a_question(seed: int, k: int) -> None:
    scene = build_scene(seed)
    rng = random.Random(seed)
    answerable = {combo for combo in combinations(CAPABILITIES, k) if make_question(scene, combo, rng) is not None}
    assert answerable == set(supported_combinations(scene, k))


@pytest.mark.parametrize("k", [4, 5])
def test_of_four_and_five_too_exactly_the_supported_combinations_have_a_question(k: int) -> None:
    scene = max(map(build_scene, range(8)), key=lambda scene: len(supported_combinations(scene, k)))
    rng = random.Random(0)
    answerable = [combo for combo in combinations(CAPABILITIES, k) if make_question(scene, combo, rng) is not None]
    assert answerable == list(supported_combinations(scene, k)) != []


@given(seeds)
def test_superfluous_phrase_is_not_needed(seed: int) -> None:
    scene = build_scene(seed)
    kinds = [obj.kind for obj in scene.objects]
    unique_objects = [obj for obj in scene.objects if kinds.count(obj.kind) == 1 and obj.kind_info.category != "person"]
    assume(unique_objects)
    for obj in unique_objects:
        result = analyze_question(scene, f"What color is the {obj.kind} in the {obj.depth}?")
        assert result is not None
        assert (result.capabilities, result.answer) == (("color",), obj.color)


@given(seeds)
def test_what_is_not_there_is_unanswerable(seed: int) -> None:
    scene = build_scene(seed)
    missing = next(kind for kind in ("sofa", "crab", "tractor") if kind not in {obj.kind for obj in scene.objects})
    result = analyze_question(scene, f"What color is the {missing}?")
    assert result is not None
    assert result.answer == UNANSWERABLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is the capital of France?",
        "What color is the unicorn?",
        "What color is the dog and how many cats are there?",
        "What color is the dog",
    ],
)
def test_other_questions_are_not_understood(text: str) -> None:
    assert analyze_question(build_scene(0), text) is None


def test_same_generator_asks_the_same_and_wording_varies() -> None:
    scene = build_scene(3)
    combo = supported_combinations(scene, 2)[0]
    assert make_question(scene, combo, random.Random(5)) == make_question(scene, combo, random.Random(5))
    assert len({make_question(scene, combo, random.Random(i)) for i in range(40)}) >= 5


@pytest.mark.parametrize("others", [(), ("color",), ("spatial_recognition",)])
def test_counts_are_rarely_one_which_could_be_guessed(others: tuple[str, ...]) -> None:
    questions = (make_question(build_scene(seed), ("counting", *others), random.Random(seed)) for seed in range(60))
    answers = [question.answer for question in questions if question is not None]
    assert len(answers) > 50
    assert answers.count("1") < len(answers) / 10


def test_nothing_is_placed_beside_a_kind_that_belongs_to_a_place() -> None:
    """A question about the thing to the left of the tractor would reveal that the place is a farm."""
    scenes = [build_scene(seed) for seed in range(100)]
    anchors = {name for scene in scenes for name in index_scene(scene).anchors}
    home_kinds = {obj.kind for scene in scenes for obj in scene.objects if obj.kind_info.home_places}
    assert anchors
    assert home_kinds
    assert not anchors & home_kinds


def test_unknown_capability_is_refused() -> None:
    with pytest.raises(UnknownCapabilityError, match="smell"):
        make_question(build_scene(0), ("smell",), random.Random(0))


def test_all_175_combinations_up_to_three_are_asked_of_some_scene() -> None:
    missing = {combo for k in (1, 2, 3) for combo in combinations(CAPABILITIES, k)}
    for seed in range(600):
        scene = build_scene(seed)
        missing -= {combo for combo in missing if make_question(scene, combo, random.Random(seed)) is not None}
        if not missing:
            return
    pytest.fail(f"no scene has a question for {sorted(missing)}")


@pytest.mark.parametrize(("k", "spread"), [(4, 60), (5, 15)])
def test_four_and_five_capabilities_are_asked_in_many_combinations(k: int, spread: int) -> None:
    combos = {combo for seed in range(50) for combo in supported_combinations(build_scene(seed), k)}
    assert len(combos) >= spread
    assert {name for combo in combos for name in combo} == set(CAPABILITIES)
