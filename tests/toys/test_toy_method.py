"""A method from a package of one file goes all the way, from a run to the Hub; no other file knows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.show import show
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import JournalError, NothingKeptError, StoppedEarly, UsageError
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.predict import read_predictions
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.generate import generate
from compact_hf.methods.registry import get_method, list_methods
from compact_hf.methods.row_kind import Column, RowKind
from compact_hf.methods.status import status
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.records import Message, Row, digest, is_validation_image
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.training.train import tune
from tests.dataset.samples import make_image
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source
from tests.training.samples import MODEL_SIZE, make_settings

SCENES = "scenes:60"
COMMAND = (sys.executable, "-c", "import sys; from compact_hf.cli.main import main; sys.exit(main())")


def install(directory: Path) -> None:
    """Install the toy's package, as pip does: the module and a dist-info beside it."""
    shutil.copy(Path(__file__).with_name("toy_method.py"), directory)
    dist_info = directory / "toy_method-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_method\nVersion: 1.0\n", encoding="utf-8")
    (dist_info / "entry_points.txt").write_text(
        "[compact_hf.methods]\ncaptions = toy_method:Captions\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    install(directory)
    return directory


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.fixture(scope="module")
def clean(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with planted faults that nothing disturbed."""
    run = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        generate(SCENES, run, method="captions", tone="lively", noise=0.3)
    return run


def read_outcomes(run: Path) -> list[tuple[str, str]]:
    with Journal.read(run) as journal:
        return [(finished.image_id, finished.body) for finished in journal.outcomes()]


def test_it_is_listed_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"annotate", "augment", "captions", "compact"} <= set(list_methods())
    assert main(["method", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"] == {
        "makes": "captions",
        "needs": "images",
        "asks": ["teacher", "verifier"],
        "options": ["tone"],
        "reject_reasons": ["untrue caption", "no caption"],
    }


def test_a_run_is_counted_with_its_own_reasons_and_faults(clean: Path) -> None:
    run_status = status(clean)
    assert run_status.identity["method"] == "captions"
    assert run_status.identity["tone"] == "lively"
    assert run_status.finished == 60
    (reject,) = run_status.rejects
    assert (reject.stage, reject.reason) == ("verification", get_method("captions").reject_reasons[0].UNTRUE)
    (fault,) = run_status.planted
    assert (fault.fault, fault.count, fault.passed) == ("exaggeration", reject.count, 0)
    assert 0 < reject.count < 60
    assert run_status.questions == run_status.conversations == 60 - reject.count


def test_a_run_that_is_killed_comes_to_the_same(clean: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["generate", SCENES, "--out", str(run), "--method", "captions", "--tone", "lively", "--noise", "0.3"]
    # The real command, to be killed: a start is part of what is tested. Slowly, so that it is not done before.
    command = [*COMMAND, *arguments, "--rpm", "300"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ)) as child:
        while child.poll() is None and not count_finished(run):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert 0 < count_finished(run) < 60
    generate(SCENES, run, method="captions", tone="lively", noise=0.3)
    assert read_outcomes(run) == read_outcomes(clean)


def count_finished(run: Path) -> int:
    if not (run / FILE_NAME).is_file():
        return 0
    try:
        with Journal.read(run) as journal:
            return journal.counts()[0]
    except JournalError:  # the file is being made
        return 0


def test_a_budget_stops_it_and_the_same_call_resumes(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly):
        generate(SCENES, tmp_path / "run", method="captions", tone="lively", noise=0.3, max_requests=7)
    generate(SCENES, tmp_path / "run", method="captions", tone="lively", noise=0.3)
    assert read_outcomes(tmp_path / "run") == read_outcomes(clean)


def test_shards_come_to_the_whole(clean: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        shard = tmp_path / f"shard-{index}-of-2"
        generate(SCENES, shard, method="captions", tone="lively", noise=0.3, shard=f"{index}/2")
    assert status(tmp_path).questions == status(clean).questions


def test_a_dry_run_counts_its_requests_and_learns_from_the_run(clean: Path, tmp_path: Path) -> None:
    forecast = dry_run("scenes:100", tmp_path / "new", method="captions")
    assert [(line.kind, line.requests) for line in forecast.lines] == [("teacher", 100), ("verifier", 100)]
    resumed = dry_run("scenes:160", clean, method="captions", tone="lively")
    assert (resumed.pictures, resumed.finished, resumed.requests) == (100, 60, 200)
    assert resumed.questions == round(100 * status(clean).questions / 60)
    with pytest.raises(UsageError, match="tone was 'lively', now 'plain'"):
        dry_run("scenes:160", clean, method="captions")


def test_its_option_is_a_flag_where_it_is_named_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main(["generate", "scenes:2", "--out", run, "--method=captions", "--tone", "lively"]) == 0
    assert main(["status", run]) == 0
    assert "method captions" in capsys.readouterr().out
    for arguments in (["--tone", "lively"], ["--method", "captions", "--strict"]):
        with pytest.raises(SystemExit, match="2"):
            main(["generate", "scenes:2", "--out", run, *arguments])
        assert "unrecognized arguments" in capsys.readouterr().err
    assert main(["generate", "scenes:2", "--out", run, "--method", "captoins"]) == 2
    assert "did you mean captions" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["generate", "--method", "captions", "--help"])
    assert "--tone TONE" in capsys.readouterr().out


def test_a_keyword_of_another_method_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'tune' for the method captions; did you mean tone"
    ):
        generate("scenes:2", tmp_path / "run", method="captions", tune="lively")
    with pytest.raises(TypeError, match="'tone' for the method compact"):
        generate("scenes:2", tmp_path / "run", tone="lively")


def test_a_method_by_its_path_stands_in_the_identity(tmp_path: Path) -> None:
    generate("scenes:2", tmp_path / "run", method="toy_method:Captions")
    assert status(tmp_path / "run").identity["method"] == "toy_method:Captions"
    assert status(tmp_path / "run").finished == 2
    with pytest.raises(UsageError, match="not a method"):
        generate("scenes:2", tmp_path / "other", method="toy_method:CaptionReply")


def test_a_dataset_needs_a_method_that_is_registered(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "modules").mkdir()
    shutil.copy(site / "toy_method.py", tmp_path / "modules" / "unregistered.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *(path for path in sys.path if path != str(site))])
    assert main(["generate", "scenes:4", "--out", str(tmp_path / "run"), "--method", "unregistered:Captions"]) == 0
    assert main(["assemble", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--version", "1.0.0"]) == 2
    assert "rows of captions cannot be validated because no installed package registers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_the_method_s_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    entry_points = tmp_path / "toy_method-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text(entry_points.read_text().replace("captions =", "descriptions ="), encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError, match="the method descriptions calls itself captions"):
        get_method("descriptions")


@pytest.mark.parametrize("name", ["limit", "runner"])
def test_an_option_that_every_run_has_is_refused(name: str, tmp_path: Path, site: Path) -> None:
    (site / f"clashing_{name}.py").write_text(
        "from dataclasses import dataclass\n"
        "from compact_hf.methods.base import Method\n"
        f"@dataclass(frozen=True)\nclass Options: {name}: int = 3\n"
        "class Clash(Method): name = 'clash'; summary = ''; options = Options\n",
        encoding="utf-8",
    )
    with pytest.raises(UsageError, match=rf"options that every run has \({name}\)"):
        generate("scenes:2", tmp_path / "run", method=f"clashing_{name}:Clash")


@pytest.fixture(scope="module")
def mixed(clean: Path, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two methods about the same images."""
    directory = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        generate(SCENES, directory / "run")
        assemble([directory / "run", clean], directory / "dataset", version="1.0.0", max_similarity=1)
    return directory / "dataset"


def test_a_dataset_of_two_methods_has_the_columns_of_both(mixed: Path) -> None:
    from datasets import load_dataset

    everything = load_dataset(str(mixed), "all")
    assert everything["train"].column_names == [
        *("id", "images", "messages", "num_words", "k", "capabilities", "turns", "source", "image_id", "image_source"),
        *("image_license", "teacher", "verifier", "preset_version"),
    ]
    rows = [row for split in everything.values() for row in split]
    captions = [row for row in rows if row["source"] == "captions"]
    questions = [row for row in rows if row["source"] == "compact"]
    assert len(captions) + len(questions) == len(rows) > len(captions) > 0
    assert {row["k"] for row in captions} == {None}
    assert all(row["turns"] == row["capabilities"] == [] for row in captions)
    assert {row["num_words"] for row in questions} == {None}
    assert {len(row["images"]) for row in rows} == {1}
    own = load_dataset(str(mixed), "captions")
    assert sorted(row["id"] for split in own.values() for row in split) == sorted(row["id"] for row in captions)
    # An image is for validation or for training, whichever method asked about it.
    held_out = {row["image_id"] for row in everything["validation"]}
    assert held_out.isdisjoint(row["image_id"] for row in everything["train"])


def test_its_rows_are_checked_and_its_card_says_what_was_counted(mixed: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert validate(mixed).is_valid
    card = (mixed / "README.md").read_text(encoding="utf-8")
    file = pq.read_table(mixed / "data/captions/train-00000-of-00001.parquet")
    words = sum(len(message[1]["content"].split()) for message in file["messages"].to_pylist())
    held_out = mixed / "data/captions/validation-00000-of-00001.parquet"
    if held_out.is_file():
        words += sum(pq.read_table(held_out)["num_words"].to_pylist())
    assert f"{words} words in" in card
    assert "# Captions and COMPACT 1.0.0" in card
    assert "; tone lively" in card
    assert "| `num_words` | number of words in the caption |" in card
    assert "| k = 2 |" in card  # and what the other method has to say

    shutil.copytree(mixed, tmp_path / "other")
    records = file.to_pylist()
    records[0]["num_words"] += 1
    records[1]["k"] = 2
    pq.write_table(
        pa.Table.from_pylist(records, schema=file.schema),
        tmp_path / "other/data/captions/train-00000-of-00001.parquet",
    )
    assert validate(tmp_path / "other").counts == {"words are not counted": 1, "column of another method": 1}


def test_without_its_package_a_dataset_says_what_is_missing(
    mixed: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(site)])
    report = validate(mixed)
    assert report.problems[0].detail.startswith("no installed method has the column num_words: install the package")
    assert len(load_dataset(str(mixed), "captions")["train"]) > 0  # who only reads needs no package at all


def test_it_is_shown_with_what_was_said(mixed: Path, tmp_path: Path) -> None:
    page = show(mixed, tmp_path / "sheet", n=6).page.read_text(encoding="utf-8")
    assert "Describe the image." in page
    assert "things at this place" in page
    assert "k = 2" in page


def test_its_runs_are_shown_as_its_rows_are(clean: Path, tmp_path: Path) -> None:
    page = show(clean, tmp_path / "kept", n=6).page.read_text(encoding="utf-8")
    assert "things at this place" in page
    assert "rejected: " not in page
    page = show(clean, tmp_path / "dropped", n=6, rejects=True).page.read_text(encoding="utf-8")
    assert "rejected: untrue caption" in page


def test_what_a_teacher_refuses_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_method

    monkeypatch.setattr(
        toy_method.CaptionTask, "answer_about", lambda *arguments: toy_method.TruthfulReply(refused="SAFETY")
    )
    with pytest.raises(NothingKeptError, match="about any of the 3 images"):
        generate("scenes:3", tmp_path / "run", method="captions")
    ((reject),) = status(tmp_path / "run").rejects
    assert (reject.reason, reject.count) == ("no caption", 3)


@pytest.mark.parametrize("name", ["yes-no", "k1", "all", "instruction", "Captions"])
def test_a_name_that_no_config_can_have_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_method

    monkeypatch.setattr(toy_method.Captions, "name", name)
    with pytest.raises(UsageError, match="cannot be a method's name"):
        generate("scenes:2", tmp_path / "run", method="toy_method:Captions")


def test_a_column_that_is_not_named_or_that_all_rows_have_is_refused(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_method

    monkeypatch.setattr(toy_method.CaptionRow, "own_columns", lambda row: {"num_words": 1, "more": 2})
    with pytest.raises(UsageError, match=r"have a column more that the columns\(\) of the method"):
        assemble([clean], tmp_path / "dataset", version="1.0.0", max_similarity=1)
    column = toy_method.Captions.columns()["num_words"]
    monkeypatch.setattr(toy_method.Captions, "columns", classmethod(lambda cls: {"teacher": column}))
    with pytest.raises(UsageError, match="the column teacher of captions has the name of a common column"):
        assemble([clean], tmp_path / "dataset", version="1.0.0", max_similarity=1)


def test_it_is_published_and_read_back(mixed: Path, tmp_path: Path) -> None:
    source = """
import sys
from datasets import load_dataset
from compact_hf import publish
publish(sys.argv[1], "org/both")
told = {config: len(load_dataset("org/both", config, split="train")) for config in ("all", "captions", "k1")}
"""
    with HubServer() as server:
        counts = run_source(server, source, mixed, home=tmp_path / "home")
    assert counts["all"] > counts["captions"] > 0
    assert counts["k1"] > 0


@pytest.mark.usefixtures("preforked_training")
@pytest.mark.slow
def test_a_student_is_tuned_and_evaluated_on_it(clean: Path, mixed: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = [row for split in load_dataset(str(mixed)).values() for row in split]
    texts = [message["content"] for row in rows for message in row["messages"]]
    build_tiny(tmp_path / "tiny", texts, seed=0, size=MODEL_SIZE)
    settings = make_settings(tmp_path, dataset_name=str(mixed), output_dir=str(tmp_path / "student"), max_steps="2")
    assert tune("tiny-cpu", overrides=settings).steps == 2
    assemble([clean], tmp_path / "captions", version="1.0.0", max_similarity=1)
    out = tmp_path / "evaluation"
    evaluation = evaluate(tmp_path / "student", tmp_path / "captions", out, split="train", limit=6, batch_size=8)
    predictions = read_predictions(out / evaluation.slugs[0])
    assert len(predictions) == 6
    assert {prediction.question for prediction in predictions} == {"Describe the image."}
    assert all("things at this place" in answer for prediction in predictions for answer in prediction.answers)


def test_runs_of_methods_that_share_nothing_are_read_apart(clean: Path, tmp_path: Path, site: Path) -> None:
    code = (site / "toy_method.py").read_text(encoding="utf-8").replace('name = "captions"', 'name = "titles"')
    (site / "other_toy.py").write_text(code, encoding="utf-8")
    generate(SCENES, tmp_path / "titles", method="other_toy:Captions", tone="lively", noise=0.3)
    rows = [row for row in iter_rows([clean, tmp_path / "titles"], AssemblyOptions()) if isinstance(row, Row)]
    counts = Counter(row.source for row in rows)
    assert counts["captions"] == counts["titles"] > 0


def test_a_method_with_a_part_of_another_s_columns_changes_no_dataset(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_method
    from datasets import Value

    shown = toy_method.Captions.columns()
    monkeypatch.setattr(RowKind, "columns", classmethod(lambda cls: {"k": Column(Value("string"), "another k")}))
    assert validate(mixed).is_valid
    monkeypatch.setattr(RowKind, "columns", classmethod(lambda cls: {"num_words": shown["num_words"]}))
    assert validate(mixed).is_valid


def test_a_row_may_hold_several_images(tmp_path: Path) -> None:
    from datasets import load_dataset
    from toy_method import CaptionRow

    images = [make_image(number, file_format="PNG") for number in range(40)]
    by_split: dict[bool, list[bytes]] = {False: [], True: []}
    for image in images:
        by_split[is_validation_image(compute_image_id(image))].append(image)

    def make_row(*data: bytes) -> CaptionRow:
        ids = [compute_image_id(image) for image in data]
        return CaptionRow(
            id=digest(ids),
            messages=(Message("user", "What changed?"), Message("assistant", "the colour")),
            source="captions",
            image_id=",".join(ids),
            image_source="paint",
            image_license="cc0-1.0",
            read_images=tuple(partial(bytes, image) for image in data),
            num_words=2,
        )

    first, second, third = by_split[False][:3]
    rows = [make_row(first, second), make_row(third, first), make_row(*by_split[True][:2])]
    write_dataset(rows, tmp_path / "dataset", version="1.0.0", sources=("captions",))
    assert validate(tmp_path / "dataset").is_valid
    data = load_dataset(str(tmp_path / "dataset"))
    assert [len(row["images"]) for row in data["train"]] == [2, 2]
    assert [len(row["images"]) for row in data["validation"]] == [2]
    write_dataset([make_row(first, by_split[True][0])], tmp_path / "mixed", version="1.0.0", sources=("captions",))
    assert validate(tmp_path / "mixed").counts == {"images of both splits": 1}
