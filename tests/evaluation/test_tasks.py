"""Tests that a task from another package works like `compact`: it is asked, killed, resumed, scored and shown."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compact_hf import compare, evaluate, read_predictions
from compact_hf.cli.main import main
from compact_hf.errors import EvaluationError, SettingsMismatchError, UsageError
from compact_hf.evaluation.task import GROUP, choose_task, load_task
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.testing.openai import OpenAIServer
from compact_hf.training.card_results import read_card_results
from tests import preforked
from tests.evaluation.test_evaluate import KILL_SCRIPT, read_outputs
from tests.training.samples import COLORS, draw_image, texts

PACKAGE = '''
"""Name the color of a thing: a list of `FILE<tab>COLOR<tab>SHAPE` whose name ends in .colors."""

from dataclasses import dataclass
from pathlib import Path

from compact_hf.evaluation.questions import Prediction, Question, QuestionSet
from compact_hf.evaluation.scoring import Headline, Results
from compact_hf.evaluation.task import EvaluationTask, PublishedScore
from compact_hf.reports.table import Table


class Colors(EvaluationTask):
    version = "7"
    max_new_tokens = 4
    published = (PublishedScore("LLaVA-1.5-7B", 0.625, "Liu et al. 2024, table 9"),)

    def recognizes(self, dataset):
        return dataset.endswith(".colors")

    def read(self, dataset, options):
        options.refuse(dataset)
        path = Path(dataset)
        rows = [line.split("\\t") for line in path.read_text().splitlines()]
        return QuestionSet(path.name, tuple(
            Question(
                id=f"{number}", image_id=name, question="Which color?", answers=(color,), parts={"shape": shape},
                read_image=(path.parent / name).read_bytes,
            )
            for number, (name, color, shape) in enumerate(rows)
        ))

    def get_prompt(self, question):
        return f"{question.question} Reply with one word."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths(Results):
    mean: float
    n: int

    @property
    def headline(self):
        return Headline("length", self.n, self.mean, 0.0, 1.0)

    def table(self):
        return Table(("n", "mean length"), [(self.n, f"{self.mean:.2f}")])

    def details(self):
        return {"mean": self.mean}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded(Prediction):
    grade: float

    def points(self):
        return self.grade


class Brevity(Colors):
    """Not right or wrong, and never recognized."""

    prediction_type = Graded
    rules = {}
    controls = {}
    published = ()

    def recognizes(self, dataset):
        return False

    def mark(self, question, answer, matching):
        return Graded(
            id=question.id, picture=question.image_id, question=question.question, answers=question.answers,
            parts=question.parts, prediction=answer, right=len(answer) < 5, grade=1 / (1 + len(answer)),
        )

    def score(self, predictions, *, model, dataset, matching):
        mean = sum(item.points() for item in predictions) / len(predictions)
        return Lengths(task=self.name, task_version=self.version, model=model, dataset=dataset, matching=matching,
                       mean=mean, n=len(predictions))
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the package as pip does, with a module and a dist-info directory, in a directory on the path."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "color_words.py").write_text(PACKAGE, encoding="utf-8")
    dist_info = directory / "color_words-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: color_words\nVersion: 1.0\n", encoding="utf-8")
    (dist_info / "entry_points.txt").write_text(f"[{GROUP}]\ncolors = color_words:Colors\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        yield directory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("models")
    return [str(build_tiny(directory / name, texts(4), seed=seed)) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("data")
    lines = []
    for number, (color, shape) in enumerate((color, shape) for color in COLORS for shape in ("disc", "square")):
        (directory / f"{number}.png").write_bytes(draw_image(color, shape=shape))
        lines.append(f"{number}.png\t{color}\t{shape}")
    (directory / "things.colors").write_text("\n".join(lines))
    return str(directory / "things.colors")


@pytest.fixture(scope="module")
def done(site: Path, models: list[str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    evaluate(models, data, out, batch_size=2)
    return out


def test_it_is_found_from_its_data_and_results_name_it_with_its_version(done: Path) -> None:
    results = json.loads((done / "results.json").read_text(encoding="utf-8"))
    assert (results["schema"], results["task"], results["task_version"]) == (3, "colors", "7")
    assert (results["dataset"], results["matching"], len(results["comparisons"])) == ("things.colors", "exact", 1)
    for model in results["models"]:
        assert (model["task"], model["task_version"], model["headline"]["metric"]) == ("colors", "7", "accuracy")
        assert {shape: score["n"] for shape, score in model["by_shape"].items()} == {"disc": 3, "square": 3}
        assert not {"by_k", "by_capability", "by_pair"} & model.keys()
    manifest = json.loads((done / "evaluation.json").read_text(encoding="utf-8"))
    assert (manifest["task"], manifest["task_version"], manifest["max_new_tokens"]) == ("colors", "7", 4)


def test_its_predictions_come_back_with_their_parts_and_are_compared(done: Path) -> None:
    first, second = read_predictions(done / "first"), read_predictions(done / "second")
    assert [(item.id, item.answers, item.parts) for item in first] == [
        (f"{number}", (color,), {"shape": shape})
        for number, (color, shape) in enumerate((color, shape) for color in COLORS for shape in ("disc", "square"))
    ]
    assert compare(second, first).n == 6


def test_a_killed_command_goes_on_in_another_process_and_ends_with_the_same_files(
    site: Path, models: list[str], data: str, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", *models, data, "--task", "colors", "--out", str(out), "--batch-size", "2"]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    process = preforked.run(
        [sys.executable, "-c", KILL_SCRIPT, "SIGKILL", *command], env={**os.environ, "PYTHONPATH": path}
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len((out / "first" / "predictions.part.jsonl").read_bytes().splitlines()) == 2
    assert main(command) == 0
    assert read_outputs(out) == read_outputs(done)


def test_its_table_is_printed_beside_published_scores(
    site: Path, models: list[str], data: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *models, data, "--out", str(done), "--batch-size", "2"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines() if line.startswith(("all", "disc", "square"))] == [
        ["all", "6"],
        ["disc", "3"],
        ["square", "3"],
    ] * 2
    assert "LLaVA-1.5-7B" in printed
    assert "Liu et al. 2024, table 9" in printed


def test_its_page_shows_headline_parts_examples_and_published_scores(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    for expected in (
        "6 questions: the share of right answers.",
        "3 of disc, 3 of square",
        '<h2 id="by-shape">By shape</h2>',
        '<li class="" title="shape">square</li>',
        "Which color?",
        "Liu et al. 2024, table 9",
        "62.5",
        "colors, version 7",
    ):
        assert expected in page, expected
    assert "k = " not in page
    assert "capabilit" not in page.partition("</style>")[2]


def test_its_plan_counts_its_parts(
    site: Path, models: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", models[0], data, "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("things.colors: 6 questions about 6 images; 3 of disc, 3 of square\n")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by_shape"] == {"disc": 3, "square": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["scenes:1"], "dataset was"),
        (["DATA", "--limit", "2"], "dataset_identity was"),
        (["DATA", "--max-new-tokens", "3"], "max_new_tokens was"),
    ],
)
def test_its_plan_refuses_a_directory_of_another_evaluation_as_the_evaluation_does(
    site: Path,
    done: Path,
    models: list[str],
    data: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [data if word == "DATA" else word for word in options]
    for flags in (["--dry-run"], []):
        assert main(["evaluate", models[0], *words, "--out", str(done), *flags]) == 2
        assert message in capsys.readouterr().err


def test_its_scores_go_into_a_models_card(done: Path, models: list[str]) -> None:
    results = read_card_results(Path(models[1]), done)
    assert (results.task, results.metric, results.model) == ("colors", "accuracy", "second")
    assert [row[:2] for row in results.table().rows] == [("all", "6"), ("disc", "3"), ("square", "3")]
    assert results.plot().title == "Accuracy by shape"
    assert [item.metric_args for item in results.eval_results()] == [None, {"shape": "disc"}, {"shape": "square"}]


def test_a_server_is_asked_in_its_words_and_its_control_takes_the_image_away(
    site: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(key=None) as server:
        evaluate("openai:double", data, tmp_path / "seen", url=server.url)
        assert {(request.prompt, bool(request.image)) for request in server.requests} == {
            ("Which color? Reply with one word.", True)
        }
        asked = server.request_count
        blind = evaluate("openai:double", data, tmp_path / "blind", control="blind", url=server.url)
        assert [bool(request.image) for request in server.requests[asked:]] == [False] * 6
    assert blind.dataset == "things.colors, without images"
    assert blind.read_image("0") is None
    assert "<img" not in (tmp_path / "blind" / "report.html").read_text(encoding="utf-8")


def test_another_version_of_it_is_not_taken_for_the_one_that_judged(
    site: Path, models: list[str], data: str, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(load_task("colors")), "version", "8")
    with pytest.raises(SettingsMismatchError, match="task_version was '7', now '8'"):
        evaluate(models, data, done, batch_size=2)


def test_one_that_nobody_registered_is_given_by_its_path_and_may_have_scores_of_its_own(
    site: Path, models: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, name = tmp_path / "out", "color_words:Brevity"
    assert main(["evaluate", *models, data, "--task", name, "--out", str(out), "--batch-size", "3"]) == 0
    assert "mean length" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (results["task"], results["matching"]) == (name, "")
    assert results["models"][0]["headline"].keys() == {"metric", "n", "value", "low", "high"}
    first, second = read_predictions(out / "first"), read_predictions(out / "second")
    assert all(item.points() == 1 / (1 + len(item.prediction)) for item in first)
    means = [model["headline"]["value"] for model in results["models"]]
    assert compare(second, first).difference == pytest.approx(means[1] - means[0])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "majority answer" not in page
    assert f"--task</span> {name}" in page
    card = read_card_results(Path(models[0]), out)
    assert [tuple(row[:2]) for row in card.table().rows] == [("all", "6")]
    assert card.table().head == ("questions", "n", "this model (95%)", "second (95%)")
    assert (card.plot().title, card.eval_results()[0].metric_type) == ("Length", "length")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"task": "colour"}, r"'colour' is not one of the tasks \(.*colors.*\); install .*; did you mean colors"),
        ({"task": "color_words:Path"}, "is not an evaluation task .* give a class derived from EvaluationTask"),
        ({"control": "blinde"}, "the task colors has no control 'blinde' .*did you mean blind"),
        ({"task": "color_words:Brevity", "control": "blind"}, r"has no control 'blind' \(it has none\)"),
        ({"matching": "relax"}, "the rules are exact and relaxed; did you mean relaxed"),
        ({"task": "color_words:Brevity", "matching": "exact"}, "the rules are none"),
        ({"split": "test"}, "has no configs, splits or columns"),
        ({"control": "blind", "swap_pictures": True}, "give only one"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line_before_anything_is_written(
    site: Path, models: list[str], data: str, tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as excinfo:
        evaluate(models[0], data, tmp_path / "out", **arguments)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "out").exists()


def test_two_questions_of_one_id_are_refused(site: Path, models: list[str], data: str, tmp_path: Path) -> None:
    path = tmp_path / "color_twice.py"
    path.write_text(
        "from color_words import Colors\n"
        "class Twice(Colors):\n"
        "    def read(self, dataset, options):\n"
        "        questions = super().read(dataset, options)\n"
        "        return type(questions)('twice', questions.questions * 2)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(EvaluationError, match="twice has two questions with the id '0'; make ids unique"):
            evaluate(models[0], data, tmp_path / "out", task="color_twice:Twice")


def test_data_that_no_task_recognizes_are_asked_about_by_k(site: Path) -> None:
    assert choose_task(None, "scenes:4").name == "compact"
    assert choose_task(None, "things.colors").name == "colors"
