"""From journals to rows: what is dropped on the way and why, and that neither order nor shards leave a trace."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import JournalError, UsageError
from compact_hf.images.inspection import inspect_image
from compact_hf.methods.compact.balance import Balance
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.methods.compact.rows import iter_conversation_rows
from compact_hf.records import Conversation, ImageInfo, Reject, Row, Turn, to_json
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.scenes.source import SceneSource

IDENTITY = {"source": "scenes", "method": "compact", "preset": "efficient@1", "seed": 0}
ATOMS = ("color", "shape", "counting", "object_recognition", "scene_understanding")
SCENES = SceneSource(0, 24)


def turn(question: str, answer: str = "red", needed: str = "color") -> Turn:
    return Turn(question, answer, (needed,), (needed,), 90)


def picture(number: int) -> ImageInfo:
    """A picture that is only journalled; its id grows with its number."""
    return ImageInfo(f"{number:032x}", f"scene:{number}", 64, 64, "scenes", "CC0-1.0")


def journalled(run: Path, asked: Sequence[tuple[ImageInfo, Sequence[Turn]]], **identity: Any) -> Path:
    """Write a run in which each picture has these accepted turns."""
    with Journal.open(run, IDENTITY | identity) as journal:
        for of, turns in asked:
            journal.record_inspection(of.ref, "", of)
            outcome = Outcome(1, Conversation(of.image_id, 1, tuple(turns)), (), (), "writer", "judge")
            journal.record_outcome(FinishedImage(of.image_id, of.ref, to_json(outcome), len(turns)))
    return run


def rows_of(*runs: Path, **options: Any) -> dict[str, list[str]]:
    """Return image id -> questions, in the order in which the rows come."""
    rows = [item for item in iter_conversation_rows(runs, **options) if isinstance(item, Row)]
    return {row.image_id or "": [turn.question for turn in row.turns] for row in rows}


def dropped(*runs: Path, **options: Any) -> list[Reject]:
    return [item for item in iter_conversation_rows(runs, **options) if isinstance(item, Reject)]


def with_surplus(pictures: Sequence[ImageInfo], *, seed: int = 0) -> list[tuple[ImageInfo, list[Turn]]]:
    """Give each picture two to five questions; some repeat one about another picture."""
    rng = random.Random(seed)
    answers = ("red", "2", "dog")
    return [
        (of, [turn(f"What {at} of {needed}?", rng.choice(answers), needed) for at, needed in enumerate(ATOMS[:count])])
        for of, count in ((each, rng.randint(2, 5)) for each in pictures)
    ]


def test_a_question_that_repeats_one_about_an_earlier_image_is_dropped_and_counted(tmp_path: Path) -> None:
    first = picture(1), [turn("What color is the bus?"), turn("Who drives?", "man")]
    second = picture(2), [turn("What color is the Bus"), turn("Where is it?", "left"), turn("Who sits?", "dog")]
    run = journalled(tmp_path / "run", [second, first])
    assert rows_of(run) == {
        picture(1).image_id: ["What color is the bus?", "Who drives?"],
        picture(2).image_id: ["Where is it?", "Who sits?"],
    }
    assert dropped(run) == [
        Reject("assembly", "near-duplicate question", "What color is the Bus", "what color is bus", ("color",))
    ]
    assert len(rows_of(run, max_similarity=1)[picture(2).image_id]) == 3
    assert dropped(run, max_similarity=1) == []


def test_a_picture_that_is_left_with_one_question_is_dropped_and_held_against_nobody(tmp_path: Path) -> None:
    asked = [
        (picture(1), [turn("What color is the bus?"), turn("Who drives?", "man")]),
        (picture(2), [turn("What color is the bus?"), turn("Where is it?", "left")]),
        (picture(3), [turn("Where is it?", "left"), turn("Who sits?", "dog")]),
    ]
    run = journalled(tmp_path / "run", asked)
    assert list(rows_of(run)) == [picture(1).image_id, picture(3).image_id]
    assert [(reject.reason, reject.subject, reject.detail) for reject in dropped(run)] == [
        ("near-duplicate question", "What color is the bus?", "what color is bus"),
        ("too few questions", "scene:2", "1 of 2 are left, 2 needed"),
    ]


def test_a_single_question_of_another_method_is_kept_if_it_is_new(tmp_path: Path) -> None:
    asked = [(picture(number), [turn("What color is the bus?")]) for number in (1, 2)]
    run = journalled(tmp_path / "run", asked, method="augment")
    assert list(rows_of(run)) == [picture(1).image_id]


def test_without_balance_a_surplus_is_kept_and_with_it_two_or_three_are_taken(tmp_path: Path) -> None:
    asked = with_surplus([picture(number) for number in range(60)])
    run = journalled(tmp_path / "run", asked)
    whole = rows_of(run, max_similarity=1)
    assert [len(questions) for questions in whole.values()] == [len(turns) for _, turns in asked]
    told: list[Balance] = []
    even = rows_of(run, max_similarity=1, balance=True, on_balance=told.append)
    assert list(even) == list(whole)
    assert {len(questions) for questions in even.values()} == {2, 3}
    surplus = dropped(run, max_similarity=1, balance=True)
    assert {(reject.stage, reject.reason) for reject in surplus} == {("assembly", "surplus for balance")}
    assert len(surplus) == sum(map(len, whole.values())) - sum(map(len, even.values()))
    for image_id, questions in whole.items():
        assert [question for question in questions if question in even[image_id]] == even[image_id]
    (balance,) = told
    assert (balance.before.questions, balance.after.questions) == (
        sum(map(len, whole.values())),
        sum(map(len, even.values())),
    )
    assert balance.before.capabilities < balance.after.capabilities


def test_balance_takes_only_from_what_repeats_nothing(tmp_path: Path) -> None:
    run = journalled(tmp_path / "run", with_surplus([picture(number) for number in range(60)]))
    left = rows_of(run)
    even = rows_of(run, balance=True)
    assert 3 < len(even) < 60
    assert even.keys() == left.keys()
    assert all(set(questions) <= set(left[image_id]) for image_id, questions in even.items())
    reasons = Counter(reject.reason for reject in dropped(run, balance=True))
    assert reasons.keys() == {"near-duplicate question", "too few questions", "surplus for balance"}
    assert {name: reasons[name] for name in ("near-duplicate question", "too few questions")} == Counter(
        reject.reason for reject in dropped(run)
    )


def test_a_picture_that_is_gone_repeats_nothing_and_balances_nothing(tmp_path: Path) -> None:
    asked = [(picture(number), [turn("What color?"), turn("Who drives?", "man")]) for number in (1, 2)]
    run = journalled(tmp_path / "run", asked)
    with Journal.open(run, IDENTITY) as journal:
        journal.record_inspection("scene:1", "", Reject("picture", "gone", "scene:1"))
    assert list(rows_of(run)) == list(rows_of(run, balance=True)) == [picture(2).image_id]
    assert Counter(reject.reason for reject in dropped(run, balance=True)) == {"gone": 1, "picture is gone": 1}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[ImageInfo, list[Turn]]]:
    """Two to five questions about each of a few scenes that can be read."""
    looked = [inspect_image(SCENES, ref) for ref in SCENES.refs()]
    return with_surplus([of for of in looked if isinstance(of, ImageInfo)])


@pytest.mark.parametrize("options", [{}, {"balance": True}, {"balance": True, "max_similarity": 1}], ids=str)
def test_shards_in_any_order_give_the_files_of_the_whole_run(
    drawn: list[tuple[ImageInfo, list[Turn]]], options: dict[str, Any], tmp_path: Path
) -> None:
    def parquet(*runs: Path) -> dict[str, bytes]:
        out = tmp_path / f"release-{len(list(tmp_path.iterdir()))}"
        assemble(runs, out, version="1.0.0", **options)
        assert validate(out).counts == {}
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.parquet")}

    whole = parquet(journalled(tmp_path / "whole", drawn))
    folder = tmp_path / "shards"
    shards = [
        journalled(folder / f"shard-{index}-of-3", drawn[index - 1 :: 3][::-1], shard=f"{index}/3")
        for index in (1, 2, 3)
    ]
    assert parquet(*shards) == parquet(*reversed(shards)) == parquet(folder) == whole


def test_of_a_picture_in_two_shards_the_same_copy_counts_in_any_order(tmp_path: Path) -> None:
    one, other = picture(1), ImageInfo(picture(1).image_id, "scene:2", 64, 64, "scenes")
    shards = [
        journalled(tmp_path / "1", [(other, [turn("Which?"), turn("Where?")])], shard="1/2"),
        journalled(tmp_path / "2", [(one, [turn("What?"), turn("Who?")])], shard="2/2"),
    ]
    assert rows_of(*shards) == rows_of(*reversed(shards)) == {one.image_id: ["What?", "Who?"]}
    assert [reject.reason for reject in dropped(*shards)] == ["picture in an earlier run"]


def test_of_a_picture_in_two_runs_the_first_in_the_order_given_counts(tmp_path: Path) -> None:
    one = journalled(tmp_path / "1", [(picture(1), [turn("Which?"), turn("Where?")])])
    other = journalled(tmp_path / "2", [(picture(1), [turn("What?"), turn("Who?")])], seed=1)
    assert rows_of(one, other) == {picture(1).image_id: ["Which?", "Where?"]}
    assert rows_of(other, one) == {picture(1).image_id: ["What?", "Who?"]}


def test_what_makes_no_conversations_and_what_is_no_share_are_refused(tmp_path: Path) -> None:
    run = journalled(tmp_path / "run", [], method="annotate")
    with pytest.raises(UsageError, match="is a run of annotate, which makes no conversations; leave it out"):
        rows_of(run)
    with pytest.raises(UsageError, match="got --max-similarity 90; give a number from 0 to 1"):
        rows_of(journalled(tmp_path / "other", []), max_similarity=90)
    with pytest.raises(JournalError, match="is not a run"):
        rows_of(tmp_path / "missing")
