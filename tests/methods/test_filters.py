"""Drafts and verdicts: what is dropped, and for which reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES, NEEDED_RULE
from compact_hf.methods import verification
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.preset import PAPER, get_preset
from compact_hf.methods.compact.prompts import teacher_several_prompt, verifier_several_prompt
from compact_hf.methods.verification import verify_drafts
from compact_hf.records import Draft, Reject, Turn, Verdict
from compact_hf.teachers.base import EncodedImage, Reply

COMBINATION = ("color", "counting")
ACCEPTED = Turn("How many red boats lie at the pier?", "3", COMBINATION, COMBINATION, 90)


def draft(question: str = "What color are both kites?", answer: str = "green", confidence: int = 90) -> Draft:
    return Draft(question, answer, confidence, COMBINATION)


def turn() -> Turn:
    return Turn("What color are both kites?", "green", COMBINATION, COMBINATION, 90)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (draft(), None),
        (draft(question=""), "empty question or answer"),
        (draft(answer=""), "empty question or answer"),
        (draft(question="<image> What color are the kites?"), "image placeholder in the text"),
        (draft(answer="Not visible."), "uninformative answer"),
        (draft(answer="N/A"), "uninformative answer"),
        (draft(answer="none"), "uninformative answer"),
        (draft(answer="they are both of a bright kind of green"), "long answer"),
        (draft(answer="green" * 100), "long answer"),
        (draft(question="What color " * 100), "long question"),
        (draft(question="What\x00 color are both kites?"), "control character"),
        (draft(answer="gr\x1b[31meen"), "control character"),
        (draft(answer="\u202eneerg"), "control character"),
        (draft(answer="سبز\u200cرنگ"), None),
        (draft(confidence=70), None),
        (draft(confidence=69), "low confidence"),
        (draft(question="What color is the kite, and how many boats are there?"), "joined questions"),
        (draft(question="What color is the kite and on which side is the boat?"), "joined questions"),
        (draft(question="What color is the kite? How many boats are there?"), "joined questions"),
        (draft(question="What color is the kite and is it in the air?"), "joined questions"),
        (draft(question="What color is the kite, and who holds it?"), "joined questions"),
        (draft(question="What color is the kite that a man holds and is in the air?"), None),
        (draft(question="What color is the kite of the girl who runs and who is barefoot?"), None),
        (draft(question="In this place, what color is the kite?"), None),
        (draft(question="What color are the kite and the boat that is moored?"), None),
        (draft(question="What color is the green kite?"), "answer in the question"),
        (draft(question="Is the kite green or blue?"), None),
        (draft(question="What color is the greenest kite?"), None),
        (draft(question="How many red boats lie near the pier?", answer="2"), "repeats a question"),
        (draft(question="How many red kites fly over the sea?", answer="2"), None),
    ],
)
def test_each_check_drops_what_it_is_there_for(written: Draft, reason: str | None) -> None:
    failed = filters.draft_reject_reason(written, [ACCEPTED], PAPER)
    assert (failed[0] if failed else None) == reason


def reply(text: str = "", refused: str = "") -> Reply:
    return Reply("key", text=text, refused=refused, model="m")


def read_one(came: Reply) -> Draft | Reject:
    (read,) = filters.parse_drafts(came, [COMBINATION])
    return read


def judge_one(came: Reply) -> Verdict | Reject:
    (read,) = verification.parse_verdicts(came, [draft()])
    return read


@pytest.mark.parametrize(
    ("came", "reason"),
    [
        (reply('{"question": " What\\n color? ", "answer": "red", "confidence": 80}'), None),
        (reply(refused="finish reason SAFETY"), "declined"),
        (reply('{"question": "What color?", "answer": "r'), "malformed reply"),
        (reply('{"question": "What color?", "answer": 3, "confidence": 80}'), "malformed reply"),
        (reply('{"question": "What color?", "answer": "red", "confidence": 101}'), "malformed reply"),
        (reply('{"question": "What color?", "answer": "red"}'), "malformed reply"),
        (reply("[]"), "malformed reply"),
    ],
)
def test_a_reply_becomes_a_draft_or_a_reject(came: Reply, reason: str | None) -> None:
    read = read_one(came)
    if reason is None:
        assert read == Draft("What color?", "red", 80, COMBINATION)
    else:
        assert isinstance(read, Reject)
        assert (read.reason, read.capabilities) == (reason, COMBINATION)


JSON = '{\n "question": "What color?",\n "answer": "red", "confidence": 80}'


@pytest.mark.parametrize(
    "text", [f"```json\n{JSON}\n```", f"```\n{JSON}\n```\n", f"\n```JSON\r\n{JSON}```", f"```json  \n{JSON}\n  ```"]
)
def test_json_in_a_fence_is_read(text: str) -> None:
    assert read_one(reply(text)) == Draft("What color?", "red", 80, COMBINATION)
    verdict = text.replace(JSON, '{"capabilities": ["color", "counting"], "answer": "3"}')
    assert judge_one(reply(verdict)) == Verdict(COMBINATION, "3")
    blind = text.replace(JSON, '{"answer": "green"}')
    assert verification.parse_blind_answers(reply(blind), [turn()]) == ["green"]


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{JSON}",  # the fence was cut, so who knows what else was
        f"```json\n{JSON[:-1]}\n```",
        f"```python\n{JSON}\n```",
        f"Here you are:\n```json\n{JSON}\n```",
        f"```json\n{JSON}\n```\n```json\n{JSON}\n```",
        "```json",
        "``````",
    ],
)
def test_nothing_else_around_json_is_mended(text: str) -> None:
    read = read_one(reply(text))
    assert isinstance(read, Reject)
    assert read.reason == "malformed reply"


@given(st.text())
def test_whatever_a_teacher_sends_is_a_draft_or_a_reject(text: str) -> None:
    assert isinstance(read_one(reply(text)), Draft | Reject)
    assert isinstance(judge_one(reply(text)), Verdict | Reject)


@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        (("color", "counting"), None),
        (("color", "shape", "counting"), "needs more capabilities"),
        (("color",), "needs fewer capabilities"),
        ((), "needs fewer capabilities"),
        (("color", "shape"), "needs other capabilities"),
        (("shape",), "needs other capabilities"),
    ],
)
def test_a_draft_passes_only_with_exactly_its_capabilities(needed: tuple[str, ...], reason: str | None) -> None:
    failed = verification.verdict_reject_reason(draft(), Verdict(needed, "blue"), PAPER)
    assert (failed[0] if failed else None) == reason


subsets = st.sets(st.sampled_from(sorted(CAPABILITIES)), min_size=1).map(lambda names: tuple(sorted(names)))


@given(subsets, subsets)
def test_acceptance_is_equality_of_sets(asked: tuple[str, ...], needed: tuple[str, ...]) -> None:
    accepted = verification.verdict_reject_reason(Draft("Q?", "a", 90, asked), Verdict(needed, "b"), PAPER) is None
    assert accepted == (set(asked) == set(needed))


@pytest.mark.parametrize(("answer", "reason"), [("Green.", None), ("blue", "answer not confirmed")])
def test_a_strict_preset_wants_the_verifiers_own_answer_to_agree(answer: str, reason: str | None) -> None:
    failed = verification.verdict_reject_reason(draft(), Verdict(COMBINATION, answer), get_preset("paper", strict=True))
    assert (failed[0] if failed else None) == reason


@pytest.mark.parametrize(
    ("came", "guess"),
    [
        (reply('{"answer": "The green"}'), "The green"),
        (reply('{"answer": "blue"}'), ""),
        (reply("cut off"), ""),
        (reply(refused="finish reason SAFETY"), ""),
    ],
)
def test_only_the_turns_own_answer_counts_as_guessed(came: Reply, guess: str) -> None:
    assert verification.parse_blind_answers(came, [turn()]) == [guess]


def test_the_order_and_repetition_of_a_verdict_do_not_matter() -> None:
    text = json.dumps({"capabilities": ["counting", "color", "counting"], "answer": "3"})
    assert judge_one(reply(text)) == Verdict(COMBINATION, "3")


def test_a_capability_that_does_not_exist_is_a_malformed_verdict() -> None:
    read = judge_one(reply('{"capabilities": ["telepathy"], "answer": "3"}'))
    assert isinstance(read, Reject)
    assert read.reason == "malformed verdict"


def test_the_papers_parameters() -> None:
    preset = get_preset("paper")
    assert (preset.ks, preset.min_confidence, preset.max_overlap) == ((1, 2, 3), 70, 0.6)
    assert (preset.max_rounds, preset.max_turns, preset.min_turns) == (10, 3, 2)


THREE = (("color", "shape"), ("color", "counting"), ("shape", "counting"))


def numbered(*items: dict[str, object]) -> str:
    return json.dumps({"drafts": items})


def item(number: int, *, supported: bool = True, **changed: object) -> dict[str, object]:
    filled = {"question": "What?", "answer": "red", "confidence": 90} if supported else {}
    return {
        "number": number,
        "supported": supported,
        "question": "",
        "answer": "",
        "confidence": 0,
        **filled,
        **changed,
    }


def test_several_drafts_are_read_by_number_and_one_that_is_wrong_costs_no_other() -> None:
    read = filters.parse_drafts(reply(numbered(item(3), item(1), item(9))), THREE)
    assert [one.capabilities for one in read] == list(THREE)
    assert [getattr(one, "reason", "") for one in read] == ["", "malformed reply", ""]
    twice = filters.parse_drafts(reply(numbered(item(1), item(2), item(2), item(3))), THREE)
    assert [getattr(one, "reason", "") for one in twice] == ["", "malformed reply", ""]


def test_a_combination_can_be_declined_by_itself() -> None:
    read = filters.parse_drafts(reply(numbered(item(1), item(2, supported=False), item(3))), THREE)
    assert [getattr(one, "reason", "") for one in read] == ["", "declined", ""]


@pytest.mark.parametrize(
    "text", ["[]", numbered(item(1))[:-3], numbered(item(1, answer=3)), numbered(item(1, confidence=101))]
)
def test_a_reply_with_several_drafts_that_breaks_the_schema_is_dropped_whole(text: str) -> None:
    read = filters.parse_drafts(reply(text), THREE)
    assert [getattr(one, "reason", "") for one in read] == ["malformed reply"] * 3


def test_several_verdicts_and_answers_are_read_by_number() -> None:
    drafts = [Draft(f"What {index}?", "red", 90, combination) for index, combination in enumerate(THREE)]
    verdicts = [{"number": number, "capabilities": ["color"], "answer": str(number)} for number in (2, 1)]
    read = verification.parse_verdicts(reply(json.dumps({"verdicts": verdicts})), drafts)
    assert read[:2] == [Verdict(("color",), "1"), Verdict(("color",), "2")]
    assert isinstance(read[2], Reject)
    assert (read[2].reason, read[2].subject) == ("malformed verdict", "What 2?")
    answers = [{"number": 2, "answer": "red"}, {"number": 1, "answer": "blue"}]
    turns = [Turn(one.question, one.answer, one.capabilities, one.capabilities, 90) for one in drafts]
    assert verification.parse_blind_answers(reply(json.dumps({"answers": answers})), turns) == ["", "red", ""]


def test_every_prompt_states_the_rule_and_never_the_answer() -> None:
    for prompt in (teacher_several_prompt(THREE), verifier_several_prompt(["What is it?"])):
        assert NEEDED_RULE in prompt
    assert "1. color, shape\n2. color, counting\n3. shape, counting" in teacher_several_prompt(THREE)
    assert "1. Why?\n2. Where?" in verifier_several_prompt(["Why?", "Where?"])


def test_a_question_answered_without_the_image_keeps_the_model_that_judged_it() -> None:
    exposure = EncodedImage(lambda: b"", ref="a.jpg", max_edge=64)
    judging = verify_drafts("0" * 32, exposure, [draft()], get_preset("paper", strict=True))
    next(judging)
    verdict = Reply("key", text=json.dumps({"capabilities": COMBINATION, "answer": "green"}), model="model-1")
    (blind,) = judging.send([verdict])
    assert blind.encoded_image is None
    with pytest.raises(StopIteration) as end:
        judging.send([Reply("key", text='{"answer": "green"}', model="model-2")])
    ((reject, model),) = end.value.value
    assert (reject.reason, reject.capabilities, model) == ("answerable without the picture", COMBINATION, "model-1")
