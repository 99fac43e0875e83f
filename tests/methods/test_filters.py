"""Tests the filters of drafts and the verification: what is dropped, and for which reason."""

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
ACCEPTED_TURN = Turn("How many red boats lie at the pier?", "3", COMBINATION, COMBINATION, 90)


def make_draft(question: str = "What color are both kites?", answer: str = "green", confidence: int = 90) -> Draft:
    return Draft(question, answer, confidence, COMBINATION)


def make_turn() -> Turn:
    return Turn("What color are both kites?", "green", COMBINATION, COMBINATION, 90)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (make_draft(), None),
        (make_draft(question=""), "empty question or answer"),
        (make_draft(answer=""), "empty question or answer"),
        (make_draft(question="<image> What color are the kites?"), "image placeholder in the text"),
        (make_draft(answer="Not visible."), "uninformative answer"),
        (make_draft(answer="N/A"), "uninformative answer"),
        (make_draft(answer="none"), "uninformative answer"),
        (make_draft(answer="they are both of a bright kind of green"), "long answer"),
        (make_draft(answer="green" * 100), "long answer"),
        (make_draft(question="What color " * 100), "long question"),
        (make_draft(question="What\x00 color are both kites?"), "control character"),
        (make_draft(answer="gr\x1b[31meen"), "control character"),
        (make_draft(answer="\u202eneerg"), "control character"),
        (make_draft(answer="سبز\u200cرنگ"), None),
        (make_draft(confidence=70), None),
        (make_draft(confidence=69), "low confidence"),
        (make_draft(question="What color is the kite, and how many boats are there?"), "joined questions"),
        (make_draft(question="What color is the kite and on which side is the boat?"), "joined questions"),
        (make_draft(question="What color is the kite? How many boats are there?"), "joined questions"),
        (make_draft(question="What color is the kite and is it in the air?"), "joined questions"),
        (make_draft(question="What color is the kite, and who holds it?"), "joined questions"),
        (make_draft(question="What color is the kite that a man holds and is in the air?"), None),
        (make_draft(question="What color is the kite of the girl who runs and who is barefoot?"), None),
        (make_draft(question="In this place, what color is the kite?"), None),
        (make_draft(question="What color are the kite and the boat that is moored?"), None),
        (make_draft(question="What color is the green kite?"), "answer in the question"),
        (make_draft(question="Is the kite green or blue?"), None),
        (make_draft(question="What color is the greenest kite?"), None),
        (make_draft(question="How many red boats lie near the pier?", answer="2"), "repeats a question"),
        (make_draft(question="How many red kites fly over the sea?", answer="2"), None),
    ],
)
def test_each_check_drops_what_it_is_there_for(written: Draft, reason: str | None) -> None:
    failure = filters.draft_reject_reason(written, [ACCEPTED_TURN], PAPER)
    assert (failure[0] if failure else None) == reason


def make_reply(text: str = "", refused: str = "") -> Reply:
    return Reply("key", text=text, refused=refused, model="m")


def parse_draft(reply: Reply) -> Draft | Reject:
    (result,) = filters.parse_drafts(reply, [COMBINATION])
    return result


def parse_verdict(reply: Reply) -> Verdict | Reject:
    (result,) = verification.parse_verdicts(reply, [make_draft()])
    return result


@pytest.mark.parametrize(
    ("came", "reason"),
    [
        (make_reply('{"question": " What\\n color? ", "answer": "red", "confidence": 80}'), None),
        (make_reply(refused="finish reason SAFETY"), "declined"),
        (make_reply('{"question": "What color?", "answer": "r'), "malformed reply"),
        (make_reply('{"question": "What color?", "answer": 3, "confidence": 80}'), "malformed reply"),
        (make_reply('{"question": "What color?", "answer": "red", "confidence": 101}'), "malformed reply"),
        (make_reply('{"question": "What color?", "answer": "red"}'), "malformed reply"),
        (make_reply("[]"), "malformed reply"),
    ],
)
def test_a_reply_becomes_a_draft_or_a_reject(came: Reply, reason: str | None) -> None:
    result = parse_draft(came)
    if reason is None:
        assert result == Draft("What color?", "red", 80, COMBINATION)
    else:
        assert isinstance(result, Reject)
        assert (result.reason, result.capabilities) == (reason, COMBINATION)


DRAFT_JSON = '{\n "question": "What color?",\n "answer": "red", "confidence": 80}'


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{DRAFT_JSON}\n```",
        f"```\n{DRAFT_JSON}\n```\n",
        f"\n```JSON\r\n{DRAFT_JSON}```",
        f"```json  \n{DRAFT_JSON}\n  ```",
        f"<think>Red.</think>Here you are:\n```json\n{DRAFT_JSON}\n```</s>",
    ],
)
def test_json_within_other_text_is_read(text: str) -> None:
    assert parse_draft(make_reply(text)) == Draft("What color?", "red", 80, COMBINATION)
    verdict_json = text.replace(DRAFT_JSON, '{"capabilities": ["color", "counting"], "answer": "3"}')
    assert parse_verdict(make_reply(verdict_json)) == Verdict(COMBINATION, "3")
    blind_json = text.replace(DRAFT_JSON, '{"answer": "green"}')
    assert verification.parse_blind_answers(make_reply(blind_json), [make_turn()]) == ["green"]


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{DRAFT_JSON}",  # the fence is truncated, so the content may be too
        f"```json\n{DRAFT_JSON[:-1]}\n```",
        f"```json\n{DRAFT_JSON}\n```\n```json\n{DRAFT_JSON}\n```",
        "```json",
        "``````",
    ],
)
def test_incomplete_and_ambiguous_json_is_not_repaired(text: str) -> None:
    result = parse_draft(make_reply(text))
    assert isinstance(result, Reject)
    assert result.reason == "malformed reply"


@given(st.text())
def test_whatever_a_teacher_sends_is_a_draft_or_a_reject(text: str) -> None:
    assert isinstance(parse_draft(make_reply(text)), Draft | Reject)
    assert isinstance(parse_verdict(make_reply(text)), Verdict | Reject)


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
    failure = verification.verdict_reject_reason(make_draft(), Verdict(needed, "blue"), PAPER)
    assert (failure[0] if failure else None) == reason


subsets = st.sets(st.sampled_from(sorted(CAPABILITIES)), min_size=1).map(lambda names: tuple(sorted(names)))


@given(subsets, subsets)
def test_acceptance_is_equality_of_sets(asked: tuple[str, ...], needed: tuple[str, ...]) -> None:
    is_accepted = verification.verdict_reject_reason(Draft("Q?", "a", 90, asked), Verdict(needed, "b"), PAPER) is None
    assert is_accepted == (set(asked) == set(needed))


@pytest.mark.parametrize(("answer", "reason"), [("Green.", None), ("blue", "answer not confirmed")])
def test_a_strict_preset_wants_the_verifiers_own_answer_to_agree(answer: str, reason: str | None) -> None:
    failure = verification.verdict_reject_reason(
        make_draft(), Verdict(COMBINATION, answer), get_preset("paper", strict=True)
    )
    assert (failure[0] if failure else None) == reason


@pytest.mark.parametrize(
    ("came", "guess"),
    [
        (make_reply('{"answer": "The green"}'), "The green"),
        (make_reply('{"answer": "blue"}'), ""),
        (make_reply("cut off"), ""),
        (make_reply(refused="finish reason SAFETY"), ""),
    ],
)
def test_only_the_turns_own_answer_counts_as_guessed(came: Reply, guess: str) -> None:
    assert verification.parse_blind_answers(came, [make_turn()]) == [guess]


def test_the_order_and_repetition_of_a_verdict_do_not_matter() -> None:
    text = json.dumps({"capabilities": ["counting", "color", "counting"], "answer": "3"})
    assert parse_verdict(make_reply(text)) == Verdict(COMBINATION, "3")


def test_a_capability_that_does_not_exist_is_a_malformed_verdict() -> None:
    result = parse_verdict(make_reply('{"capabilities": ["telepathy"], "answer": "3"}'))
    assert isinstance(result, Reject)
    assert result.reason == "malformed verdict"


def test_the_papers_parameters() -> None:
    preset = get_preset("paper")
    assert (preset.ks, preset.min_confidence, preset.max_overlap) == ((1, 2, 3), 70, 0.6)
    assert (preset.max_rounds, preset.max_turns, preset.min_turns) == (10, 3, 2)


THREE_COMBINATIONS = (("color", "shape"), ("color", "counting"), ("shape", "counting"))


def drafts_json(*items: dict[str, object]) -> str:
    return json.dumps({"drafts": items})


def make_item(number: int, *, supported: bool = True, **overrides: object) -> dict[str, object]:
    content = {"question": "What?", "answer": "red", "confidence": 90} if supported else {}
    return {
        "number": number,
        "supported": supported,
        "question": "",
        "answer": "",
        "confidence": 0,
        **content,
        **overrides,
    }


def test_several_drafts_are_read_by_number_and_one_that_is_wrong_costs_no_other() -> None:
    results = filters.parse_drafts(
        make_reply(drafts_json(make_item(3), make_item(1), make_item(9))), THREE_COMBINATIONS
    )
    assert [result.capabilities for result in results] == list(THREE_COMBINATIONS)
    assert [getattr(result, "reason", "") for result in results] == ["", "malformed reply", ""]
    repeated_results = filters.parse_drafts(
        make_reply(drafts_json(make_item(1), make_item(2), make_item(2), make_item(3))), THREE_COMBINATIONS
    )
    assert [getattr(result, "reason", "") for result in repeated_results] == ["", "malformed reply", ""]


def test_a_combination_can_be_declined_by_itself() -> None:
    results = filters.parse_drafts(
        make_reply(drafts_json(make_item(1), make_item(2, supported=False), make_item(3))), THREE_COMBINATIONS
    )
    assert [getattr(result, "reason", "") for result in results] == ["", "declined", ""]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        drafts_json(make_item(1))[:-3],
        drafts_json(make_item(1, answer=3)),
        drafts_json(make_item(1, confidence=101)),
    ],
)
def test_a_reply_with_several_drafts_that_breaks_the_schema_is_dropped_whole(text: str) -> None:
    results = filters.parse_drafts(make_reply(text), THREE_COMBINATIONS)
    assert [getattr(result, "reason", "") for result in results] == ["malformed reply"] * 3


def test_several_verdicts_and_answers_are_read_by_number() -> None:
    drafts = [Draft(f"What {index}?", "red", 90, combination) for index, combination in enumerate(THREE_COMBINATIONS)]
    verdicts = [{"number": number, "capabilities": ["color"], "answer": str(number)} for number in (2, 1)]
    results = verification.parse_verdicts(make_reply(json.dumps({"verdicts": verdicts})), drafts)
    assert results[:2] == [Verdict(("color",), "1"), Verdict(("color",), "2")]
    assert isinstance(results[2], Reject)
    assert (results[2].reason, results[2].subject) == ("malformed verdict", "What 2?")
    answers = [{"number": 2, "answer": "red"}, {"number": 1, "answer": "blue"}]
    turns = [Turn(draft.question, draft.answer, draft.capabilities, draft.capabilities, 90) for draft in drafts]
    assert verification.parse_blind_answers(make_reply(json.dumps({"answers": answers})), turns) == ["", "red", ""]


def test_every_prompt_states_the_rule_and_never_the_answer() -> None:
    for prompt in (teacher_several_prompt(THREE_COMBINATIONS), verifier_several_prompt(["What is it?"])):
        assert NEEDED_RULE in prompt
    assert "1. color, shape\n2. color, counting\n3. shape, counting" in teacher_several_prompt(THREE_COMBINATIONS)
    assert "1. Why?\n2. Where?" in verifier_several_prompt(["Why?", "Where?"])


def test_a_question_answered_without_the_image_keeps_the_model_that_judged_it() -> None:
    encoded_image = EncodedImage(lambda: b"", ref="a.jpg", max_edge=64)
    process = verify_drafts("0" * 32, encoded_image, [make_draft()], get_preset("paper", strict=True))
    next(process)
    verdict = Reply("key", text=json.dumps({"capabilities": COMBINATION, "answer": "green"}), model="model-1")
    (blind_request,) = process.send([verdict])
    assert blind_request.encoded_image is None
    with pytest.raises(StopIteration) as excinfo:
        process.send([Reply("key", text='{"answer": "green"}', model="model-2")])
    ((reject, model),) = excinfo.value.value
    assert (reject.reason, reject.capabilities, model) == ("answerable without the picture", COMBINATION, "model-1")
