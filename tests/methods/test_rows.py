"""Tests assembling rows from journals: what is dropped and why; the order of runs and shards makes no difference."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import UsageError
from compact_hf.images.inspection import inspect_image
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.balance import Balance
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.records import Conversation, ImageInfo, Reject, Row, Turn, to_json
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.scenes.source import SceneSource

IDENTITY = {"source": "scenes", "method": "compact", "preset": "efficient@1", "seed": 0}
CAPABILITY_NAMES = ("color", "shape", "counting", "object_recognition", "scene_understanding")
SCENE_SOURCE = SceneSource(0, 24)


def make_turn(question: str, answer: str = "red", capability: str = "color") -> Turn:
    return Turn(question, answer, (capability,), (capability,), 90)


def make_image(number: int) -> ImageInfo:
    """Return an image that exists only in the journal; ids are in the order of numbers."""
    return ImageInfo(f"{number:032x}", f"scene:{number}", 64, 64, "scenes", "CC0-1.0")


def write_run(run: Path, image_turns: Sequence[tuple[ImageInfo, Sequence[Turn]]], **identity: Any) -> Path:
    """Write a run in which each image has these accepted turns."""
    with Journal.open(run, IDENTITY | identity) as journal:
        for image, turns in image_turns:
            journal.record_inspection(image.ref, "", image)
            outcome = Outcome(1, Conversation(image.image_id, 1, tuple(turns)), (), (), "writer", "judge")
            journal.record_outcome(FinishedImage(image.image_id, image.ref, to_json(outcome), len(turns)))
    return run


def read_questions(*runs: Path, **options: Any) -> dict[str, list[str]]:
    """Return image id -> questions, in the order of the rows."""
    rows = [item for item in iter_rows(runs, AssemblyOptions(**options)) if isinstance(item, Row)]
    return {row.image_id or "": [turn.question for turn in row.turns] for row in rows}


def read_rejects(*runs: Path, **options: Any) -> list[Reject]:
    return [item for item in iter_rows(runs, AssemblyOptions(**options)) if isinstance(item, Reject)]


def add_surplus_questions(images: Sequence[ImageInfo], *, seed: int = 0) -> list[tuple[ImageInfo, list[Turn]]]:
    """Return two to five questions for each image; some repeat one about another image."""
    rng = random.Random(seed)
    answers = ("red", "2", "dog")
    return [
        (
            image,
            [
                make_turn(f"What {index} of {capability}?", rng.choice(answers), capability)
                for index, capability in enumerate(CAPABILITY_NAMES[:count])
            ],
        )
        for image, count in ((image_info, rng.randint(2, 5)) for image_info in images)
    ]


def test_a_question_that_repeats_one_about_an_earlier_image_is_dropped_and_counted(tmp_path: Path) -> None:
    first = make_image(1), [make_turn("What color is the bus?"), make_turn("Who drives?", "man")]
    second = (
        make_image(2),
        [make_turn("What color is the Bus"), make_turn("Where is it?", "left"), make_turn("Who sits?", "dog")],
    )
    run = write_run(tmp_path / "run", [second, first])
    assert read_questions(run) == {
        make_image(1).image_id: ["What color is the bus?", "Who drives?"],
        make_image(2).image_id: ["Where is it?", "Who sits?"],
    }
    assert read_rejects(run) == [
        Reject("assembly", "near-duplicate question", "What color is the Bus", "what color is bus", ("color",))
    ]
    assert len(read_questions(run, max_similarity=1)[make_image(2).image_id]) == 3
    assert read_rejects(run, max_similarity=1) == []


def test_a_picture_that_is_left_with_one_question_is_dropped_and_held_against_nobody(tmp_path: Path) -> None:
    image_turns = [
        (make_image(1), [make_turn("What color is the bus?"), make_turn("Who drives?", "man")]),
        (make_image(2), [make_turn("What color is the bus?"), make_turn("Where is it?", "left")]),
        (make_image(3), [make_turn("Where is it?", "left"), make_turn("Who sits?", "dog")]),
    ]
    run = write_run(tmp_path / "run", image_turns)
    assert list(read_questions(run)) == [make_image(1).image_id, make_image(3).image_id]
    assert [(reject.reason, reject.subject, reject.detail) for reject in read_rejects(run)] == [
        ("near-duplicate question", "What color is the bus?", "what color is bus"),
        ("too few questions", "scene:2", "1 of 2 are left, 2 needed"),
    ]


def test_a_single_question_of_another_method_is_kept_if_it_is_new(tmp_path: Path) -> None:
    image_turns = [(make_image(number), [make_turn("What color is the bus?")]) for number in (1, 2)]
    run = write_run(tmp_path / "run", image_turns, method="augment")
    assert list(read_questions(run)) == [make_image(1).image_id]


def test_without_balance_a_surplus_is_kept_and_with_it_two_or_three_are_taken(tmp_path: Path) -> None:
    image_turns = add_surplus_questions([make_image(number) for number in range(60)])
    run = write_run(tmp_path / "run", image_turns)
    all_questions = read_questions(run, max_similarity=1)
    assert [len(questions) for questions in all_questions.values()] == [len(turns) for _, turns in image_turns]
    balances: list[Balance] = []
    balanced_questions = read_questions(run, max_similarity=1, balance=True, on_balance=balances.append)
    assert list(balanced_questions) == list(all_questions)
    assert {len(questions) for questions in balanced_questions.values()} == {2, 3}
    surplus = read_rejects(run, max_similarity=1, balance=True)
    assert {(reject.stage, reject.reason) for reject in surplus} == {("assembly", "surplus for balance")}
    assert len(surplus) == sum(map(len, all_questions.values())) - sum(map(len, balanced_questions.values()))
    for image_id, questions in all_questions.items():
        assert [question for question in questions if question in balanced_questions[image_id]] == balanced_questions[
            image_id
        ]
    (balance,) = balances
    assert (balance.before.questions, balance.after.questions) == (
        sum(map(len, all_questions.values())),
        sum(map(len, balanced_questions.values())),
    )
    assert balance.before.capabilities < balance.after.capabilities


def test_balance_takes_only_from_what_repeats_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", add_surplus_questions([make_image(number) for number in range(60)]))
    all_questions = read_questions(run)
    balanced_questions = read_questions(run, balance=True)
    assert 3 < len(balanced_questions) < 60
    assert balanced_questions.keys() == all_questions.keys()
    assert all(set(questions) <= set(all_questions[image_id]) for image_id, questions in balanced_questions.items())
    reasons = Counter(reject.reason for reject in read_rejects(run, balance=True))
    assert reasons.keys() == {"near-duplicate question", "too few questions", "surplus for balance"}
    assert {name: reasons[name] for name in ("near-duplicate question", "too few questions")} == Counter(
        reject.reason for reject in read_rejects(run)
    )


def test_a_picture_that_is_gone_repeats_nothing_and_balances_nothing(tmp_path: Path) -> None:
    image_turns = [
        (make_image(number), [make_turn("What color?"), make_turn("Who drives?", "man")]) for number in (1, 2)
    ]
    run = write_run(tmp_path / "run", image_turns)
    with Journal.open(run, IDENTITY) as journal:
        journal.record_inspection("scene:1", "", Reject("picture", "gone", "scene:1"))
    assert list(read_questions(run)) == list(read_questions(run, balance=True)) == [make_image(2).image_id]
    assert Counter(reject.reason for reject in read_rejects(run, balance=True)) == {"gone": 1, "picture is gone": 1}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[ImageInfo, list[Turn]]]:
    """Two to five questions about each of a few scenes that can be read."""
    inspections = [inspect_image(SCENE_SOURCE, ref) for ref in SCENE_SOURCE.refs()]
    return add_surplus_questions([image for image in inspections if isinstance(image, ImageInfo)])


@pytest.mark.parametrize("options", [{}, {"balance": True}, {"balance": True, "max_similarity": 1}], ids=str)
def test_shards_in_any_order_give_the_files_of_the_whole_run(
    drawn: list[tuple[ImageInfo, list[Turn]]], options: dict[str, Any], tmp_path: Path
) -> None:
    def assemble_parquet(*runs: Path) -> dict[str, bytes]:
        out = tmp_path / f"release-{len(list(tmp_path.iterdir()))}"
        assemble(runs, out, version="1.0.0", **options)
        assert validate(out).counts == {}
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.parquet")}

    expected = assemble_parquet(write_run(tmp_path / "whole", drawn))
    directory = tmp_path / "shards"
    shards = [
        write_run(directory / f"shard-{index}-of-3", drawn[index - 1 :: 3][::-1], shard=f"{index}/3")
        for index in (1, 2, 3)
    ]
    assert assemble_parquet(*shards) == assemble_parquet(*reversed(shards)) == assemble_parquet(directory) == expected


def test_of_a_picture_in_two_shards_the_same_copy_counts_in_any_order(tmp_path: Path) -> None:
    image, duplicate = make_image(1), ImageInfo(make_image(1).image_id, "scene:2", 64, 64, "scenes")
    shards = [
        write_run(tmp_path / "1", [(duplicate, [make_turn("Which?"), make_turn("Where?")])], shard="1/2"),
        write_run(tmp_path / "2", [(image, [make_turn("What?"), make_turn("Who?")])], shard="2/2"),
    ]
    assert read_questions(*shards) == read_questions(*reversed(shards)) == {image.image_id: ["What?", "Who?"]}
    assert [reject.reason for reject in read_rejects(*shards)] == ["picture in an earlier run"]


def test_of_a_picture_in_two_runs_the_first_in_the_order_given_counts(tmp_path: Path) -> None:
    first_run = write_run(tmp_path / "1", [(make_image(1), [make_turn("Which?"), make_turn("Where?")])])
    second_run = write_run(tmp_path / "2", [(make_image(1), [make_turn("What?"), make_turn("Who?")])], seed=1)
    assert read_questions(first_run, second_run) == {make_image(1).image_id: ["Which?", "Where?"]}
    assert read_questions(second_run, first_run) == {make_image(1).image_id: ["What?", "Who?"]}


def test_what_makes_no_conversations_and_what_is_no_share_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [], method="annotate")
    with pytest.raises(UsageError, match="is a run of annotate, which makes no conversations: leave it out"):
        read_questions(run)
    with pytest.raises(UsageError, match="--max-similarity 90 is out of range: give a number from 0 to 1"):
        read_questions(write_run(tmp_path / "other", []), max_similarity=90)
    with pytest.raises(UsageError, match="is not a run"):
        read_questions(tmp_path / "missing")
