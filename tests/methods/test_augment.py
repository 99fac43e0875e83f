"""Tests `compact augment`: questions rewritten to need one more capability, over real HTTP and about drawn scenes."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import StoppedEarly, UsageError
from compact_hf.images.question_rows import Exchange
from compact_hf.images.questions import QuestionRow
from compact_hf.methods.annotate.annotate import annotate
from compact_hf.methods.augment.augment import PRESET, augment, augment_image
from compact_hf.methods.augment.method import Augment
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.status import QuestionRunStatus
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.status import status
from compact_hf.records import Loss
from compact_hf.runs.journal import Journal
from compact_hf.scenes.questions import analyze_question
from compact_hf.scenes.scene import build_scene
from compact_hf.scenes.source import parse_seed
from compact_hf.teachers.base import EncodedImage, Reply, Request
from compact_hf.testing.gemini import GeminiServer, ModelRequest, content_response
from tests.methods.data_sets import make_images, write_llava_file, write_questions_dataset, write_scenes_file
from tests.teachers.asking import photograph

IMAGE_ID = "0" * 32


def read_outcomes(run: Path) -> dict[str, Outcome]:
    with Journal.read(run) as journal:
        return {finished.ref: parse_outcome(finished.body) for finished in journal.outcomes()}


def hash_release(run: Path, out: Path) -> dict[str, str]:
    assemble(run, out, version="1.0.0")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.parquet")}


def test_a_scene_is_asked_what_takes_one_capability_more_and_the_answer_is_right(tmp_path: Path) -> None:
    file, turns = write_scenes_file(tmp_path, "scenes:60", ks=(1, 2))
    augment(str(file), tmp_path / "run", image_root="scenes:60")
    turn_count = 0
    for ref, outcome in read_outcomes(tmp_path / "run").items():
        capability_sets = [set(turn.capabilities) for turn in turns[ref]]
        if outcome.conversation is None:
            continue
        assert outcome.k == len(capability_sets[0]) + 1  # all questions about a generated scene have the same k
        for turn in outcome.conversation.turns:
            analysis = analyze_question(build_scene(parse_seed(ref)), turn.question)
            assert analysis is not None
            assert (analysis.capabilities, analysis.answer) == (turn.capabilities, turn.answer)
            assert len(turn.capabilities) == outcome.k
            assert any(names < set(turn.capabilities) for names in capability_sets)
            turn_count += 1
    assert turn_count > 60


def test_the_release_of_it_is_valid_and_says_how_it_was_made(tmp_path: Path) -> None:
    file, _ = write_scenes_file(tmp_path, "scenes:20", ks=(1,))
    progress = augment(str(file), tmp_path / "run", image_root="scenes:20")
    assemble(tmp_path / "run", tmp_path / "release", version="1.0.0")
    assert validate(tmp_path / "release").problems == ()
    rows = [row for split in load_dataset(str(tmp_path / "release")).values() for row in split]
    assert len(rows) == progress.kept > 5
    assert {(row["source"], row["k"], row["preset_version"]) for row in rows} == {("augment", 2, "k-plus-1@1")}
    run_status = status(tmp_path / "run")
    assert run_status.questions_by_k == {2: progress.accepted}


def test_a_run_of_annotate_makes_no_release(tmp_path: Path) -> None:
    file, _ = write_scenes_file(tmp_path, "scenes:2")
    annotate(str(file), tmp_path / "run", image_root="scenes:2")
    with pytest.raises(UsageError, match="is a run of annotate, which makes no conversations"):
        assemble(tmp_path / "run", tmp_path / "release", version="1.0.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of nine images with five questions each."""
    rows = [(data, f"What is number {number}?", "it") for number in range(5) for data in make_images(9)]
    return write_questions_dataset(tmp_path_factory.mktemp("asked") / "photographs", rows)


def test_neither_order_nor_interruptions_show_in_the_release(folder: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        augment(str(folder), tmp_path / "clean", teacher_url=server.url, concurrency=1, strict=True)
        request_count = len(server.requests)
    with GeminiServer(accept_rate=0.7) as server:
        for max_requests in range(request_count // 3, request_count, request_count // 3):
            with pytest.raises(StoppedEarly):
                augment(str(folder), tmp_path / "run", teacher_url=server.url, strict=True, max_requests=max_requests)
        augment(str(folder), tmp_path / "run", teacher_url=server.url, strict=True)
        assert len(server.requests) == request_count
        assert len({(request.role, request.prompt, request.image) for request in server.requests}) == request_count
        assert {request.role for request in server.requests} == {"teacher", "verifier", "blind"}
    assert hash_release(tmp_path / "run", tmp_path / "a") == hash_release(tmp_path / "clean", tmp_path / "b")


def test_the_teacher_sees_questions_and_answers_and_the_verifier_of_the_new_ones_neither(
    folder: Path, tmp_path: Path
) -> None:
    with GeminiServer() as server:
        augment(str(folder), tmp_path / "run", teacher_url=server.url, limit=2)
    for request in server.requests:
        assert ("(Answer: it)" in request.prompt) == (request.role == "teacher")
    turns = [
        turn
        for item in read_outcomes(tmp_path / "run").values()
        if item.conversation
        for turn in item.conversation.turns
    ]
    verifier_prompts = [item.prompt for item in server.requests if item.role == "verifier"]
    assert turns
    for turn in turns:
        prompt = next(prompt for prompt in verifier_prompts if turn.question in prompt)
        assert "What is number" not in prompt


def test_the_command_leads_on_to_a_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = write_scenes_file(tmp_path, "scenes:10", ks=(1,))
    run, release = str(tmp_path / "run"), str(tmp_path / "release")
    assert main(["augment", str(file), "--image-root", "scenes:10", "--out", run, "--limit", "6"]) == 0
    assert f"compact assemble {run}" in capsys.readouterr().err
    assert main(["status", run]) == 0
    assert "preset k-plus-1@1  k k+1" in capsys.readouterr().out
    assert main(["assemble", run, "--out", release, "--version", "1.0.0"]) == 0
    assert main(["validate", release]) == 0


def test_in_batches_one_round_is_enough_and_says_so(folder: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        server.batches.polls_to_finish = 1  # finished at the first poll
        augment(str(folder), tmp_path / "run", teacher="gemini-batch", teacher_url=server.url, limit=2)
        assert len(server.batches.jobs) == 3  # verify the originals, rewrite them, verify the new ones
    run_status = status(tmp_path / "run")
    assert run_status.identity["preset"] == "k-plus-1-batch@1"
    assert run_status.questions > 0


def run_augment_image(
    needs: dict[str, tuple[str, ...]],
    write: Callable[[tuple[str, ...]], dict[str, Any] | None],
    *,
    ks: range = range(1, 11),
) -> tuple[Outcome, list[Request]]:
    """Process one image.

    Args:
        needs (`dict[str, tuple[str, ...]]`): question -> the capabilities that the verifier finds.
        write (`Callable[[tuple[str, ...]], dict[str, Any] | None]`): returns the teacher's draft for a combination.
        ks (`range`, *optional*, defaults to 1 to 10): the values of k that the teacher supports.

    Returns:
        The outcome and all requests.
    """
    sent_requests: list[Request] = []
    rows = [QuestionRow(f"train/{index}", "", (Exchange(question, ("it",)),)) for index, question in enumerate(needs)]
    encoded_image = EncodedImage(photograph, ref="a.jpg", max_edge=64)
    process = augment_image(IMAGE_ID, encoded_image, rows, seed=0, ks=ks, preset=PRESET)
    capabilities_by_question = dict(needs)

    def answer_request(request: Request) -> Reply:
        sent_requests.append(request)
        if isinstance(request.subject, Task):
            drafts = [_make_draft(write(names)) for names in request.subject.combinations]
            capabilities_by_question.update(
                (draft["question"], names)
                for draft, names in zip(drafts, request.subject.combinations, strict=True)
                if draft["supported"]
            )
            return _make_reply(request, "drafts", drafts)
        verdicts = [
            {"capabilities": list(capabilities_by_question[question]), "answer": "it"}
            for question in request.subject.questions
        ]
        return _make_reply(request, "verdicts", verdicts)

    requests = next(process)
    try:
        while True:
            requests = process.send([answer_request(request) for request in requests])
    except StopIteration as end:
        return parse_outcome(end.value.body), sent_requests


def _make_draft(fields: dict[str, Any] | None) -> dict[str, Any]:
    if fields is None:
        return {"supported": False, "question": "", "answer": "", "confidence": 0}
    return {"supported": True, "answer": "it", "confidence": 90} | fields


def _make_reply(request: Request, name: str, items: list[dict[str, Any]]) -> Reply:
    if name in request.schema.model_fields:
        text = json.dumps({name: [{"number": number, **item} for number, item in enumerate(items, 1)]})
    else:
        text = json.dumps(items[0])
    return Reply(request.key, text=text, model="model")


def make_question_writer() -> Callable[[tuple[str, ...]], dict[str, Any]]:
    letters = iter("abcdefghijklmnopqrstuvwxyz")

    def write(names: tuple[str, ...]) -> dict[str, Any]:
        return {"question": f"Why {next(letters) * 3} {next(letters) * 4} {next(letters) * 5}?"}

    return write


NEEDS = st.dictionaries(
    st.integers(0, 9).map("What is {}?".format),
    st.sets(st.sampled_from(list(CAPABILITIES))).map(canonicalize),
    min_size=1,
    max_size=6,
)


@given(NEEDS)
def test_what_is_asked_for_is_what_was_needed_and_one_more_which_is_never_the_same(
    needs: dict[str, tuple[str, ...]],
) -> None:
    outcome, requests = run_augment_image(needs, lambda names: None)
    tasks = [request.subject for request in requests if isinstance(request.subject, Task)]
    combinations = [names for task in tasks for names in task.combinations]
    extended_questions = [question for question, names in needs.items() if len(names) + 1 == outcome.k]
    assert all(len(names) == outcome.k for names in combinations)
    for names in combinations:
        assert any(set(needs[question]) < set(names) for question in extended_questions)
    k_counts = Counter(len(names) + 1 for names in needs.values() if len(names) < len(CAPABILITIES))
    assert k_counts[outcome.k] == max(k_counts.values(), default=0)
    if len(extended_questions) == 1:
        extension_count = len(CAPABILITIES) - outcome.k + 1
        assert len(set(combinations)) == len(combinations) == min(PRESET.max_rounds, extension_count)
    assert outcome.conversation is None
    dropped_questions = {
        reject.subject for reject in outcome.rejects if reject.reason == "another k than the picture's"
    }
    assert dropped_questions == {question for question, names in needs.items() if len(names) + 1 not in (outcome.k, 11)}


@given(NEEDS)
def test_every_question_ends_as_a_turn_or_as_rejects(needs: dict[str, tuple[str, ...]]) -> None:
    outcome, _ = run_augment_image(needs, make_question_writer())
    turns = outcome.conversation.turns if outcome.conversation else ()
    rejects = [reject for reject in outcome.rejects if reject.reason != "too few questions"]
    assert len(turns) + len(rejects) == len(needs)
    assert len(outcome.drafts) == len(turns)
    assert all(turn.capabilities == turn.verified_capabilities for turn in turns)


def test_a_question_that_was_accepted_is_not_asked_for_again() -> None:
    needs = {"What is it?": ("color",), "Where is it?": ("shape",)}
    drafts = iter([None, {"question": "Why red here?"}, {"question": "How many blue ones?"}])
    outcome, requests = run_augment_image(needs, lambda names: next(drafts))
    assert outcome.conversation is not None
    assert [turn.question for turn in outcome.conversation.turns] == ["Why red here?", "How many blue ones?"]
    assert [reason for _, reason in outcome.drafts] == ["declined", "", ""]
    tasks = [request.subject for request in requests if isinstance(request.subject, Task)]
    assert [(task.round, len(task.combinations)) for task in tasks] == [(1, 2), (2, 1)]


def test_two_rewritten_alike_are_one() -> None:
    needs = {"What is it?": ("color",), "Where is it?": ("color",)}
    outcome, _ = run_augment_image(needs, lambda names: {"question": "Why so blue?"})
    assert outcome.conversation is not None
    assert len(outcome.conversation.turns) == 1
    assert "repeats a question" in {reject.reason for reject in outcome.rejects}


def test_of_two_that_are_nearly_alike_one_is_kept_though_each_passed_by_itself() -> None:
    needs = {"What is it?": ("color",), "Where is it?": ("color",)}
    words = iter(["today", "here"])
    outcome, _ = run_augment_image(needs, lambda names: {"question": f"Why so blue and calm {next(words, 'again')}?"})
    assert outcome.conversation is not None
    assert [turn.question for turn in outcome.conversation.turns] == ["Why so blue and calm today?"]
    assert [reason for _, reason in outcome.drafts] == ["", *["repeats a question"] * PRESET.max_rounds]


def test_the_questions_of_an_image_are_extended_by_different_capabilities() -> None:
    """Nine questions need color; each of the nine other capabilities is added to one of them."""
    _, requests = run_augment_image({f"What is {index}?": ("color",) for index in range(9)}, lambda names: None)
    tasks = [request.subject for request in requests if isinstance(request.subject, Task)]
    first_round = [names for task in tasks for names in task.combinations if task.round == 1]
    assert len(first_round) == 9
    assert {name for names in first_round for name in names} == set(CAPABILITIES)


def test_a_capability_that_was_requested_for_an_accepted_question_is_not_preferred_again() -> None:
    """Of two questions, the first is accepted in round 1; for the other, seven capabilities were never requested."""
    for number in range(40):
        drafts = iter([{"question": "Why red here?"}, None, {"question": "How many blue ones?"}])
        needs = {f"What is {number}?": ("color",), "Where is it?": ("color",)}
        _, requests = run_augment_image(needs, lambda names, drafts=drafts: next(drafts))
        tasks = [request.subject for request in requests if isinstance(request.subject, Task)]
        combinations = [names for task in tasks for names in task.combinations]
        assert len(set(combinations)) == len(combinations) == 3


def test_each_question_of_the_dataset_that_is_not_rewritten_is_counted_once() -> None:
    needs = {"What is it?": ("color",), "Where is it?": ("shape",), "Who is it?": ("color", "shape")}
    outcome, _ = run_augment_image(needs, lambda names: None)
    rejects = [reject for reject in outcome.rejects if reject.stage == "conversation"]
    losses = [(reject.subject, Augment.count_loss(reject)) for reject in rejects]
    assert losses == [
        ("Who is it?", Loss(questions=1)),
        ("What is it?", Loss(questions=1)),
        ("Where is it?", Loss(questions=1)),
        (IMAGE_ID, Loss()),
    ]
    draft_rejects = [reject for reject in outcome.rejects if reject.stage != "conversation"]
    assert len(draft_rejects) == 2 * PRESET.max_rounds
    assert {Augment.count_loss(reject) for reject in draft_rejects} == {Loss()}


def test_losses_and_requested_drafts_are_in_the_status_and_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = make_images(2)
    rows = [
        ("a.png", ["What is it?", "What is it?"]),
        ("copy.png", ["Where is it?"]),
        ("b.png", ["Why is it?"]),
        ("missing.png", ["Who?", "How?"]),
    ]
    file = write_llava_file(tmp_path / "data", rows, {"a.png": image, "copy.png": image, "b.png": other})

    def judge(request: ModelRequest, number: int) -> Response | None:
        """About the first image, find that its questions need different numbers of capabilities; write no draft."""
        if "What is it?" not in request.prompt:
            return None
        if request.role == "teacher":
            return content_response(json.dumps({"question": "", "answer": "", "confidence": 0}))
        verdicts = [{"capabilities": [], "answer": "it"}, {"capabilities": ["color"], "answer": "it"}]
        return content_response(
            json.dumps({"verdicts": [{"number": index, **verdict} for index, verdict in enumerate(verdicts, 1)]})
        )

    run = tmp_path / "run"
    with GeminiServer(fault=judge) as server:
        arguments = ["augment", str(file), "--out", str(run), "--teacher-url", server.url]
        assert main(arguments) == 0
    out = capsys.readouterr().out
    # One question repeats another, one has another k, one is not rewritten; two are about the missing image.
    assert "dropped from the dataset: 1 row and 5 questions" in out
    assert re.search(r"^picture +unreadable file +1 +1 +2 +missing.png", out, re.MULTILINE)
    run_status = status(run)
    assert run_status.loss == Loss(1, 5)
    assert isinstance(run_status, QuestionRunStatus)
    assert run_status.drafts_by_k[1] >= PRESET.max_rounds
    assert sum(entry.asked for entry in run_status.combinations) == sum(run_status.drafts_by_k.values())


def test_a_teacher_is_not_asked_for_a_larger_k_than_it_knows() -> None:
    names = tuple(CAPABILITIES)
    needs = {"What is it?": names[:5], "Where is it?": names[1:6], "Who is it?": names[:2]}
    outcome, requests = run_augment_image(needs, make_question_writer(), ks=range(1, 6))
    assert outcome.k == 3
    assert Counter(reject.reason for reject in outcome.rejects) == {"no question for so many capabilities": 2}
    assert all(
        len(names) == 3
        for request in requests
        if isinstance(request.subject, Task)
        for names in request.subject.combinations
    )


def test_a_question_without_an_answer_is_counted(tmp_path: Path) -> None:
    (data,) = make_images(1)
    rows = [(data, "What is it?", ""), (data, "Where is it?", "there")]
    with GeminiServer() as server:
        augment(str(write_questions_dataset(tmp_path / "one", rows)), tmp_path / "run", teacher_url=server.url)
    (outcome,) = read_outcomes(tmp_path / "run").values()
    assert [(reject.reason, reject.subject) for reject in outcome.rejects if reject.stage == "conversation"] == [
        ("question without answer", "What is it?")
    ]
