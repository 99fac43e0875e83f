"""Tests `compact annotate`: annotations of a dataset's questions, over real HTTP and about drawn scenes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from starlette.responses import Response

from compact_hf.cli.main import main
from compact_hf.errors import SettingsMismatchError, SourceError, StoppedEarly, TeacherError, UsageError
from compact_hf.methods.annotate.annotate import ANNOTATIONS_FILE, annotate, iter_annotations, summarize
from compact_hf.methods.annotate.annotation import Annotation, AnnotationOutcome
from compact_hf.methods.compact.complexity import CapabilityPair
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.methods.verification import QUESTIONS_PER_REQUEST
from compact_hf.records import Loss, Reject, to_json
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.testing.gemini import GeminiServer, ModelRequest, content_response, error_response
from tests.methods.data_sets import make_images, write_llava_file, write_questions_dataset, write_scenes_file

IMAGE_COUNT = 12
SECRET = "an answer that nobody may see"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve images with two questions each; the rows of an image are far apart."""
    rows = [
        (data, f"What is {ordinal} here?", SECRET)
        for ordinal in ("first", "second")
        for data in make_images(IMAGE_COUNT)
    ]
    return write_questions_dataset(tmp_path_factory.mktemp("asked") / "photographs", rows)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as gemini_server:
        yield gemini_server


def read_table(run: Path) -> list[dict[str, Any]]:
    return list(load_dataset("parquet", data_files=str(run / ANNOTATIONS_FILE), split="train"))


@pytest.mark.parametrize("limit", [None, 7])
def test_scenes_are_annotated_with_exactly_what_their_questions_were_made_to_need(
    limit: int | None, tmp_path: Path
) -> None:
    file, turns = write_scenes_file(tmp_path, "scenes:40")
    summary = annotate(str(file), tmp_path / "run", image_root="scenes:40", limit=limit)
    annotations = {
        (annotation.row_id, annotation.turn): annotation for annotation in iter_annotations(tmp_path / "run")
    }
    scenes = sorted({ref for ref, _ in annotations})
    assert len(scenes) == (limit or len(turns))
    assert annotations.keys() == {(ref, turn_index) for ref in scenes for turn_index in range(len(turns[ref]))}
    for (ref, turn_index), annotation in annotations.items():
        assert annotation.question == turns[ref][turn_index].question
        assert (annotation.capabilities, annotation.k) == (
            turns[ref][turn_index].capabilities,
            len(turns[ref][turn_index].capabilities),
        )
        assert annotation.verifier_answer == annotation.answer == turns[ref][turn_index].answer
    assert summary.questions == len(annotations)
    assert summary.by_k == {k: sum(annotation.k == k for annotation in annotations.values()) for k in range(4)}
    assert not summary.rejects


def test_rows_about_one_picture_share_a_request_and_no_answer_is_shown(
    folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    summary = annotate(str(folder), tmp_path / "run", verifier_url=server.url)
    assert summary.questions == 2 * IMAGE_COUNT
    assert len(server.requests) == IMAGE_COUNT
    for request in server.requests:
        assert "What is first here?" in request.prompt
        assert "What is second here?" in request.prompt
        assert SECRET not in request.prompt
    assert {annotation.row for annotation in iter_annotations(tmp_path / "run")} == {
        f"train/{row}" for row in range(2 * IMAGE_COUNT)
    }


def test_many_questions_about_a_picture_go_out_in_parts(server: GeminiServer, tmp_path: Path) -> None:
    (data,) = make_images(1)
    count = 2 * QUESTIONS_PER_REQUEST + 1
    rows = [(data, f"What is number {number}?", "it") for number in range(count)] * 2
    summary = annotate(str(write_questions_dataset(tmp_path / "many", rows)), tmp_path / "run", verifier_url=server.url)
    assert summary.questions == 2 * count
    assert [len(requests) for requests in (server.requests, {request.prompt for request in server.requests})] == [3, 3]
    by_question: dict[str, set[tuple[str, ...]]] = {}
    for annotation in iter_annotations(tmp_path / "run"):
        by_question.setdefault(annotation.question, set()).add(annotation.capabilities)
    assert all(len(combinations) == 1 for combinations in by_question.values())
    assert len(set.union(*by_question.values())) > 3, "verdicts were not told apart"


def test_whatever_stops_it_the_same_call_goes_on_and_nothing_is_asked_twice(folder: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        annotate(str(folder), tmp_path / "clean", verifier_url=server.url)

    def revoke(request: ModelRequest, number: int) -> Response | None:
        return error_response(403, "PERMISSION_DENIED", "revoked") if number >= 3 else None

    run = tmp_path / "run"
    with GeminiServer(fault=revoke) as server, pytest.raises(TeacherError):
        annotate(str(folder), run, verifier_url=server.url, concurrency=1)
    assert len(read_table(run)) == 2 * 3
    with GeminiServer() as server:
        with pytest.raises(StoppedEarly):
            annotate(str(folder), run, verifier_url=server.url, max_requests=7)
        assert len(server.requests) == 4
        assert len(read_table(run)) == 2 * 7
        annotate(str(folder), run, verifier_url=server.url)
        annotate(str(folder), run, verifier_url=server.url, limit=1)
        assert len(server.requests) == IMAGE_COUNT - 3
    assert read_table(run) == read_table(tmp_path / "clean")
    assert summarize(run) == summarize(tmp_path / "clean")


def test_everything_that_cannot_be_annotated_is_counted(tmp_path: Path) -> None:
    good, declined, malformed = make_images(3)
    rows = [
        (good, "What is it?", "x"),
        (None, "What is 1 + 1?", "2"),
        (b"no picture at all", "What is it?", "x"),
        (good, "  ", "x"),
        (declined, "Where is it?", "x"),
        (malformed, "How is it?", "x"),
        (malformed, "Why is it?", "x"),
    ]

    def fault(request: ModelRequest, number: int) -> Response | None:
        if "How is it?" in request.prompt:  # only one verdict for two questions
            return content_response(json.dumps({"verdicts": [{"number": 2, "capabilities": [], "answer": "x"}]}))
        return content_response(None, finish="SAFETY") if "Where is it?" in request.prompt else None

    with GeminiServer(fault=fault) as server:
        summary = annotate(
            str(write_questions_dataset(tmp_path / "odd", rows)), tmp_path / "run", verifier_url=server.url
        )
    assert (summary.pictures, summary.questions) == (3, 2)
    assert summary.rejects == {
        "empty question": 1,
        "malformed verdict": 1,
        "no picture": 1,
        "not a picture": 1,
        "verifier declined": 1,
    }
    assert summary.questions + sum(summary.rejects.values()) == len(rows)
    assert {(reject.stage, reject.reason): reject.count for reject in status(tmp_path / "run").rejects} == {
        ("picture", "no picture"): 1,
        ("picture", "not a picture"): 1,
        ("verification", "verifier declined"): 1,
        ("verification", "malformed verdict"): 1,
        ("conversation", "empty question"): 1,
    }


def test_rows_about_copies_of_an_image_are_annotated_together(server: GeminiServer, tmp_path: Path) -> None:
    first, other = make_images(2)
    rows = [("coffee.png", ["What is it?"]), ("tea.png", ["Where is it?"]), ("copy.png", ["How is it?"])]
    images = {"coffee.png": first, "tea.png": other, "copy.png": first}
    file = write_llava_file(tmp_path / "data", rows, images)
    summary = annotate(str(file), tmp_path / "run", verifier_url=server.url)
    assert (summary.pictures, summary.questions, summary.rejects, summary.losses) == (2, 3, {}, {})
    ids = {annotation.row_id: annotation.image_id for annotation in iter_annotations(tmp_path / "run")}
    assert ids["row-0"] == ids["row-2"] != ids["row-1"]
    assert [row.count for row in status(tmp_path / "run").rejects] == []


def test_what_is_lost_is_counted_in_rows_and_questions(
    server: GeminiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ("a.png", ["What is it?", "Where is it?", ""]),
        ("missing.png", ["What?", "Where?"]),
        ("missing.png", ["How?"]),
        ("a.png", []),
        ("", ["Why?"]),
    ]
    file = write_llava_file(tmp_path / "data", rows, {"a.png": make_images(1)[0]})
    arguments = ["annotate", str(file), "--out", str(tmp_path / "run"), "--verifier-url", server.url]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 questions about 1 image," in out
    assert "not annotated: 4 rows and 5 questions" in out
    for line in ("unreadable file 2 3", "image is not a path 1 1", "empty question 0 1", "no conversations 1 0"):
        assert re.search(rf"^{line.replace(' ', ' +')}$", out, re.MULTILINE), line
    run_status = status(tmp_path / "run")
    assert run_status.loss == Loss(4, 5)
    assert main(["status", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "dropped from the dataset: 4 rows and 5 questions" in out
    assert re.search(r"^dropped at +reason +count +rows +questions +for example$", out, re.MULTILINE)
    assert re.search(r"^picture +unreadable file +1 +2 +3 +missing.png", out, re.MULTILINE)


def make_annotation(number: int, *capabilities: str) -> Annotation:
    k = len(capabilities)
    return Annotation(f"train/{number}", "", 0, f"{number:032x}", f"What is {number}?", "", capabilities, k, "it")


def test_the_summary_gives_the_figures_of_the_paper(tmp_path: Path) -> None:
    combinations = [
        (),
        ("color",),
        ("color", "shape"),
        ("color", "counting"),
        ("color", "shape", "counting"),
        ("shape",),
    ]
    annotations = [make_annotation(number, *names) for number, names in enumerate(combinations)]
    with Journal.open(tmp_path / "run", {"method": "annotate", "source": "scenes"}) as journal:
        for number, annotation in enumerate(annotations):
            rejects = (Reject("conversation", "empty question", "train/9"),) if number < 2 else ()
            body = to_json(AnnotationOutcome((annotation,), rejects, "model-2" if number else "model-1"))
            journal.record_outcome(FinishedImage(annotation.image_id, annotation.row, body, 1))
    summary = summarize(tmp_path / "run")
    assert (summary.pictures, summary.questions) == (6, 6)
    assert summary.mean_k == pytest.approx(9 / 6)
    assert summary.mode_k == 1  # k = 2 is as frequent, but larger
    assert summary.at_most_2 == pytest.approx(5 / 6)
    assert summary.none_needed == pytest.approx(1 / 6)
    assert summary.by_k == {0: 1, 1: 2, 2: 2, 3: 1}
    assert Counter(summary.by_capability) == Counter(color=4, shape=3, counting=2)
    assert summary.by_pair == (
        CapabilityPair("color", "counting", 2),
        CapabilityPair("color", "shape", 2),
        CapabilityPair("shape", "counting", 1),
    )
    assert summary.rejects == {"empty question": 2}
    assert summary.verifiers == ("model-1", "model-2")
    assert list(iter_annotations(tmp_path / "run")) == annotations


def test_a_run_without_any_annotation_has_no_mean(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", {"method": "annotate", "source": "scenes"}):
        pass
    summary = summarize(tmp_path / "run")
    assert (summary.questions, summary.mean_k, summary.mode_k, summary.at_most_2, summary.by_k) == (
        0,
        None,
        None,
        None,
        {},
    )


def test_the_table_keeps_its_types_where_nothing_is_needed(tmp_path: Path) -> None:
    (data,) = make_images(1)
    response = content_response(json.dumps({"capabilities": [], "answer": "it"}))
    with GeminiServer(fault=lambda request, number: response) as server:
        annotate(
            str(write_questions_dataset(tmp_path / "one", [(data, "Hm?", "")])),
            tmp_path / "run",
            verifier_url=server.url,
        )
    dataset = load_dataset("parquet", data_files=str(tmp_path / "run" / ANNOTATIONS_FILE), split="train")
    assert dataset[0]["capabilities"] == []
    assert dataset.features["capabilities"].feature.dtype == "string"
    assert [path.name for path in (tmp_path / "run").iterdir() if "writing" in path.name] == []


def test_another_data_set_is_another_run(folder: Path, server: GeminiServer, tmp_path: Path) -> None:
    annotate(str(folder), tmp_path / "run", verifier_url=server.url, limit=1)
    before = (tmp_path / "run" / ANNOTATIONS_FILE).read_bytes()
    other_dataset = write_questions_dataset(tmp_path / "other", [(data, "What else?", "") for data in make_images(2)])
    with pytest.raises(SettingsMismatchError, match="rows was"):
        annotate(str(other_dataset), tmp_path / "run", verifier_url=server.url)
    assert (tmp_path / "run" / ANNOTATIONS_FILE).read_bytes() == before


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    generate("scenes:1", tmp_path / "run")
    for read in (summarize, lambda run: list(iter_annotations(run))):
        with pytest.raises(UsageError, match="is a run of compact, not of annotate"):
            read(tmp_path / "run")
    with pytest.raises(UsageError, match="is not a run"):
        summarize(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"dataset": "nothing-here"}, UsageError, "give a directory, a JSON file, or the org/name"),
        ({"dataset": "{folder}/train-00000-of-00001.parquet"}, UsageError, "is not a JSON file"),
        ({"dataset": "{folder}", "image_root": "x"}, UsageError, "--image-root applies only to a JSON file"),
        ({"dataset": "{folder}", "split": "test"}, SourceError, "has the splits train"),
        ({"dataset": "{folder}", "verifier": "scenes"}, UsageError, "only supports drawn scenes"),
        ({"dataset": "{folder}", "max_edge": 0}, UsageError, "max-edge"),
        ({"dataset": "{folder}", "limit": 0}, UsageError, "limit"),
        ({"dataset": "missing.json"}, UsageError, "cannot be read"),
        ({"dataset": "x.json", "split": "train"}, UsageError, "has no splits: omit --split"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    arguments: dict[str, Any], error: type[Exception], told: str, folder: Path, tmp_path: Path
) -> None:
    dataset = arguments.pop("dataset").format(folder=folder)
    with pytest.raises(error, match=told) as excinfo:
        annotate(dataset, tmp_path / "run", **arguments)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "run").exists()


def test_the_command_tells_tables_or_json(
    folder: Path, server: GeminiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["annotate", str(folder), "--out", str(tmp_path / "run"), "--verifier-url", server.url]
    assert main([*arguments, "--max-requests", "5"]) == 3
    assert "--max-requests" in capsys.readouterr().err
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    summary = summarize(tmp_path / "run")
    assert f"{2 * IMAGE_COUNT} questions about {IMAGE_COUNT} images, judged by gemini" in out
    assert f"mean k {summary.mean_k:.2f}, mode {summary.mode_k};" in out
    for name, count in summary.by_capability.items():
        assert re.search(rf"^{name} +{count} ", out, re.MULTILINE)
    assert "annotations.parquet" in err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by_k"] == {str(k): count for k, count in summary.by_k.items()}
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "method annotate" in capsys.readouterr().out
    assert len(server.requests) == IMAGE_COUNT
