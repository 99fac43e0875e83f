"""Tests the preset `efficient`: it requests several questions at once, with the same checks as `paper`."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods import verification
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.conversation import Outcome, generate_conversation, parse_outcome
from compact_hf.methods.compact.preset import get_preset
from compact_hf.methods.compact.prompts import DraftsReply, VerdictsReply
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.generate import generate
from compact_hf.records import Draft, Reject, Verdict
from compact_hf.teachers.base import EncodedImage, Reply, Request
from compact_hf.testing.gemini import GeminiServer, content_response
from compact_hf.testing.scripted_model import ModelRequest
from tests.methods.runs import PRESETS, read_outcomes

WORDS = "boat pier kite sand wave shell crab towel rope sail".split()
ANSWERS = ["three", "3", "green", "Green.", "blue", "unknown", "", "a very long answer of more than eight words in all"]


class FakeTeacher:
    """Sends random replies as teacher and verifier, valid and invalid ones, and records what it sent by subject."""

    def __init__(self, seed: int, *, honesty: float) -> None:
        self._rng = random.Random(seed)
        self._honesty = honesty
        self.drafts: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
        self.verdicts: dict[str, list[Verdict]] = defaultdict(list)
        self.guesses: dict[str, list[str]] = defaultdict(list)

    def answer(self, request: Request) -> Reply:
        if self._rng.random() < 0.05:
            return Reply(request.key, "", "fake", refused="finish reason OTHER")
        subject = request.subject
        if isinstance(subject, Task):
            items = [
                self._make_draft(number, combination) for number, combination in enumerate(subject.combinations, 1)
            ]
            name, is_list = "drafts", len(subject.combinations) > 1
        elif request.encoded_image is not None:
            items = [self._make_verdict(number, question) for number, question in enumerate(subject.questions, 1)]
            name, is_list = "verdicts", len(subject.questions) > 1
        else:
            items = [self._make_guess(number, question) for number, question in enumerate(subject.questions, 1)]
            name, is_list = "answers", len(subject.questions) > 1
        if is_list:
            reply_items = items if name == "answers" else self._shuffle_items(items)
            return Reply(request.key, json.dumps({name: reply_items}), "fake")
        return Reply(request.key, json.dumps({key: items[0][key] for key in request.schema.model_fields}), "fake")

    def _shuffle_items(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._rng.shuffle(items)
        chance = self._rng.random()
        if chance < 0.1:
            return items[1:]
        return [*items, dict(items[0])] if chance < 0.2 else items

    def _make_draft(self, number: int, combination: tuple[str, ...]) -> dict[str, Any]:
        question = f"What {' '.join(self._rng.sample(WORDS, 3))}?"
        draft = Draft(question, self._rng.choice(ANSWERS), self._rng.choice([60, 70, 95]), combination)
        self.drafts[combination].append(draft)
        supported = self._rng.random() < 0.9
        return {
            "number": number,
            "supported": supported,
            "question": draft.question,
            "answer": draft.answer,
            "confidence": draft.confidence,
        }

    def _make_verdict(self, number: int, question: str) -> dict[str, Any]:
        combinations = [
            combination for combination, drafts in self.drafts.items() if question in {item.question for item in drafts}
        ]
        names = self._rng.choice(combinations) if self._rng.random() < self._honesty else tuple(CAPABILITIES)[:2]
        draft_answers = [
            draft.answer
            for combination in combinations
            for draft in self.drafts[combination]
            if draft.question == question
        ]
        verdict = Verdict(names, self._rng.choice(draft_answers if self._rng.random() < self._honesty else ANSWERS))
        self.verdicts[question].append(verdict)
        return {"number": number, "capabilities": list(names), "answer": verdict.answer}

    def _make_guess(self, number: int, question: str) -> dict[str, Any]:
        self.guesses[question].append(guess := self._rng.choice(ANSWERS))
        return {"number": number, "answer": guess}


def run_conversation(teacher: FakeTeacher, preset: str, strict: bool, seed: int) -> tuple[Outcome, list[Request]]:
    encoded_image = EncodedImage(lambda: b"", ref="a.jpg", max_edge=64)
    process = generate_conversation(
        "0" * 32, encoded_image, seed=seed, ks=(1, 2, 3), preset=get_preset(preset, strict=strict)
    )
    sent_requests: list[Request] = []
    try:
        requests = next(process)
        while True:
            sent_requests += requests
            requests = process.send([teacher.answer(request) for request in requests])
    except StopIteration as end:
        return parse_outcome(end.value.body), sent_requests


RUNS = st.tuples(st.integers(0, 10**6), st.sampled_from([0.5, 0.95]), st.sampled_from(PRESETS), st.booleans())


@given(RUNS)
def test_what_is_accepted_passes_every_check_of_drafts_and_verdicts(run: tuple[int, float, str, bool]) -> None:
    seed, honesty, name, strict = run
    teacher = FakeTeacher(seed, honesty=honesty)
    outcome, _ = run_conversation(teacher, name, strict, seed)
    preset = get_preset(name, strict=strict)
    if outcome.conversation is None:
        assert outcome.rejects[-1].reason == "too few questions"
        return
    turns = outcome.conversation.turns
    assert len(turns) >= preset.min_turns
    assert outcome.k == outcome.conversation.k
    for index, turn in enumerate(turns):
        draft = Draft(turn.question, turn.answer, turn.confidence, turn.capabilities)
        assert draft in teacher.drafts[turn.capabilities]
        assert len(turn.capabilities) == outcome.k
        assert filters.draft_reject_reason(draft, turns[:index], preset) is None
        accepting_verdicts = [
            item
            for item in teacher.verdicts[turn.question]
            if not verification.verdict_reject_reason(draft, item, preset)
        ]
        assert accepting_verdicts
        assert turn.verified_capabilities == turn.capabilities
        blind_replies = [
            Reply("key", json.dumps({"answer": guess}), "fake") for guess in teacher.guesses[turn.question]
        ]
        assert not blind_replies or any(
            verification.parse_blind_answers(item, [turn]) == [""] for item in blind_replies
        )


@given(RUNS)
def test_no_combination_is_asked_of_a_picture_twice_and_each_has_one_end(run: tuple[int, float, str, bool]) -> None:
    seed, honesty, name, strict = run
    outcome, sent_requests = run_conversation(FakeTeacher(seed, honesty=honesty), name, strict, seed)
    combinations = [
        combination
        for request in sent_requests
        if isinstance(request.subject, Task)
        for combination in request.subject.combinations
    ]
    assert len(combinations) == len(set(combinations))
    assert len(outcome.drafts) == len(combinations)
    accepted_count = [drop_reason for _, drop_reason in outcome.drafts].count("")
    rejects = [reject for reject in outcome.rejects if reject.stage != "conversation"]
    assert accepted_count + len(rejects) == len(combinations)
    assert len({request.key for request in sent_requests}) == len(sent_requests)
    rounds = sum(request.role == "teacher" for request in sent_requests)
    assert rounds <= get_preset(name).max_rounds
    # A round has one request to write and one to verify; a strict one also has a blind request.
    assert len(sent_requests) <= rounds * (3 if strict else 2)


@given(st.integers(0, 10**6), st.sampled_from([DraftsReply, VerdictsReply]), st.data())
def test_several_answers_that_were_cut_anywhere_are_never_mended(seed: int, schema: type, data: st.DataObject) -> None:
    teacher = FakeTeacher(seed, honesty=1.0)
    combinations = (("color", "shape"), ("color", "counting"), ("shape", "counting"))
    items = [teacher._make_draft(number, combination) for number, combination in enumerate(combinations, 1)]
    drafts = [
        Draft(item["question"], "green", 90, combination) for item, combination in zip(items, combinations, strict=True)
    ]
    verdicts = [teacher._make_verdict(number, draft.question) for number, draft in enumerate(drafts, 1)]
    text = json.dumps({"drafts": items} if schema is DraftsReply else {"verdicts": verdicts})
    truncated_reply = Reply("key", text[: data.draw(st.integers(0, len(text) - 1))], "fake")
    results: list[Any] = (
        filters.parse_drafts(truncated_reply, combinations)
        if schema is DraftsReply
        else verification.parse_verdicts(truncated_reply, drafts)
    )
    assert all(isinstance(item, Reject) and item.reason.startswith("malformed") for item in results)


Change = Callable[[list[dict[str, Any]]], object]


def make_changing_server(role: str, name: str, change: Change) -> GeminiServer:
    """Return a server that changes the list in its first reply of a role about each image."""
    changed_keys: set[str] = set()

    def fault(request: ModelRequest, number: int) -> Response | None:
        key = request.image.hex() or request.prompt
        if request.role != role or not request.has_list_schema or key in changed_keys:
            return None
        changed_keys.add(key)
        reply = server.make_reply(request)
        change(reply[name])
        return content_response(json.dumps(reply))

    server = GeminiServer(fault=fault)
    return server


CHANGES: dict[str, tuple[Change, set[int]]] = {
    "one is missing": (lambda items: items.pop(1), {2}),
    "one is there twice": (lambda items: items.append(dict(items[2])), {3}),
    "one has the number of another": (lambda items: items[0].update(number=2), {1, 2}),
    "one has a number that nobody asked for": (lambda items: items[3].update(number=9), {4}),
    "one more than was asked for": (lambda items: items.append({**items[0], "number": 5}), set()),
    "one has the number 0": (lambda items: items[3].update(number=0), {4}),
    "all are there in another order": (lambda items: items.reverse(), set()),
    "none is there": (lambda items: items.clear(), {1, 2, 3, 4}),
}


@pytest.mark.parametrize(("role", "name"), [("teacher", "drafts"), ("verifier", "verdicts")])
@pytest.mark.parametrize(("change", "lost"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_number_of_answers_costs_only_those_that_it_is_about(
    tiny: Path, tmp_path: Path, role: str, name: str, change: Change, lost: set[int]
) -> None:
    with make_changing_server(role, name, change) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(2,), limit=3)
    reason = "malformed reply" if role == "teacher" else "malformed verdict"
    for outcome in read_outcomes(tmp_path / "run").values():
        first_round = [drop_reason for _, drop_reason in outcome.drafts[:4]]
        assert first_round == [reason if number in lost else "" for number in (1, 2, 3, 4)]


def test_an_answer_without_the_picture_that_is_missing_passes_its_question_alone(tiny: Path, tmp_path: Path) -> None:
    """All blind answers are right, but one is missing: only its question may be kept."""

    answers_by_question: dict[str, str] = {}

    def answer_all_but_one(request: ModelRequest, number: int) -> Response | None:
        if request.role == "teacher":
            answers_by_question.update(
                {draft["question"]: draft["answer"] for draft in server.make_reply(request)["drafts"]}
            )
        if request.role != "blind" or not request.has_list_schema:
            return None
        answers = [
            {"number": index, "answer": answers_by_question[question]}
            for index, question in enumerate(parse_numbered_lines(request.prompt), 1)
        ]
        return content_response(json.dumps({"answers": answers[1:]}))

    with GeminiServer(fault=answer_all_but_one) as server:
        settings: dict[str, Any] = {"preset": "efficient", "strict": True, "limit": 3, "ks": (2,)}
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, **settings)
    for outcome in read_outcomes(tmp_path / "run").values():
        first_round = [drop_reason for _, drop_reason in outcome.drafts[:4]]
        assert first_round == ["", *["answerable without the picture"] * 3]


def test_what_a_picture_declined_is_not_asked_of_it_again(tiny: Path, tmp_path: Path) -> None:
    counts_by_image: dict[bytes, Counter[str]] = defaultdict(Counter)

    def decline(request: ModelRequest, number: int) -> Response | None:
        if request.role != "teacher":
            return None
        combinations = re.findall(r"^\d+\. (\w+, \w+)$", request.prompt, re.MULTILINE)
        assert len(combinations) == 4
        counts_by_image[request.image].update(combinations)
        reply = server.make_reply(request)
        for draft in reply["drafts"][:3]:
            draft.update(supported=False, question="", answer="", confidence=0)
        return content_response(json.dumps(reply))

    with GeminiServer(fault=decline) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(2,))
    assert len(counts_by_image) == 8
    assert {max(counts.values()) for counts in counts_by_image.values()} == {1}
    image_outcomes = read_outcomes(tmp_path / "run").values()
    assert all(
        len(outcome.drafts) >= 12 for outcome in image_outcomes
    )  # only one question per round is accepted, until there are three
    assert {drop_reason for outcome in image_outcomes for _, drop_reason in outcome.drafts} == {"", "declined"}


def test_of_two_drafts_of_a_round_that_repeat_each_other_the_first_is_kept(tiny: Path, tmp_path: Path) -> None:
    capability_by_question: dict[str, str] = {}

    def repeat(request: ModelRequest, number: int) -> Response | None:
        if not request.has_list_schema:
            return None
        if request.role == "teacher":
            reply = server.make_reply(request)
            first, second = reply["drafts"][:2]
            second.update(question=first["question"].replace("Which", "What"), answer="yes")
            capabilities = re.findall(r"^\d+\. (\w+)$", request.prompt, re.MULTILINE)
            capability_by_question.update(
                zip((draft["question"] for draft in reply["drafts"]), capabilities, strict=True)
            )
            return content_response(json.dumps(reply))
        # The verifier always agrees, so only the repetition is left to be rejected.
        verdicts = [
            {"number": number, "capabilities": [capability_by_question[question]], "answer": "x"}
            for number, question in enumerate(parse_numbered_lines(request.prompt), 1)
        ]
        return content_response(json.dumps({"verdicts": verdicts}))

    with GeminiServer(fault=repeat) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(1,))
    for outcome in read_outcomes(tmp_path / "run").values():
        assert [drop_reason for _, drop_reason in outcome.drafts[:4]] == ["", "repeats a question", "", ""]
        assert outcome.conversation is not None
        assert not [turn for turn in outcome.conversation.turns if turn.question.startswith("What")]


def parse_numbered_lines(prompt: str) -> list[str]:
    return re.findall(r"^\d+\. (.+)$", prompt, re.MULTILINE)
