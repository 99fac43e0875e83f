"""Tests of the teacher `scenes`: it plants the faults that it labels, and the verifier detects them from the scene."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import TeacherError, UsageError
from compact_hf.methods.compact.truth import FAULTS
from compact_hf.scenes.questions import supported_combinations
from compact_hf.scenes.scene import build_scene
from compact_hf.teachers.base import Reply, Request
from compact_hf.teachers.registry import BACKENDS, open_teacher
from compact_hf.teachers.scenes import ScenesTeacher
from tests.teachers.asking import ask_all, draft_request, verdict_request

SEEDS = range(30)


def make_requests(k: int = 2) -> list[Request]:
    return [
        draft_request(combination, ref=f"scene:{seed}")
        for seed in SEEDS
        for combination in supported_combinations(build_scene(seed), k)[:8]
    ]


def ask_for_drafts(teacher: ScenesTeacher, k: int = 2) -> list[tuple[Request, Reply]]:
    requests = make_requests(k)
    return [
        (request, reply)
        for request, reply in zip(requests, ask_all(teacher, requests), strict=True)
        if isinstance(reply, Reply)
    ]


def verify_drafts(drafts: list[tuple[Request, Reply]]) -> list[dict[str, object]]:
    requests = [
        verdict_request(json.loads(reply.text)["question"], ref=request.encoded_image.ref) for request, reply in drafts
    ]
    return [json.loads(reply.text) for reply in ask_all(ScenesTeacher(), requests) if isinstance(reply, Reply)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_without_noise_the_verifier_agrees_with_every_draft(k: int) -> None:
    drafts = ask_for_drafts(ScenesTeacher(), k)
    assert len(drafts) > 100
    for (request, reply), verdict in zip(drafts, verify_drafts(drafts), strict=True):
        draft = json.loads(reply.text)
        assert not reply.planted
        assert tuple(verdict["capabilities"]) == request.subject.combinations[0], draft["question"]
        assert verdict["answer"] == draft["answer"], draft["question"]


def test_every_fault_is_planted_and_labelled_as_what_it_is() -> None:
    drafts = ask_for_drafts(ScenesTeacher(fault_rate=1.0))
    kinds = Counter("".join(reply.planted) for _, reply in drafts)
    assert set(FAULTS) <= set(kinds)
    for (request, reply), verdict in zip(drafts, verify_drafts(drafts), strict=True):
        draft = json.loads(reply.text)
        requested, needed = set(request.subject.combinations[0]), set(verdict["capabilities"])
        match "".join(reply.planted):
            case "wrong answer":
                assert needed == requested
                assert verdict["answer"] != draft["answer"]
            case "superfluous capability":
                assert needed > requested
            case "missing capability":
                assert needed < requested
            case "joined question":
                assert ", and " in draft["question"]
            case "low confidence":
                assert draft["confidence"] < 70
            case _:
                assert needed == requested


def test_the_share_of_faults_is_the_noise() -> None:
    drafts = ask_for_drafts(ScenesTeacher(fault_rate=0.25))
    share = sum(bool(reply.planted) for _, reply in drafts) / len(drafts)
    assert 0.15 < share < 0.32


def test_the_same_seed_plants_the_same_faults() -> None:
    first, again, other = (
        [(reply.text, reply.planted) for _, reply in ask_for_drafts(ScenesTeacher(fault_rate=0.5, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_combination_that_the_scene_does_not_support_is_declined() -> None:
    scene = build_scene(0)
    unsupported = set(combinations(CAPABILITIES, 3)) - set(supported_combinations(scene, 3))
    (reply,) = ask_all(ScenesTeacher(), [draft_request(sorted(unsupported)[0], ref="scene:0")])
    assert isinstance(reply, Reply)
    assert reply.refused == "the picture does not support it"


def test_a_question_about_anything_else_needs_nothing() -> None:
    (reply,) = ask_all(ScenesTeacher(), [verdict_request("Who wrote Hamlet?", ref="scene:0")])
    assert isinstance(reply, Reply)
    assert json.loads(reply.text) == {"capabilities": [], "answer": "unanswerable"}


def test_noise_is_a_share() -> None:
    with pytest.raises(UsageError, match=r"got --noise 1\.5"):
        ScenesTeacher(fault_rate=1.5)


def test_an_unknown_teacher_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=rf"use one of {', '.join(BACKENDS)}; did you mean gemini\?"):
        open_teacher("gemni", state_dir=Path("run"))


def test_a_request_without_a_subject_is_refused_in_one_line() -> None:
    request = replace(make_requests()[0], subject=None)
    with pytest.raises(TeacherError, match=r"does not support this method .*: name another teacher"):
        ask_all(ScenesTeacher(), [request])
