"""The preset `efficient` asks for several questions at once, and what it accepts means the same as in `paper`."""

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
from compact_hf.methods.compact.generate import generate
from compact_hf.methods.compact.preset import get_preset
from compact_hf.methods.compact.prompts import DraftsReply, VerdictsReply
from compact_hf.records import Draft, Reject, Task, Verdict
from compact_hf.teachers.base import EncodedImage, Reply, Request
from compact_hf.testing.gemini import GeminiServer, content_response
from compact_hf.testing.scripted_model import ModelRequest
from tests.methods.runs import PRESETS, outcomes

WORDS = "boat pier kite sand wave shell crab towel rope sail".split()
ANSWERS = ["three", "3", "green", "Green.", "blue", "unknown", "", "a very long answer of more than eight words in all"]


class FakeTeacher:
    """Anything that a teacher and a verifier may send, drawn anew for each request, and what it was about."""

    def __init__(self, seed: int, *, honest: float) -> None:
        self._rng = random.Random(seed)
        self._honest = honest
        self.drafts: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
        self.verdicts: dict[str, list[Verdict]] = defaultdict(list)
        self.guesses: dict[str, list[str]] = defaultdict(list)

    def answer(self, request: Request) -> Reply:
        if self._rng.random() < 0.05:
            return Reply(request.key, "", "fake", refused="finish reason OTHER")
        subject = request.subject
        if isinstance(subject, Task):
            items = [self._draft(number, needed) for number, needed in enumerate(subject.combinations, 1)]
            name, several = "drafts", len(subject.combinations) > 1
        elif request.encoded_image is not None:
            items = [self._verdict(number, question) for number, question in enumerate(subject, 1)]
            name, several = "verdicts", len(subject) > 1
        else:
            items = [self._guess(number, question) for number, question in enumerate(subject, 1)]
            name, several = "answers", len(subject) > 1
        if several:
            sent = items if name == "answers" else self._out_of_order(items)
            return Reply(request.key, json.dumps({name: sent}), "fake")
        return Reply(request.key, json.dumps({key: items[0][key] for key in request.schema.model_fields}), "fake")

    def _out_of_order(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._rng.shuffle(items)
        mishap = self._rng.random()
        if mishap < 0.1:
            return items[1:]
        return [*items, dict(items[0])] if mishap < 0.2 else items

    def _draft(self, number: int, needed: tuple[str, ...]) -> dict[str, Any]:
        question = f"What {' '.join(self._rng.sample(WORDS, 3))}?"
        draft = Draft(question, self._rng.choice(ANSWERS), self._rng.choice([60, 70, 95]), needed)
        self.drafts[needed].append(draft)
        supported = self._rng.random() < 0.9
        return {
            "number": number,
            "supported": supported,
            "question": draft.question,
            "answer": draft.answer,
            "confidence": draft.confidence,
        }

    def _verdict(self, number: int, question: str) -> dict[str, Any]:
        wanted = [needed for needed, drafts in self.drafts.items() if question in {one.question for one in drafts}]
        names = self._rng.choice(wanted) if self._rng.random() < self._honest else tuple(CAPABILITIES)[:2]
        own = [draft.answer for needed in wanted for draft in self.drafts[needed] if draft.question == question]
        verdict = Verdict(names, self._rng.choice(own if self._rng.random() < self._honest else ANSWERS))
        self.verdicts[question].append(verdict)
        return {"number": number, "capabilities": list(names), "answer": verdict.answer}

    def _guess(self, number: int, question: str) -> dict[str, Any]:
        self.guesses[question].append(guess := self._rng.choice(ANSWERS))
        return {"number": number, "answer": guess}


def outcome_with(teacher: FakeTeacher, preset: str, strict: bool, seed: int) -> tuple[Outcome, list[Request]]:
    exposure = EncodedImage(lambda: b"", ref="a.jpg", max_edge=64)
    process = generate_conversation(
        "0" * 32, exposure, seed=seed, ks=(1, 2, 3), preset=get_preset(preset, strict=strict)
    )
    sent: list[Request] = []
    try:
        requests = next(process)
        while True:
            sent += requests
            requests = process.send([teacher.answer(request) for request in requests])
    except StopIteration as end:
        return parse_outcome(end.value.body), sent


RUNS = st.tuples(st.integers(0, 10**6), st.sampled_from([0.5, 0.95]), st.sampled_from(PRESETS), st.booleans())


@given(RUNS)
def test_what_is_accepted_passes_every_check_of_drafts_and_verdicts(run: tuple[int, float, str, bool]) -> None:
    seed, honest, name, strict = run
    teacher = FakeTeacher(seed, honest=honest)
    outcome, _ = outcome_with(teacher, name, strict, seed)
    preset = get_preset(name, strict=strict)
    if outcome.conversation is None:
        assert outcome.rejects[-1].reason == "too few questions"
        return
    turns = outcome.conversation.turns
    assert len(turns) >= preset.min_turns
    assert outcome.k == outcome.conversation.k
    for at, turn in enumerate(turns):
        draft = Draft(turn.question, turn.answer, turn.confidence, turn.capabilities)
        assert draft in teacher.drafts[turn.capabilities]
        assert len(turn.capabilities) == outcome.k
        assert filters.draft_reject_reason(draft, turns[:at], preset) is None
        passing = [
            one for one in teacher.verdicts[turn.question] if not verification.verdict_reject_reason(draft, one, preset)
        ]
        assert passing
        assert turn.verified_capabilities == turn.capabilities
        blind = [Reply("key", json.dumps({"answer": guess}), "fake") for guess in teacher.guesses[turn.question]]
        assert not blind or any(verification.parse_blind_answers(one, [turn]) == [""] for one in blind)


@given(RUNS)
def test_no_combination_is_asked_of_a_picture_twice_and_each_has_one_end(run: tuple[int, float, str, bool]) -> None:
    seed, honest, name, strict = run
    outcome, sent = outcome_with(FakeTeacher(seed, honest=honest), name, strict, seed)
    asked = [needed for one in sent if isinstance(one.subject, Task) for needed in one.subject.combinations]
    assert len(asked) == len(set(asked))
    assert len(outcome.drafts) == len(asked)
    accepted = [why for _, why in outcome.drafts].count("")
    rejected = [reject for reject in outcome.rejects if reject.stage != "conversation"]
    assert accepted + len(rejected) == len(asked)
    assert len({one.key for one in sent}) == len(sent)
    rounds = sum(one.role == "teacher" for one in sent)
    assert rounds <= get_preset(name).max_rounds
    # A round is one request to write, one to judge, and a strict one asks blindly besides.
    assert len(sent) <= rounds * (3 if strict else 2)


@given(st.integers(0, 10**6), st.sampled_from([DraftsReply, VerdictsReply]), st.data())
def test_several_answers_that_were_cut_anywhere_are_never_mended(seed: int, schema: type, data: st.DataObject) -> None:
    teacher = FakeTeacher(seed, honest=1.0)
    combinations = (("color", "shape"), ("color", "counting"), ("shape", "counting"))
    items = [teacher._draft(number, needed) for number, needed in enumerate(combinations, 1)]
    drafts = [Draft(one["question"], "green", 90, needed) for one, needed in zip(items, combinations, strict=True)]
    judged = [teacher._verdict(number, draft.question) for number, draft in enumerate(drafts, 1)]
    text = json.dumps({"drafts": items} if schema is DraftsReply else {"verdicts": judged})
    cut = Reply("key", text[: data.draw(st.integers(0, len(text) - 1))], "fake")
    read: list[Any] = (
        filters.parse_drafts(cut, combinations) if schema is DraftsReply else verification.parse_verdicts(cut, drafts)
    )
    assert all(isinstance(one, Reject) and one.reason.startswith("malformed") for one in read)


Change = Callable[[list[dict[str, Any]]], object]


def answering(role: str, name: str, change: Change) -> GeminiServer:
    """Return a server that changes the list in its first answer of a role about each picture."""
    changed: set[str] = set()

    def fault(asked: ModelRequest, number: int) -> Response | None:
        whose = asked.image.hex() or asked.prompt
        if asked.role != role or not asked.has_list_schema or whose in changed:
            return None
        changed.add(whose)
        written = server.make_reply(asked)
        change(written[name])
        return content_response(json.dumps(written))

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
    with answering(role, name, change) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(2,), limit=3)
    reason = "malformed reply" if role == "teacher" else "malformed verdict"
    for outcome in outcomes(tmp_path / "run").values():
        first_round = [why for _, why in outcome.drafts[:4]]
        assert first_round == [reason if number in lost else "" for number in (1, 2, 3, 4)]


def test_an_answer_without_the_picture_that_is_missing_passes_its_question_alone(tiny: Path, tmp_path: Path) -> None:
    """The blind answers are all right but one, which is not there: only that question may stay."""

    truth: dict[str, str] = {}

    def all_but_one(asked: ModelRequest, number: int) -> Response | None:
        if asked.role == "teacher":
            truth.update({one["question"]: one["answer"] for one in server.make_reply(asked)["drafts"]})
        if asked.role != "blind" or not asked.has_list_schema:
            return None
        right = [{"number": at, "answer": truth[question]} for at, question in enumerate(numbered_in(asked.prompt), 1)]
        return content_response(json.dumps({"answers": right[1:]}))

    with GeminiServer(fault=all_but_one) as server:
        settings: dict[str, Any] = {"preset": "efficient", "strict": True, "limit": 3, "ks": (2,)}
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, **settings)
    for outcome in outcomes(tmp_path / "run").values():
        first_round = [why for _, why in outcome.drafts[:4]]
        assert first_round == ["", *["answerable without the picture"] * 3]


def test_what_a_picture_declined_is_not_asked_of_it_again(tiny: Path, tmp_path: Path) -> None:
    asked_for: dict[bytes, Counter[str]] = defaultdict(Counter)

    def decline(asked: ModelRequest, number: int) -> Response | None:
        if asked.role != "teacher":
            return None
        sets = re.findall(r"^\d+\. (\w+, \w+)$", asked.prompt, re.MULTILINE)
        assert len(sets) == 4
        asked_for[asked.image].update(sets)
        written = server.make_reply(asked)
        for draft in written["drafts"][:3]:
            draft.update(supported=False, question="", answer="", confidence=0)
        return content_response(json.dumps(written))

    with GeminiServer(fault=decline) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(2,))
    assert len(asked_for) == 8
    assert {max(counts.values()) for counts in asked_for.values()} == {1}
    found = outcomes(tmp_path / "run").values()
    assert all(len(outcome.drafts) >= 12 for outcome in found)  # one a round, until there are three
    assert {why for outcome in found for _, why in outcome.drafts} == {"", "declined"}


def test_of_two_drafts_of_a_round_that_repeat_each_other_the_first_is_kept(tiny: Path, tmp_path: Path) -> None:
    needed_by: dict[str, str] = {}

    def repeat(asked: ModelRequest, number: int) -> Response | None:
        if not asked.has_list_schema:
            return None
        if asked.role == "teacher":
            written = server.make_reply(asked)
            first, second = written["drafts"][:2]
            second.update(question=first["question"].replace("Which", "What"), answer="yes")
            sets = re.findall(r"^\d+\. (\w+)$", asked.prompt, re.MULTILINE)
            needed_by.update(zip((draft["question"] for draft in written["drafts"]), sets, strict=True))
            return content_response(json.dumps(written))
        # Whatever was asked for is needed: what is left to refuse is the repetition.
        verdicts = [
            {"number": number, "capabilities": [needed_by[question]], "answer": "x"}
            for number, question in enumerate(numbered_in(asked.prompt), 1)
        ]
        return content_response(json.dumps({"verdicts": verdicts}))

    with GeminiServer(fault=repeat) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="efficient", ks=(1,))
    for outcome in outcomes(tmp_path / "run").values():
        assert [why for _, why in outcome.drafts[:4]] == ["", "repeats a question", "", ""]
        assert outcome.conversation is not None
        assert not [turn for turn in outcome.conversation.turns if turn.question.startswith("What")]


def numbered_in(prompt: str) -> list[str]:
    return re.findall(r"^\d+\. (.+)$", prompt, re.MULTILINE)
