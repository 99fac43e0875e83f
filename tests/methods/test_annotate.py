"""`compact annotate`: what is said of a data set's questions, over real HTTP and about drawn scenes."""

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
from compact_hf.errors import JournalError, SettingsMismatchError, SourceError, StoppedEarly, TeacherError, UsageError
from compact_hf.methods.annotate.annotate import ANNOTATIONS_FILE, annotate, iter_annotations, summarize
from compact_hf.methods.annotate.annotation import Annotation, AnnotationOutcome
from compact_hf.methods.compact.complexity import CapabilityPair
from compact_hf.methods.compact.generate import generate
from compact_hf.methods.compact.status import status
from compact_hf.methods.verification import QUESTIONS_PER_REQUEST
from compact_hf.records import Reject, to_json
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.testing.gemini import GeminiServer, ModelRequest, content_response, error_response
from tests.methods.data_sets import pictures, questions_folder, scenes_file

PICTURES = 12
SECRET = "an answer that nobody may see"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures with two questions each, the rows of a picture far apart."""
    rows = [(data, f"What is {about} here?", SECRET) for about in ("first", "second") for data in pictures(PICTURES)]
    return questions_folder(tmp_path_factory.mktemp("asked") / "photographs", rows)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


def table(run: Path) -> list[dict[str, Any]]:
    return list(load_dataset("parquet", data_files=str(run / ANNOTATIONS_FILE), split="train"))


@pytest.mark.parametrize("limit", [None, 7])
def test_scenes_are_annotated_with_exactly_what_their_questions_were_made_to_need(
    limit: int | None, tmp_path: Path
) -> None:
    file, turns = scenes_file(tmp_path, "scenes:40")
    found = annotate(str(file), tmp_path / "run", image_root="scenes:40", limit=limit)
    told = {(one.row_id, one.turn): one for one in iter_annotations(tmp_path / "run")}
    scenes = sorted({ref for ref, _ in told})
    assert len(scenes) == (limit or len(turns))
    assert told.keys() == {(ref, at) for ref in scenes for at in range(len(turns[ref]))}
    for (ref, at), one in told.items():
        assert one.question == turns[ref][at].question
        assert (one.capabilities, one.k) == (turns[ref][at].capabilities, len(turns[ref][at].capabilities))
        assert one.verifier_answer == one.answer == turns[ref][at].answer
    assert found.questions == len(told)
    assert found.by_k == {k: sum(one.k == k for one in told.values()) for k in range(4)}
    assert not found.rejects


def test_rows_about_one_picture_share_a_request_and_no_answer_is_shown(
    folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    found = annotate(str(folder), tmp_path / "run", verifier_url=server.url)
    assert found.questions == 2 * PICTURES
    assert len(server.requests) == PICTURES
    for asked in server.requests:
        assert "What is first here?" in asked.prompt
        assert "What is second here?" in asked.prompt
        assert SECRET not in asked.prompt
    assert {one.row for one in iter_annotations(tmp_path / "run")} == {f"train/{row}" for row in range(2 * PICTURES)}


def test_many_questions_about_a_picture_go_out_in_parts(server: GeminiServer, tmp_path: Path) -> None:
    (data,) = pictures(1)
    count = 2 * QUESTIONS_PER_REQUEST + 1
    rows = [(data, f"What is number {number}?", "it") for number in range(count)] * 2
    found = annotate(str(questions_folder(tmp_path / "many", rows)), tmp_path / "run", verifier_url=server.url)
    assert found.questions == 2 * count
    assert [len(told) for told in (server.requests, {asked.prompt for asked in server.requests})] == [3, 3]
    by_question: dict[str, set[tuple[str, ...]]] = {}
    for one in iter_annotations(tmp_path / "run"):
        by_question.setdefault(one.question, set()).add(one.capabilities)
    assert all(len(said) == 1 for said in by_question.values())
    assert len(set.union(*by_question.values())) > 3, "verdicts were not told apart"


def test_whatever_stops_it_the_same_call_goes_on_and_nothing_is_asked_twice(folder: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        annotate(str(folder), tmp_path / "clean", verifier_url=server.url)

    def revoke(asked: ModelRequest, number: int) -> Response | None:
        return error_response(403, "PERMISSION_DENIED", "revoked") if number >= 3 else None

    run = tmp_path / "run"
    with GeminiServer(fault=revoke) as server, pytest.raises(TeacherError):
        annotate(str(folder), run, verifier_url=server.url, concurrency=1)
    assert len(table(run)) == 2 * 3
    with GeminiServer() as server:
        with pytest.raises(StoppedEarly):
            annotate(str(folder), run, verifier_url=server.url, max_requests=7)
        assert len(server.requests) == 4
        assert len(table(run)) == 2 * 7
        annotate(str(folder), run, verifier_url=server.url)
        annotate(str(folder), run, verifier_url=server.url, limit=1)
        assert len(server.requests) == PICTURES - 3
    assert table(run) == table(tmp_path / "clean")
    assert summarize(run) == summarize(tmp_path / "clean")


def test_everything_that_cannot_be_annotated_is_counted(tmp_path: Path) -> None:
    good, other, odd = pictures(3)
    rows = [
        (good, "What is it?", "x"),
        (None, "What is 1 + 1?", "2"),
        (b"no picture at all", "What is it?", "x"),
        (good, "  ", "x"),
        (other, "Where is it?", "x"),
        (odd, "How is it?", "x"),
        (odd, "Why is it?", "x"),
    ]

    def fault(asked: ModelRequest, number: int) -> Response | None:
        if "How is it?" in asked.prompt:  # one verdict for two questions
            return content_response(json.dumps({"verdicts": [{"number": 2, "capabilities": [], "answer": "x"}]}))
        return content_response(None, finish="SAFETY") if "Where is it?" in asked.prompt else None

    with GeminiServer(fault=fault) as server:
        found = annotate(str(questions_folder(tmp_path / "odd", rows)), tmp_path / "run", verifier_url=server.url)
    assert (found.pictures, found.questions) == (3, 2)
    assert found.rejects == {
        "empty question": 1,
        "malformed verdict": 1,
        "no picture": 1,
        "not a picture": 1,
        "verifier declined": 1,
    }
    assert found.questions + sum(found.rejects.values()) == len(rows)
    assert {(one.stage, one.reason): one.count for one in status(tmp_path / "run").rejects} == {
        ("picture", "no picture"): 1,
        ("picture", "not a picture"): 1,
        ("verification", "verifier declined"): 1,
        ("verification", "malformed verdict"): 1,
        ("conversation", "empty question"): 1,
    }


def annotation(number: int, *capabilities: str) -> Annotation:
    k = len(capabilities)
    return Annotation(f"train/{number}", "", 0, f"{number:032x}", f"What is {number}?", "", capabilities, k, "it")


def test_the_summary_gives_the_figures_of_the_paper(tmp_path: Path) -> None:
    needs = [(), ("color",), ("color", "shape"), ("color", "counting"), ("color", "shape", "counting"), ("shape",)]
    found = [annotation(number, *names) for number, names in enumerate(needs)]
    with Journal.open(tmp_path / "run", {"method": "annotate"}) as journal:
        for number, one in enumerate(found):
            rejects = (Reject("conversation", "empty question", "train/9"),) if number < 2 else ()
            body = to_json(AnnotationOutcome((one,), rejects, "model-2" if number else "model-1"))
            journal.record_outcome(FinishedImage(one.image_id, one.row, body, 1))
    told = summarize(tmp_path / "run")
    assert (told.pictures, told.questions) == (6, 6)
    assert told.mean_k == pytest.approx(9 / 6)
    assert told.mode_k == 1  # as often as 2, and smaller
    assert told.at_most_2 == pytest.approx(5 / 6)
    assert told.none_needed == pytest.approx(1 / 6)
    assert told.by_k == {0: 1, 1: 2, 2: 2, 3: 1}
    assert Counter(told.by_capability) == Counter(color=4, shape=3, counting=2)
    assert told.by_pair == (
        CapabilityPair("color", "counting", 2),
        CapabilityPair("color", "shape", 2),
        CapabilityPair("shape", "counting", 1),
    )
    assert told.rejects == {"empty question": 2}
    assert told.verifiers == ("model-1", "model-2")
    assert list(iter_annotations(tmp_path / "run")) == found


def test_a_run_without_any_annotation_has_no_mean(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", {"method": "annotate"}):
        pass
    told = summarize(tmp_path / "run")
    assert (told.questions, told.mean_k, told.mode_k, told.at_most_2, told.by_k) == (0, None, None, None, {})


def test_the_table_keeps_its_types_where_nothing_is_needed(tmp_path: Path) -> None:
    (data,) = pictures(1)
    none = content_response(json.dumps({"capabilities": [], "answer": "it"}))
    with GeminiServer(fault=lambda asked, number: none) as server:
        annotate(
            str(questions_folder(tmp_path / "one", [(data, "Hm?", "")])), tmp_path / "run", verifier_url=server.url
        )
    loaded = load_dataset("parquet", data_files=str(tmp_path / "run" / ANNOTATIONS_FILE), split="train")
    assert loaded[0]["capabilities"] == []
    assert loaded.features["capabilities"].feature.dtype == "string"
    assert [path.name for path in (tmp_path / "run").iterdir() if "writing" in path.name] == []


def test_another_data_set_is_another_run(folder: Path, server: GeminiServer, tmp_path: Path) -> None:
    annotate(str(folder), tmp_path / "run", verifier_url=server.url, limit=1)
    before = (tmp_path / "run" / ANNOTATIONS_FILE).read_bytes()
    other = questions_folder(tmp_path / "other", [(data, "What else?", "") for data in pictures(2)])
    with pytest.raises(SettingsMismatchError, match="rows was"):
        annotate(str(other), tmp_path / "run", verifier_url=server.url)
    assert (tmp_path / "run" / ANNOTATIONS_FILE).read_bytes() == before


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    generate("scenes:1", tmp_path / "run")
    for read in (summarize, lambda run: list(iter_annotations(run))):
        with pytest.raises(UsageError, match="is a run of compact, not of annotate"):
            read(tmp_path / "run")
    with pytest.raises(JournalError, match="is not a run"):
        summarize(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"dataset": "nothing-here"}, UsageError, "give a folder, a JSON file, or org/name"),
        ({"dataset": "{folder}/train-00000-of-00001.parquet"}, UsageError, "a file of another kind"),
        ({"dataset": "{folder}", "image_root": "x"}, UsageError, "--image-root is for the paths in a JSON file"),
        ({"dataset": "{folder}", "split": "test"}, SourceError, "has the splits train"),
        ({"dataset": "{folder}", "verifier": "scenes"}, UsageError, "only knows drawn scenes"),
        ({"dataset": "{folder}", "max_edge": 0}, UsageError, "max-edge"),
        ({"dataset": "{folder}", "limit": 0}, UsageError, "limit"),
        ({"dataset": "missing.json"}, UsageError, "cannot be read"),
        ({"dataset": "x.json", "split": "train"}, UsageError, "has none; leave --split out"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    arguments: dict[str, Any], error: type[Exception], told: str, folder: Path, tmp_path: Path
) -> None:
    dataset = arguments.pop("dataset").format(folder=folder)
    with pytest.raises(error, match=told) as caught:
        annotate(dataset, tmp_path / "run", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_command_tells_tables_or_json(
    folder: Path, server: GeminiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["annotate", str(folder), "--out", str(tmp_path / "run"), "--verifier-url", server.url]
    assert main([*words, "--max-requests", "5"]) == 3
    assert "--max-requests" in capsys.readouterr().err
    assert main(words) == 0
    out, err = capsys.readouterr()
    found = summarize(tmp_path / "run")
    assert f"{2 * PICTURES} questions about {PICTURES} pictures, judged by gemini" in out
    assert f"mean k {found.mean_k:.2f}, mode {found.mode_k};" in out
    for name, count in found.by_capability.items():
        assert re.search(rf"^{name} +{count} ", out, re.MULTILINE)
    assert "annotations.parquet" in err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by_k"] == {str(k): count for k, count in found.by_k.items()}
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "method annotate" in capsys.readouterr().out
    assert len(server.requests) == PICTURES
